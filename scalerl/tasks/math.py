"""Math: the one final answer has to be equal to the reference, and worked out as far as it is.

A reference is the accepted forms of the answer, one per line. The rules are in grading/rules.py.
"""

from typing import Any

from scalerl.sandbox.sandbox import Sandbox
from scalerl.tasks.answers import Answer, find_answer
from scalerl.tasks.grading.rules import judge
from scalerl.tasks.task import Task, Verdict


class Math(Task):
    """Problems with a final answer: a number, an expression, a set, ..."""

    name = "math"
    instruction_key = "instruction"
    reference_shape = "text, number or list of them"

    def parse_reference(self, answer: Any) -> str:
        """Return the accepted forms, one per line, each without needless blanks."""
        forms = answer if isinstance(answer, list) else [answer]
        if not forms or not all(isinstance(form, str | int | float) and str(form).strip() for form in forms):
            raise ValueError(f"the answer of a math problem is {self.reference_shape}")
        return "\n".join(dict.fromkeys(" ".join(str(form).split()) for form in forms))

    def read(self, text: str) -> Answer | None:
        """Return the final answer: the last \\boxed{...}, what follows the last "####", or all there is."""
        return find_answer(text)

    def compare(self, given: Answer, reference: str) -> Verdict | None:
        """Return the verdict where it takes no algebra: numbers, words, letters of a multiple choice."""
        return judge(given, reference)

    def warm_up(self) -> None:
        """Import SymPy and build the parsers that every worker inherits."""
        self.grade(Answer("\\frac{1}{2}x", boxed=True), "0.5x", None)

    def grade(self, given: Answer, reference: str, sandbox: Sandbox | None) -> Verdict:
        """Return equal if the answer equals a form of the reference by the rules, or by algebra."""
        from scalerl.tasks.grading import algebra

        verdict = judge(given, reference, algebra.compare)
        assert verdict is not None, "with algebra every pair has a verdict"
        return verdict
