"""The points of one run: what a curve is fitted to, checked row by row."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from scalerl.curve.sigmoid import BoolArray, FloatArray
from scalerl.curve.window import DEFAULT_SAMPLES, MIN_FIT_POINTS, Window

SPLITS = ("fit", "extrapolation")
MAX_COUNT = 1e9
"""The most prompts, or samples a prompt, that make sense."""
Where = Callable[[int], str]
"""Names a row by its index, for messages."""


@dataclass(frozen=True, kw_only=True)
class RunPoints:
    """One run's evaluations after the first: arrays [points], compute ascending."""

    figure: str
    """Axis of a sweep or figure of a paper that the run belongs to; empty for none."""
    run: str
    seed: str
    compute: FloatArray
    pass_rate: FloatArray
    fitted: BoolArray
    """False for points that are predicted and scored, never fitted."""
    num_samples: FloatArray
    epoch: FloatArray | None
    """Passes over the prompts so far, where the input has such a column; NaN where it holds no number."""
    r0: float
    folder: Path | None
    """The run folder, where there is one."""

    @property
    def key(self) -> str:
        """Return the run's name within one input, FIGURE/RUN#SEED."""
        name = f"{self.figure}/{self.run}" if self.figure else self.run
        return f"{name}#{self.seed}" if self.seed else name

    def window(self) -> Window:
        """Return the points to fit.

        Raises:
            ValueError: they are too few, not ascending, or not pass rates.
        """
        return Window(
            compute=self.compute[self.fitted],
            pass_rate=self.pass_rate[self.fitted],
            r0=self.r0,
            num_samples=self.num_samples[self.fitted],
        )


def run_points(
    rows: pd.DataFrame,
    column: str,
    figure: str,
    run: str,
    seed: str,
    r0: float,
    folder: Path | None,
    where: Where,
) -> RunPoints:
    """Return the rows of one run as arrays.

    Raises:
        ValueError: there is no row; a number is missing or out of range; compute does not ascend.
    """
    if rows.empty:
        raise ValueError(f"0 points; a curve needs at least {MIN_FIT_POINTS} besides R0: run longer")
    for name in (column, "pass_rate"):
        values = pd.to_numeric(rows[name], errors="coerce")
        for index in rows.index[~np.isfinite(values)]:
            raise ValueError(f"{where(index)}: {name} is {rows[name][index]}, not a finite number")
        rows = rows.assign(**{name: values})
    for index in rows.index[(rows.pass_rate < 0) | (rows.pass_rate > 1)]:
        raise ValueError(
            f"{where(index)}: pass_rate {rows.pass_rate[index]} is outside [0, 1]; is it a percentage?"
        )
    if not 0 <= r0 < 1:
        raise ValueError(f"{where(rows.index[0])}: R0 = {r0}; it must lie in [0, 1)")
    _check_ascending(rows[column], where, run)
    split = rows.split if "split" in rows else pd.Series("fit", index=rows.index)
    for index in rows.index[~split.isin(SPLITS)]:
        raise ValueError(f"{where(index)}: split '{split[index]}'; valid: {', '.join(SPLITS)}")
    return RunPoints(
        figure=figure,
        run=run,
        seed=seed,
        compute=rows[column].to_numpy(dtype=float),
        pass_rate=rows.pass_rate.to_numpy(dtype=float),
        fitted=(split == "fit").to_numpy(),
        num_samples=_num_samples(rows),
        epoch=pd.to_numeric(rows.epoch, errors="coerce").to_numpy(dtype=float) if "epoch" in rows else None,
        r0=r0,
        folder=folder,
    )


def _check_ascending(compute: pd.Series, where: Where, run: str) -> None:
    values = compute.to_numpy(dtype=float)
    if len(values) and values[0] <= 0:
        raise ValueError(
            f"{where(compute.index[0])}: {compute.name} {values[0]:g} after R0; it must be above 0"
        )
    for before, value, index in zip(values[:-1], values[1:], compute.index[1:], strict=True):
        if value == before:
            raise ValueError(
                f"{where(index)}: a second point at {compute.name} {value:g}; drop one of the duplicates"
            )
        if value < before:
            falls = f"{compute.name} falls from {before:g} to {value:g}"
            way_out = f"tell two runs of the name {run!r} apart by a seed or figure column"
            raise ValueError(f"{where(index)}: {falls}; sort the points, or {way_out}")


def _num_samples(rows: pd.DataFrame) -> FloatArray:
    if "num_prompts" not in rows or "samples_per_prompt" not in rows:
        return np.full(len(rows), float(DEFAULT_SAMPLES))
    counts = (
        rows[["num_prompts", "samples_per_prompt"]]
        .apply(pd.to_numeric, errors="coerce")
        .to_numpy(dtype=float)
    )
    # Counts weigh the points: one that is 0 or absent would silently change the fit.
    if not ((counts > 0) & (counts < MAX_COUNT)).all():
        raise ValueError(
            "num_prompts and samples_per_prompt must be above 0 in every row, or not be there at all"
        )
    return np.asarray(counts.prod(axis=1))
