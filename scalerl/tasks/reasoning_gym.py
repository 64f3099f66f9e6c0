"""reasoning_gym: puzzles of the package of that name, graded by the data set that each comes from.

A reference is JSON: {"dataset": its name, "arguments": those of its config, "entry": {"question", "answer",
"metadata"} as the data set made it}. JSON has neither tuples nor keys that are no texts; `pack` marks them.
"""

import importlib.util
import json
import sys
import warnings
from collections.abc import Callable
from functools import cache
from types import CodeType
from typing import Any

from scalerl.sandbox.sandbox import Sandbox
from scalerl.tasks.answers import MAX_ANSWER_CHARACTERS, find_answer
from scalerl.tasks.task import DIFFERENT, EQUAL, Task, Verdict

OPEN_TAG, CLOSE_TAG = "<answer>", "</answer>"
TUPLE, ITEMS = "__tuple__", "__items__"
WARMED_UP = ("simple_integration", "polynomial_multiplication", "countdown")
"""Data sets whose first grading imports parts of SymPy."""
NAMES_OF_PARSER = "Symbol Integer Float Rational Function factorial factorial2 sympy"
NAMES_OF_FORMULAS = (
    "pi E I sqrt exp log ln Abs abs erf sin cos tan sec csc cot asin acos atan "
    "sinh cosh tanh asinh acosh atanh"
)
NAMES_IN_ANSWERS = frozenset(f"{NAMES_OF_PARSER} {NAMES_OF_FORMULAS}".split())
"""What a formula in an answer may name besides variables, and what SymPy's parser makes of it. Integral is
not among these: an integral left as it stands is always an antiderivative."""


