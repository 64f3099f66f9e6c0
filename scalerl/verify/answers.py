"""Where the final answer stands in a response, and the verdicts that need no algebra. Light: imports no
SymPy."""

import re
from dataclasses import dataclass
from typing import Literal

Reason = Literal[
    "equal", "different", "no_answer", "timeout", "crashed", "passed", "wrong_output", "no_code", "memory"
]

MAX_ANSWER_CHARACTERS = 10_000
"""A longer \\boxed{...} is no answer; of a text without one, only the last this many characters are
searched."""
BOXED = "\\boxed{"
PLAIN_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the verifier makes of one response."""

    correct: bool
    reason: Reason
    """equal or different: compared; no_answer: thinking never ended, or nothing follows it; timeout, crashed:
    grading it took too long or killed the grading process.

    Code: passed: all tests, no_answer: thinking never ended, no_code: no closed Python block; else how the
    first test failed: wrong_output, timeout, memory (ran into its limit), crashed (an exception, a forbidden
    call or an exit code other than 0)."""


NO_ANSWER, NO_CODE = Verdict(False, "no_answer"), Verdict(False, "no_code")


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer found in a final text."""

    text: str
    boxed: bool
    """It was the content of a \\boxed{...}, so it is LaTeX and nothing but the answer."""


def final_text(response: str, think_end: str) -> str | None:
    """What follows the last `think_end`; None if it does not occur. An empty `think_end` means there is no
    thinking part."""
    if not think_end:
        return response
    _, found, text = response.rpartition(think_end)
    return text if found else None


def find_answer(text: str) -> Answer | None:
    """The last \\boxed{...}, else the line after the last "####", else the end of the text; None where that
    is empty."""
    content = _last_boxed(text)
    if content is not None:
        return Answer(content, boxed=True) if content else None
    plain = text.rpartition("####")[2].lstrip().partition("\n")[0] if "####" in text else text
    plain = plain[-MAX_ANSWER_CHARACTERS:].strip()
    return Answer(plain, boxed=False) if plain else None


def quick_grade(answer: Answer, reference: str) -> Verdict | None:
    """The verdict where the texts are the same or all plain integers (025 equals 25); None where algebra is
    needed."""
    forms = reference.split("\n")
    if answer.text in forms:
        return Verdict(True, "equal")
    if all(PLAIN_INTEGER.fullmatch(text) for text in [answer.text, *forms]):
        equal = int(answer.text) in map(int, forms)
        return Verdict(equal, "equal" if equal else "different")
    return None


def _last_boxed(text: str) -> str | None:
    """Content of the last \\boxed{...}; None if there is none, or its brace is not closed within the
    limit."""
    begin = text.rfind(BOXED)
    if begin < 0:
        return None
    begin += len(BOXED)
    depth = 1
    for brace in re.finditer(r"\\.|[{}]", text[begin : begin + MAX_ANSWER_CHARACTERS], re.DOTALL):
        depth += {"{": 1, "}": -1}.get(brace.group(), 0)
        if depth == 0:
            return text[begin : begin + brace.start()].strip()
    return None
