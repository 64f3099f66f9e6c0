"""best/: the weights with the best held-out pass rate, and what they reach on the test set.

A maximum over many evaluations is too high, so the policy that held-out prompts have chosen is measured once
more at the end of the run, on questions that nothing was chosen by. best/ stays when weights/ is cleaned up.
"""

import os
import shutil
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from scalerl.common.files import publish_folder, read_json, temporary_name, write_json
from scalerl.common.json_record import JsonRecord
from scalerl.paths import RunPaths
from scalerl.spool.evaluations import EvaluationRequest, pending_evaluations
from scalerl.spool.weights import link_folder


@dataclass(frozen=True, kw_only=True)
class FinalTest(JsonRecord):
    """best/test.json: the policy that held-out prompts have chosen, on questions that nothing was chosen by.

    `extra` holds the other fields of an evaluation's row, such as pass_at_k.
    """

    step: int
    """Optimizer steps that the policy has seen."""
    pass_rate: float
    """mean@k on the test set, k being samples_per_prompt."""
    standard_error: float | None = None
    """Standard error of `pass_rate` over prompts; None for a single prompt."""
    num_prompts: int
    samples_per_prompt: int
    heldout_pass_rate: float
    """mean@k on the held-out prompts, by which the policy was chosen."""
    test_set: str
    """The file of the test set, data.test."""

    def __str__(self) -> str:
        """Return the test in a few words."""
        error = "" if self.standard_error is None else f" ± {self.standard_error:.3f}"
        return (
            f"best policy (step {self.step}): test {self.pass_rate:.3f}{error} ({self.num_prompts} prompts), "
            f"held-out {self.heldout_pass_rate:.3f}"
        )


def keep_if_best(paths: RunPaths, folder: Path, evaluation: dict[str, Any]) -> bool:
    """Make best/ the policy in `folder` if its pass rate beats the one there; say whether it did.

    evaluation: content of evaluations/<step>.json; it goes to best/evaluation.json.
    """
    # Left by an evaluator that was killed between the lines below.
    for leftover in paths.root.glob(f".{paths.best.name}.*"):
        shutil.rmtree(leftover)
    current = paths.best_evaluation
    if current.exists() and read_json(current)["pass_rate"] >= evaluation["pass_rate"]:
        return False
    temporary = temporary_name(paths.best)
    link_folder(folder, temporary)
    write_json(temporary / paths.best_evaluation.name, evaluation)
    shutil.copyfile(paths.config, temporary / paths.best_run_config.name)
    # A folder cannot be renamed over another. A crash between the two renames leaves no best/; the evaluation
    # is still open then, and is finished again after a restart.
    replaced = temporary_name(paths.best)
    if paths.best.exists():
        os.rename(paths.best, replaced)
    publish_folder(temporary, paths.best)
    shutil.rmtree(replaced, ignore_errors=True)
    return True


def lacks_test(paths: RunPaths, test_set: str) -> bool:
    """Say whether there is a best policy that was not tested on `test_set`; False if that is empty."""
    if not test_set or not paths.best_evaluation.exists():
        return False
    tested = read_test(paths)
    return tested is None or tested.test_set != test_set


def request_test(paths: RunPaths, test_set: str) -> None:
    """Ask for the pass rate of the best policy on `test_set`.

    No evaluation may be open or still to come: best/ has to stay what it is.
    """
    chosen = read_json(paths.best_evaluation)
    folder = paths.weights / chosen["name"]
    # Evaluators read weights/, and stay with what a request names; the best policy may have left that folder.
    if not folder.exists():
        temporary = temporary_name(folder)
        link_folder(paths.best, temporary)
        for record in (paths.best_evaluation, paths.best_run_config, paths.best_test):
            (temporary / record.name).unlink(missing_ok=True)
        publish_folder(temporary, folder)
    asked = {entry.name: chosen[entry.name] for entry in fields(EvaluationRequest) if entry.name in chosen}
    request = EvaluationRequest(**asked | {"published_s": time.time(), "test_set": test_set})
    write_json(paths.evaluation_request(request.key), asdict(request))


def withdraw_test(paths: RunPaths) -> None:
    """Close the request for a test that an earlier attempt did not get answered: best/ may change now."""
    for request in pending_evaluations(paths):
        if request.test_set:
            paths.evaluation_request(request.key).unlink()


def record_test(paths: RunPaths, result: dict[str, Any]) -> None:
    """Write best/test.json; result: content of evaluations/<step>-test.json."""
    chosen = read_json(paths.best_evaluation)
    assert chosen["name"] == result["name"], "nothing replaces the best policy while it is tested"
    values = {name: value for name, value in result.items() if name not in ("prompt_ids", "num_correct")}
    write_json(paths.best_test, values | {"heldout_pass_rate": chosen["pass_rate"]})


def read_test(paths: RunPaths) -> FinalTest | None:
    """Read best/test.json; None if the best policy was not tested.

    Raises:
        ValueError: the file is not JSON, or lacks a field.
    """
    try:
        return FinalTest.from_json(read_json(paths.best_test), str(paths.best_test))
    except FileNotFoundError:
        return None