class ReasoningGym(Task):
    """Puzzles that a data set of reasoning_gym makes, and scores itself."""

    name = "reasoning_gym"
    instruction = (
        f"Give your final answer between {OPEN_TAG} and {CLOSE_TAG}: exactly what is asked for, in the "
        "format that is asked for, and nothing else."
    )
    reference_shape = "the JSON of a prepared set: dataset, arguments and entry"
    load_s = 30.0

    def check_installed(self) -> None:
        """Refuse where the package is missing.

        Raises:
            ValueError: it is, with the command that installs it.
        """
        if importlib.util.find_spec("reasoning_gym") is None:
            raise ValueError(
                "the task reasoning_gym needs the package reasoning-gym: run `make setup`, or "
                "`pip install 'scalerl[tasks]'`"
            )

    def parse_reference(self, answer: Any) -> str:
        """Return the JSON as it is, if it has the keys that grading needs."""
        try:
            reference = json.loads(answer)
        except (TypeError, ValueError):
            reference = None
        if not isinstance(reference, dict) or set(reference) != {"dataset", "arguments", "entry"}:
            raise ValueError(f"the answer of a reasoning_gym problem is {self.reference_shape}")
        return answer

    def read(self, text: str) -> str | None:
        """Return what stands between the last <answer> and </answer>, else what `find_answer` finds."""
        # From the end, not by a pattern: one that has to match the first tag takes quadratic time.
        end = text.rfind(CLOSE_TAG)
        begin = text.rfind(OPEN_TAG, 0, end) if end >= 0 else -1
        if begin < 0:
            answer = find_answer(text)
            return answer.text if answer else None
        content = text[begin + len(OPEN_TAG) : end].strip()
        return content if 0 < len(content) <= MAX_ANSWER_CHARACTERS else None

    def warm_up(self) -> None:
        """Import the package and SymPy, and forbid that grading runs what an answer says."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a library of the package has errors of syntax that Python mends
            for dataset in WARMED_UP:
                entry = make_dataset(dataset, {}, seed=0, size=1)[0]
                find_scorer(dataset, "{}")(entry["answer"], entry)
        if not _GUARD.installed:
            sys.addaudithook(_GUARD)
            _GUARD.installed = True

    def load(self, reference: str) -> None:
        """Make the data set of a reference: some read megabytes of words or boards."""
        _read_reference(reference)

    def grade(self, given: str, reference: str, sandbox: Sandbox | None) -> Verdict:
        """Return equal where the data set gives the full score of 1.

        Less is credit for a part of the answer or for its form (.01 for a mere attempt), not for a right one.
        """
        # Without the guard the answer could run as a program: rather no verdict than that.
        assert _GUARD.installed, "answers are graded after warm_up"
        scorer, entry = _read_reference(reference)
        _GUARD.grading = True
        try:
            return EQUAL if scorer(given, entry) == 1 else DIFFERENT
        finally:
            _GUARD.grading = False


def make_reference(dataset: str, arguments: dict[str, Any], entry: dict[str, Any]) -> str:
    """Return the reference of an entry that a data set made.

    Raises:
        TypeError: the entry holds what JSON cannot.
    """
    reference = {"dataset": dataset, "arguments": arguments, "entry": pack(entry)}
    return json.dumps(reference, sort_keys=True)


def make_dataset(dataset: str, arguments: dict[str, Any], *, seed: int, size: int) -> Any:
    """Return a data set of the package: `size` entries, each a dict of question, answer and metadata."""
    from reasoning_gym.factory import create_dataset

    return create_dataset(dataset, seed=seed, size=size, **arguments)


@cache
def find_scorer(dataset: str, arguments: str) -> Callable[[str, dict[str, Any]], float]:
    """Return `score_answer` of a data set with these arguments, a JSON object."""
    return make_dataset(dataset, json.loads(arguments), seed=0, size=1).score_answer


def pack(value: Any) -> Any:
    """Return a value as JSON holds it, tuples and keys that are no texts marked."""
    if isinstance(value, tuple):
        return {TUPLE: [pack(item) for item in value]}
    if isinstance(value, list):
        return [pack(item) for item in value]
    if isinstance(value, dict):
        # A dict that happens to have a marker as its key goes the long way, too.
        if all(isinstance(key, str) and key not in (TUPLE, ITEMS) for key in value):
            return {key: pack(item) for key, item in value.items()}
        return {ITEMS: [[pack(key), pack(item)] for key, item in value.items()]}
    return value


def unpack(value: Any) -> Any:
    """Return the value that `pack` was given."""
    if isinstance(value, list):
        return [unpack(item) for item in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {TUPLE}:
        return tuple(unpack(item) for item in value[TUPLE])
    if set(value) == {ITEMS}:
        return {unpack(key): unpack(item) for key, item in value[ITEMS]}
    return {key: unpack(item) for key, item in value.items()}


def _read_reference(text: str) -> tuple[Callable[[str, dict[str, Any]], float], dict[str, Any]]:
    reference = json.loads(text)
    scorer = find_scorer(reference["dataset"], json.dumps(reference["arguments"], sort_keys=True))
    return scorer, unpack(reference["entry"])


class _Guard:
    """An audit hook that refuses text that is run as Python, unless it is a literal or a formula.

    Several data sets call `eval` or SymPy's parser, which calls it, on the answer: a model would soon find
    out that an answer can return the reference, or worse. The hook sees every such call, wherever in a
    library, and nothing that runs before its verdict can remove it.
    """

    installed = False
    grading = False

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event != "exec" or not self.grading or not isinstance(code := arguments[0], CodeType):
            return
        # Modules that a library imports late have a file; dataclasses and named tuples in them write code.
        writer = sys._getframe(1).f_globals.get("__name__")
        if code.co_filename.startswith(("/", "<frozen")) or writer in ("dataclasses", "collections"):
            return
        nested = any(isinstance(constant, CodeType) for constant in code.co_consts)
        variables = {name for name in code.co_names if len(name) == 1}
        if nested or not NAMES_IN_ANSWERS.issuperset(set(code.co_names) - variables):
            raise ValueError("an answer is a literal or a formula, this one is a program")


_GUARD = _Guard()
