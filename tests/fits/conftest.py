"""Small sweeps to fit."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scalerl.curve.sigmoid import Sigmoid


@pytest.fixture
def write_run():
    """write_run(folder, a=.6, ...): a run folder with evaluations on a sigmoid, the first at step 0."""

    def write(folder: Path, *, a=0.6, b=2.0, c_mid=10.0, end=60.0, num_points=25, seed=0) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        compute = np.linspace(2.0, end, num_points)
        curve = Sigmoid(r0=0.3, a=a, b=b, c_mid=c_mid)
        noise = np.random.default_rng(seed).normal(0, 0.004, num_points)
        rows = [{"kind": "step", "step": 1, "reward": 0.1}]
        for i, (hours, rate) in enumerate(
            zip([0.5, *compute], [0.3, *(curve(compute) + noise)], strict=True)
        ):
            rows.append(
                {
                    "kind": "eval",
                    "step": 100 * i,
                    "policy_version": 100 * i,
                    "pass_rate": float(rate),
                    "gpu_hours": hours,
                }
                | {"tokens": i * 10**6, "flops": i * 1e15, "num_prompts": 1000, "samples_per_prompt": 16}
            )
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return folder

    return write


@pytest.fixture
def points() -> pd.DataFrame:
    """A table of two runs of one figure, the last three points of each marked as extrapolation."""
    compute = np.linspace(1000.0, 16_000.0, 24)
    tables = []
    for run, a in (("high", 0.62), ("low", 0.55)):
        noise = np.random.default_rng(len(run)).normal(0, 0.003, 24)
        rates = Sigmoid(r0=0.4, a=a, b=2.0, c_mid=2600.0)(compute) + noise
        split = ["fit"] * 21 + ["extrapolation"] * 3
        table = {
            "figure": "loss",
            "run": run,
            "split": split,
            "gpu_hours": compute,
            "pass_rate": rates,
            "r0": 0.4,
        }
        tables.append(pd.DataFrame(table))
    return pd.concat(tables, ignore_index=True)
