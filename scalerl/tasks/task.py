"""The questions that a task answers, and the verdict it gives on a response."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from scalerl.sandbox.sandbox import Sandbox

Reason = Literal[
    "equal",
    "different",
    "several_answers",
    "unevaluated",
    "inexact",
    "other_text",
    "other_unit",
    "no_answer",
    "timeout",
    "crashed",
    "passed",
    "wrong_output",
    "no_code",
    "memory",
]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the verifier makes of one response."""

    correct: bool
    reason: Reason
    """Answers: equal or different: compared; several_answers: not one final answer; unevaluated: it is equal,
    but leaves to be worked out what the reference does not; inexact: near an exact reference; other_text,
    other_unit: other words or letters, the same number of something else; no_answer: thinking never ended, or
    nothing follows it; timeout, crashed: grading took too long, or killed the grading process.

    Programs: passed: all tests; no_answer: thinking never ended; no_code: no closed Python block; else how
    the first test failed: wrong_output, timeout, memory (ran into its limit), crashed (an exception, a
    forbidden call or an exit code other than 0)."""


NO_ANSWER = Verdict(False, "no_answer")
EQUAL, DIFFERENT = Verdict(True, "equal"), Verdict(False, "different")


class Task(ABC):
    """One kind of problem, from the instruction in its prompt to the verdict on a response.

    `read` and `compare` run in the process that samples, so they are quick whatever a response holds. `load`
    and `grade` run in a worker of the verifier pool, which stops `grade` at limits of CPU time and memory: a
    task imports its libraries inside of these, not at the top of its file.
    """

    name: ClassVar[str]
    """What the task column of a prepared set and pass_rate_<name> of a metrics row call it."""
    instruction: ClassVar[str] = ""
    """Text after every problem; unused where there is an instruction_key."""
    instruction_key: ClassVar[str | None] = None
    """The key data.<instruction_key> of the config whose text follows every problem."""
    fraction_key: ClassVar[str | None] = None
    """The key data.<fraction_key> of the config that sets its share of the prompts trained on."""
    runs_programs: ClassVar[bool] = False
    """The pool needs a sandbox, which keeps the limits of time and memory in place of the worker."""
    load_s: ClassVar[float] = 0.0
    """The wall time that `load` may take."""
    reference_shape: ClassVar[str]
    """What `parse_reference` accepts, in words."""
    nothing_read: ClassVar[Verdict] = NO_ANSWER
    """The verdict on a response in which `read` finds nothing."""

    def check_installed(self) -> None:  # noqa: B027 - most tasks need nothing beyond scalerl itself
        """Check that what grading needs is installed.

        Raises:
            ValueError: it is not, with the command that installs it.
        """

    @abstractmethod
    def parse_reference(self, answer: Any) -> str:
        """Return the reference that `grade` takes, from the answer of a row that a user wrote.

        Raises:
            ValueError: the answer has another shape than `reference_shape`.
        """

    @abstractmethod
    def read(self, text: str) -> Any | None:
        """Return what is to be graded in the text after the thinking part; None if nothing is there.

        It is pickled on its way to the worker.
        """

    def compare(self, given: Any, reference: str) -> Verdict | None:
        """Return the verdict where it is plain at sight; None where `grade` is needed."""
        return None

    def warm_up(self) -> None:  # noqa: B027 - a task that needs no library has nothing to warm up
        """Import the libraries of `grade`, once, in the process that all workers are forked from."""

    def load(self, reference: str) -> None:  # noqa: B027 - most references need nothing
        """Read what grading against a reference needs, before the time of `grade` begins."""

    @abstractmethod
    def grade(self, given: Any, reference: str, sandbox: Sandbox | None) -> Verdict:
        """Return the verdict on what `read` found. `sandbox` is there if the task `runs_programs`.

        Whatever it raises is a crash, an incorrect answer; where the task `runs_programs`, an error of the
        sandbox (RuntimeError, OSError) instead says nothing about the program, and reaches the caller.
        """
