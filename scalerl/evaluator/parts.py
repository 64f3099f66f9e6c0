"""The parts of an evaluation: evaluator i of n samples the prompts i, i + n, i + 2n, ...

It leaves its tallies in a file. A part counts for the policy it names, whichever attempt wrote it: an
evaluation that was cut short keeps the parts that are done.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from scalerl.common.files import read_json, write_json
from scalerl.evaluator.summary import PromptTally
from scalerl.fence import check_attempt
from scalerl.paths import RunPaths
from scalerl.spool.evaluations import EvaluationRequest, pending_evaluations

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Part:
    """evaluations/<key>.part-<i>-of-<n>.json: the share of one evaluator in one evaluation."""

    name: str
    """Name of the policy's folder in weights/, with the hash of its content."""
    evaluation_s: float
    """Seconds it took."""
    tallies: list[PromptTally]
    """Tallies of every n-th prompt, in their order."""


def interleave(shares: Sequence[Sequence[T]]) -> list[T]:
    """Return what n shares hold in the order of the whole: share i holds number i, i + n, i + 2n, ..."""
    by_position = {
        index + number * len(shares): item
        for index, share in enumerate(shares)
        for number, item in enumerate(share)
    }
    return [by_position[position] for position in range(len(by_position))]


class Parts:
    """The parts in evaluations/ as one of the evaluators sees them."""

    def __init__(self, paths: RunPaths, *, index: int, num: int, attempt: int) -> None:
        """Be evaluator `index` of `num`."""
        self.paths, self.index, self.num, self.attempt = paths, index, num, attempt
        self._waiting_for = ""

    def next_request(self) -> EvaluationRequest | None:
        """Return the oldest request that lacks this evaluator's part, or None."""
        pending = pending_evaluations(self.paths)
        lacking = [request for request in pending if self._read(request, self.index) is None]
        # Listed again: a part is deleted once its request is answered, and would then seem to be lacking.
        pending = pending_evaluations(self.paths)
        return next((request for request in lacking if request in pending), None)

    def write(self, request: EvaluationRequest, tallies: list[PromptTally], evaluation_s: float) -> None:
        """Store this evaluator's part.

        Raises:
            StaleAttempt: a newer attempt owns the run folder.
        """
        # The number of evaluators is in the file's name: continued with another number, the run shares
        # prompts out differently, and the old parts must not be taken for new ones.
        part = Part(name=request.name, evaluation_s=evaluation_s, tallies=tallies)
        check_attempt(self.paths, self.attempt)
        write_json(self.paths.evaluation_part(request.key, self.index, self.num), asdict(part))

    def collect(self, request: EvaluationRequest) -> list[Part] | None:
        """Return the parts of all evaluators; None while some are missing, which the log names once."""
        parts = {index: self._read(request, index) for index in range(self.num)}
        whole = [part for part in parts.values() if part is not None]
        if len(whole) == self.num:
            return whole
        if parts[self.index] is not None and self._waiting_for != request.name:
            self._waiting_for = request.name
            missing = ", ".join(f"evaluator-{index}" for index, part in parts.items() if part is None)
            print(f"evaluator-{self.index}: {request} waits for the parts of {missing}")
        return None

    def delete_answered(self) -> None:
        """Delete the parts, of however many evaluators, that no request waits for."""
        keys = {request.key for request in pending_evaluations(self.paths)}
        for path, key in self.paths.evaluation_parts().items():
            if key not in keys:
                path.unlink()

    def _read(self, request: EvaluationRequest, index: int) -> Part | None:
        """Return an evaluator's part, or None if it is not there or of a policy of a lost timeline."""
        try:
            values: dict[str, Any] = read_json(self.paths.evaluation_part(request.key, index, self.num))
        except FileNotFoundError:
            return None
        tallies = [PromptTally(**tally) for tally in values.pop("tallies")]
        return Part(tallies=tallies, **values) if values["name"] == request.name else None
