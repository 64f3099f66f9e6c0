"""Keep the weights with the best held-out pass rate in best/, which stays when weights/ is cleaned up."""

import os
import shutil
from pathlib import Path
from typing import Any

from scalerl.common.files import publish_folder, read_json, temporary_name, write_json
from scalerl.paths import RunPaths
from scalerl.spool.weights import link_folder


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
    # A folder cannot be renamed over another. A crash between the two renames leaves no best/; the evaluation
    # is still open then, and is finished again after a restart.
    replaced = temporary_name(paths.best)
    if paths.best.exists():
        os.rename(paths.best, replaced)
    publish_folder(temporary, paths.best)
    shutil.rmtree(replaced, ignore_errors=True)
    return True
