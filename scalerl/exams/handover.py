"""What the exams of trainer and generator hand each other: the base model as it is published, and sequences.

The generator of a run never reads the base model: it serves what the trainer has exported. So does its exam.
"""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from scalerl.common.files import publish_folder, temporary_name
from scalerl.config import RunConfig
from scalerl.paths import RunPaths
from scalerl.preflight.exam import GENERATOR_PATHS, ScoredSequence, sequences_to_score

if TYPE_CHECKING:
    from scalerl.trainer.engine import TrainingEngine

POLL_S = 0.1


def publish_base(config: RunConfig, paths: RunPaths, engine: "TrainingEngine", attempt: int) -> None:
    """Write the trainer's model to preflight/policy, as the run publishes policies. All ranks call it."""
    from scalerl.trainer.publisher import Publisher  # DeepSpeed takes the generator's exam seconds to import

    publisher = Publisher(paths, engine, config.model.path, attempt)
    if engine.rank > 0:
        return publisher.write_model(None)
    temporary = temporary_name(paths.examined_policy)
    temporary.mkdir(parents=True)
    try:
        publisher.write_model(temporary)
        publish_folder(temporary, paths.examined_policy)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def wait_for_policy(config: RunConfig, paths: RunPaths) -> Path:
    """Return the folder that `publish_base` makes, once it is there.

    Raises:
        TimeoutError: it was not within launch.wait_for_weights_s.
    """
    limit_s = config.launch.wait_for_weights_s
    _wait(paths.examined_policy.exists, limit_s, "the trainer's exam has published no policy")
    return paths.examined_policy


def wait_for_sequences(config: RunConfig, paths: RunPaths) -> list[ScoredSequence]:
    """Return the sequences of the generator's exam, shortest first, once they are there.

    Raises:
        TimeoutError: they were not within launch.wait_for_rollouts_s.
    """
    limit_s = config.launch.wait_for_rollouts_s
    last = paths.exam(GENERATOR_PATHS[-1])
    _wait(last.exists, limit_s, "the generator's exam has made no sequences")
    return sequences_to_score(paths)


def _wait(condition: Callable[[], bool], limit_s: float, what: str) -> None:
    end_s = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > end_s:
            raise TimeoutError(f"{what} within {limit_s:.0f} s")
        time.sleep(POLL_S)
