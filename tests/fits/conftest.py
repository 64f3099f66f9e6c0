"""Small sweeps to fit."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from factories import sigmoid_rows

from scalerl.curve.sigmoid import Sigmoid
from scalerl.metrics.rows import EvalRow, StepRow, format_rows


@pytest.fixture
def write_run():
    """write_run(folder, a=.6, ...): a run folder with evaluations on a sigmoid, the first at step 0."""

    def write(folder: Path, *, a=0.6, b=2.0, c_mid=10.0, end=60.0, num_points=25, seed=0) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        rows: list[StepRow | EvalRow] = [StepRow(step=1, reward=0.1)]
        rows += sigmoid_rows(np.linspace(2.0, end, num_points), a=a, b=b, c_mid=c_mid, seed=seed)
        (folder / "metrics.jsonl").write_text(format_rows(rows))
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
