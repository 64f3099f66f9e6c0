"""Evaluation requests: the trainer asks for the pass rate of a policy; a request is open until it is
answered.

evaluations/<step>.request.json          an open request: `EvaluationRequest`
            <step>.part-<i>-of-<n>.json  what evaluator i of n found out: `scalerl.evaluator.parts.Part`
            <step>.json                  the answer: `scalerl.evaluator.finish.evaluation_result`
            <step>-test.*                the same of the best policy on the test set (see best.py)
            plateaus.json                what the trainer concluded from the answers (see plateau.py)
"""

from contextlib import suppress
from dataclasses import asdict, dataclass

from scalerl.common.files import read_json, write_json
from scalerl.paths import RunPaths


@dataclass(frozen=True, kw_only=True)
class EvaluationRequest:
    """One policy to evaluate, with the compute spent up to its publication."""

    step: int
    """Optimizer step the evaluation belongs to."""
    policy_version: int
    """Optimizer steps the policy has seen; equal to `step`."""
    name: str
    """Name of its folder in weights/; the folder stays while the request is open."""
    sha256: str
    """Hash of its weights (`weights.hash_weights`)."""
    epoch: float
    """Groups trained per training prompt."""
    generated_tokens: int
    """Completion tokens of all groups taken so far."""
    trained_tokens: int
    """Those of them that had a loss."""
    flops: float
    """FLOPs of generation and training so far."""
    published_s: float
    """Unix time of publication, in seconds: the evaluation counts at this moment of the run."""
    test_set: str = ""
    """Test set that it is on; empty: on the held-out prompts."""

    @property
    def key(self) -> str:
        """Return what the names of its files begin with."""
        return f"{self.step:08d}-test" if self.test_set else f"{self.step:08d}"

    def __str__(self) -> str:
        """Return what is evaluated, in a few words."""
        return f"the test of step {self.step}" if self.test_set else f"step {self.step}"


def request_evaluation(paths: RunPaths, request: EvaluationRequest) -> None:
    """Ask for the pass rate of a policy, unless this very policy has been evaluated already."""
    result = paths.evaluation(request.key)
    if result.exists() and read_json(result)["name"] == request.name:
        return
    write_json(paths.evaluation_request(request.key), asdict(request))


def pending_evaluations(paths: RunPaths) -> list[EvaluationRequest]:
    """Return the requests not answered yet, oldest step first."""
    requests = []
    for path in paths.evaluation_requests():
        with suppress(FileNotFoundError):  # answered since it was listed
            requests.append(EvaluationRequest(**read_json(path)))
    return requests


def answer_evaluation(paths: RunPaths, request: EvaluationRequest, result: dict) -> None:
    """Store evaluations/<step>.json (`result` must hold the request's `name`) and close the request."""
    assert result["name"] == request.name
    write_json(paths.evaluation(request.key), result)
    # A replay may have asked for other weights of the same step meanwhile: that request stays open.
    if request in pending_evaluations(paths):
        paths.evaluation_request(request.key).unlink()
