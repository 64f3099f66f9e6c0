"""Whether the held-out pass rate has stopped rising: decided once for a step, and recorded.

The trainer is a deterministic function of the spool, but evaluations end when the evaluators have time. So
what it concludes from those it finds at a step is written to evaluations/plateaus.json before it takes
effect, and a trainer that does the step again, after a crash, repeats the conclusion instead of drawing it
anew.
"""

from typing import Any

import numpy as np

from scalerl.algo.plateau import window_gain
from scalerl.common.files import read_json, write_json
from scalerl.config import RunConfig
from scalerl.paths import RunPaths


def watches_plateaus(config: RunConfig) -> bool:
    """Say whether anything follows from a plateau."""
    return config.optimizer.plateau_learning_rate_factor < 1 or config.batch.max_prompts is not None


def decide_plateau(paths: RunPaths, config: RunConfig, step: int, since: int) -> bool:
    """Say whether the run is on a plateau when step `step` ends: as recorded, or else as decided now.

    since: step of the last plateau, -1 before the first. Evaluations up to there were of another learning
    rate and batch, and say nothing of those since.
    """
    decisions: dict[str, Any] = read_json(paths.plateaus) if paths.plateaus.exists() else {}
    if str(step) not in decisions:
        decisions[str(step)] = _decide(paths, config, step, since)
        write_json(paths.plateaus, decisions)
    return bool(decisions[str(step)]["plateau"])


def _decide(paths: RunPaths, config: RunConfig, step: int, since: int) -> dict[str, Any]:
    every, optimizer = config.evaluation.every_steps, config.optimizer
    results = [paths.evaluation(f"{number:08d}") for number in range(0, step, every) if number > since]
    found = [read_json(path) for path in results if path.exists()]
    rates = np.array([result["num_correct"] for result in found]) / config.evaluation.samples_per_prompt
    gain = window_gain(rates, optimizer.plateau_window_evaluations) if found else None
    return {
        "plateau": gain is not None and gain.is_plateau(optimizer.plateau_min_gain),
        "gain": gain and gain.mean,
        "standard_error": gain and gain.standard_error,
        "evaluations": [result["step"] for result in found],
    }
