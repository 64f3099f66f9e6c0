"""Evaluation requests: the trainer asks for the pass rate of a policy, and a request stays open until it is answered."""

from contextlib import suppress
from dataclasses import asdict, dataclass

from scalerl.files import read_json, write_json
from scalerl.paths import RunPaths


@dataclass(frozen=True, kw_only=True)
class EvaluationRequest:
    """evaluations/<step>.request.json: one policy to evaluate, with the compute spent up to its publication.

    epoch: groups trained per training prompt. tokens: completion tokens trained on, cumulative. flops: of generation and training,
    cumulative. published_s: unix time.
    """

    step: int
    policy_version: int
    name: str
    sha256: str
    epoch: float
    tokens: int
    flops: float
    published_s: float


def request_evaluation(paths: RunPaths, request: EvaluationRequest) -> None:
    """Ask the evaluator for the pass rate of a policy, unless this very policy has been evaluated already."""
    result = paths.evaluations / f"{request.step:08d}.json"
    if result.exists() and read_json(result)["name"] == request.name:
        return
    write_json(paths.evaluations / f"{request.step:08d}.request.json", asdict(request))


def pending_evaluations(paths: RunPaths) -> list[EvaluationRequest]:
    """The requests not answered yet, oldest step first."""
    requests = []
    for path in sorted(paths.evaluations.glob("[0-9]*.request.json")):
        with suppress(FileNotFoundError):  # answered since it was listed
            requests.append(EvaluationRequest(**read_json(path)))
    return requests


def answer_evaluation(paths: RunPaths, request: EvaluationRequest, result: dict) -> None:
    """Store evaluations/<step>.json (`result` must hold the request's `name`) and close the request."""
    assert result["name"] == request.name
    write_json(paths.evaluations / f"{request.step:08d}.json", result)
    if request in pending_evaluations(
        paths
    ):  # a replay may have asked for other weights of the same step meanwhile
        (paths.evaluations / f"{request.step:08d}.request.json").unlink()
