"""Finish an evaluation, in evaluator 0: parts -> one metrics row, best/, evaluations/<step>.json.

A request stays open, and its parts stay, until everything that follows from them is on disk: a crash at any
point only repeats work.
"""

from collections.abc import Sequence
from typing import Any

from scalerl.evaluator.parts import Part, Parts, interleave
from scalerl.evaluator.summary import summarise
from scalerl.fence import check_attempt
from scalerl.metrics.rows import EvalRow, post_row
from scalerl.paths import RunPaths
from scalerl.spool.best import keep_if_best, record_test
from scalerl.spool.evaluations import EvaluationRequest, answer_evaluation, pending_evaluations

NOT_IN_ROW = ("name", "sha256", "test_set", "prompt_ids", "num_correct")
"""Fields of evaluations/<step>.json that the metrics row leaves out."""


def finish_oldest(parts: Parts) -> None:
    """Answer the oldest request if every evaluator has done its part; evaluator 0 alone does so.

    Raises:
        StaleAttempt: a newer attempt owns the run folder.
    """
    if parts.index > 0:
        return
    # Oldest first: rows then come in the order of their steps, and best/ sees every policy once.
    for request in pending_evaluations(parts.paths)[:1]:
        whole = parts.collect(request)
        if whole is not None:
            check_attempt(parts.paths, parts.attempt)
            _answer(parts.paths, parts.attempt, request, evaluation_result(request, whole))
            parts.delete_answered()


def evaluation_result(request: EvaluationRequest, parts: Sequence[Part]) -> dict[str, Any]:
    """Return the content of evaluations/<step>.json, as one evaluator of all prompts would have found it.

    These are the fields of the metrics row (`metrics.rows.EvalRow`), evaluation_s that of the slowest
    evaluator, and
    name, sha256  folder of the policy in weights/, hash of its weights
    test_set      file of the test set; empty: on held-out prompts
    prompt_ids    [prompts], in the order of their file
    num_correct   [prompts], correct completions of each
    """
    tallies = interleave([part.tallies for part in parts])
    return {
        "step": request.step,
        "policy_version": request.policy_version,
        **summarise(tallies),
        "epoch": request.epoch,
        "generated_tokens": request.generated_tokens,
        "trained_tokens": request.trained_tokens,
        "flops": request.flops,
        "evaluation_s": max(part.evaluation_s for part in parts),
        "name": request.name,
        "sha256": request.sha256,
        "test_set": request.test_set,
        "prompt_ids": [tally.prompt_id for tally in tallies],
        "num_correct": [tally.num_correct for tally in tallies],
    }


def _answer(paths: RunPaths, attempt: int, request: EvaluationRequest, result: dict[str, Any]) -> None:
    """Do all that follows from an evaluation; the request is closed last."""
    # Each of these may be done twice: a row replaces the one of its step, best/ only changes for a better
    # policy. Once the request is closed nothing would do them again, so that comes after them.
    best = False
    if request.test_set:
        record_test(paths, result)
    else:
        best = _take_heldout(paths, attempt, request, result)
    answer_evaluation(paths, request, result)
    print(f"evaluator-0: {request}, pass rate {result['pass_rate']:.4f}{' (best so far)' if best else ''}")


def _take_heldout(paths: RunPaths, attempt: int, request: EvaluationRequest, result: dict[str, Any]) -> bool:
    """Post the row of an evaluation, and say whether its policy is the best so far; best/ is that then."""
    values = {name: value for name, value in result.items() if name not in NOT_IN_ROW}
    head = {"time_s": request.published_s, "attempt": attempt}
    post_row(paths, EvalRow.from_json(head | values, f"the evaluation of step {request.step}"))
    return keep_if_best(paths, paths.weights / request.name, result)
