"""Code: the last Python block of a response is run on every unit test, in a sandbox, and all have to pass.

A reference is the JSON text of a list of tests, as scalerl/data/unit_tests.py writes it: {"input": stdin,
"output": stdout}, or {"fn_name", "arguments": [...], "accepted": [value, ...]} for a call with its accepted
results. Expected outputs never enter the sandbox; they are compared here.
"""

import json
import math
import time
from dataclasses import dataclass
from typing import Any

from scalerl.sandbox.sandbox import ProgramRun, Sandbox
from scalerl.tasks.task import Task, Verdict

PYTHON_FENCES = ("```python", "```python3", "```py")
TOLERANCE = 1e-6
"""Relative or absolute difference allowed, and only where a number with a decimal point or exponent is
expected; integers are exact."""
SPARE_OUTPUT_BYTES = 64 << 10
"""An output longer than this and 16 times what is expected is wrong without being read."""
TIME_LIMITS = 10
"""All tests of a program together may take as long as so many that each come to their limit; some problems
have hundreds of tests."""
NO_CODE, PASSED, WRONG_OUTPUT = (
    Verdict(False, "no_code"),
    Verdict(True, "passed"),
    Verdict(False, "wrong_output"),
)


class Code(Task):
    """Problems that a Python program solves."""

    name = "code"
    instruction_key = "code_instruction"
    fraction_key = "code_fraction"
    runs_programs = True
    reference_shape = "the unit tests of a prepared set"
    nothing_read = NO_CODE

    def parse_reference(self, answer: Any) -> str:
        """Return the JSON of unit tests as it is, if that is what it is."""
        try:
            tests = json.loads(answer)
        except (TypeError, ValueError):
            tests = None
        stdin, call = {"input", "output"}, {"fn_name", "arguments", "accepted"}
        if (
            not isinstance(tests, list)
            or not tests
            or not all(isinstance(t, dict) and set(t) in (stdin, call) for t in tests)
        ):
            raise ValueError(f"the answer of a code problem is {self.reference_shape}")
        return answer

    def read(self, text: str) -> "Program | None":
        """Return the last closed Python block."""
        return find_program(text)

    def grade(self, given: "Program", reference: str, sandbox: Sandbox | None) -> Verdict:
        """Run the program on every test."""
        assert sandbox is not None, "the pool was started without a sandbox"
        return grade_code(given, reference, sandbox)


@dataclass(frozen=True, slots=True)
class Program:
    """Python source found in a response."""

    source: str


def find_program(text: str) -> Program | None:
    """Return the last closed block fenced as ```python (or ```py, ```python3); None if there is none, or it
    is empty."""
    found = ""
    block: list[str] | None = None
    for line in text.split("\n"):
        fence = line.strip().lower()
        if fence in PYTHON_FENCES:
            block = []
        elif fence == "```":
            found = found if block is None else "\n".join(block)
            block = None
        elif block is not None:
            block.append(line)
    return Program(found) if found.strip() else None


def grade_code(program: Program, reference: str, sandbox: Sandbox) -> Verdict:
    """Return passed, or the verdict of the first test that did not pass.

    It is a timeout also where all tests together take too long.
    """
    deadline_s = time.monotonic() + TIME_LIMITS * sandbox.wall_s
    for test in json.loads(reference):
        if time.monotonic() > deadline_s:
            return Verdict(False, "timeout")
        verdict = _run_test(program, test, sandbox)
        if not verdict.correct:
            return verdict
    return PASSED


def _run_test(program: Program, test: dict[str, Any], sandbox: Sandbox) -> Verdict:
    if "fn_name" in test:
        run = sandbox.run(program.source, fn_name=test["fn_name"], arguments=test["arguments"])
        expected = json.dumps(test["accepted"])
    else:
        run = sandbox.run(program.source, test["input"].encode())
        expected = test["output"]
    if run.status != "done":
        return Verdict(False, run.status)
    # The output may be 16 MiB; comparing it would cost more than the program did.
    if len(run.output) > SPARE_OUTPUT_BYTES + 16 * len(expected):
        return WRONG_OUTPUT
    same = _same_result(run, test["accepted"]) if "fn_name" in test else same_text(run.output, expected)
    return PASSED if same else WRONG_OUTPUT


def same_text(output: bytes, expected: str) -> bool:
    """Say whether a program printed what is expected.

    That is as many lines (empty ones at the end do not count), in each the same words, and where a number
    with a decimal point or exponent is expected, one within TOLERANCE.
    """
    try:
        text = output.decode()
    except UnicodeDecodeError:
        return False
    lines, wanted = ([line.split() for line in whole.rstrip().split("\n")] for whole in (text, expected))
    return len(lines) == len(wanted) and all(map(_same_words, lines, wanted))


def _same_words(words: list[str], expected: list[str]) -> bool:
    return len(words) == len(expected) and all(map(_same_word, words, expected))


def _same_word(word: str, expected: str) -> bool:
    if word == expected:
        return True
    # Integers are exact: as floats, large ones would equal their neighbours.
    if expected.lstrip("+-").isdigit():
        return False
    try:
        return _close(float(word), float(expected))
    except ValueError:
        return False


def _same_result(run: ProgramRun, accepted: list[Any]) -> bool:
    """Say whether the JSON that a call left is an accepted value; it may be anything."""
    try:
        value = json.loads(run.output)
        return any(same_value(value, expected) for expected in accepted)
    except (ValueError, OverflowError, RecursionError, MemoryError):
        return False


def same_value(value: Any, expected: Any) -> bool:
    """Say whether JSON values are equal: expected floats within TOLERANCE; 2.0 is 2, but 1 is not true."""
    numbers = isinstance(expected, int | float) and isinstance(value, int | float)
    if numbers and not isinstance(expected, bool) and not isinstance(value, bool):
        return _close(value, expected) if isinstance(expected, float) else value == expected
    if type(value) is not type(expected):
        return False
    if isinstance(expected, list):
        return len(value) == len(expected) and all(map(same_value, value, expected))
    if isinstance(expected, dict):
        return value.keys() == expected.keys() and all(
            same_value(value[key], expected[key]) for key in expected
        )
    return bool(value == expected)


def _close(value: float, expected: float) -> bool:
    return math.isclose(value, expected, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
