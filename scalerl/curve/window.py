"""The points that are fitted, and parts of them."""

from dataclasses import dataclass

import numpy as np

from scalerl.curve.sigmoid import FloatArray

MIN_FIT_POINTS = 4
"""A curve of three free numbers (A, B, C_mid) and its scatter need as many points besides R0."""
DEFAULT_SAMPLES = 16_000
"""Answers behind one evaluation when the input does not say: 1,000 prompts x 16, as in arXiv 2510.13786."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """Evaluations of one run after the first; arrays [points], compute ascending and above 0, in any unit."""

    compute: FloatArray
    pass_rate: FloatArray
    r0: float
    """Pass rate of the evaluation before any update."""
    num_samples: FloatArray | float = DEFAULT_SAMPLES
    """Answers behind each evaluation (prompts x samples per prompt)."""

    def __post_init__(self) -> None:
        """Refuse what no estimator can use.

        Raises:
            ValueError: the points are too few, compute does not ascend, or a pass rate is outside [0, 1].
        """
        if len(self.compute) < MIN_FIT_POINTS:
            raise ValueError(
                f"{len(self.compute)} points; a curve needs at least {MIN_FIT_POINTS} besides R0: run longer"
            )
        if not (np.diff(self.compute) > 0).all() or not self.compute[0] > 0:
            raise ValueError(
                "compute must be above 0 and ascend from point to point: sort the points, drop repeats"
            )
        if not ((self.pass_rate >= 0) & (self.pass_rate <= 1)).all() or not 0 <= self.r0 < 1:
            raise ValueError("pass rates must lie in [0, 1] and R0 below 1: give fractions, not percentages")

    @property
    def log_compute(self) -> FloatArray:
        """Return the natural logarithm of compute, [points]."""
        return np.asarray(np.log(self.compute))

    @property
    def binomial_sd(self) -> FloatArray:
        """Return the sampling sd of each evaluation, as if all its answers were independent.

        Pass rates near 0 or 1 count as .01 and .99: no evaluation is certain.
        """
        p = np.clip(self.pass_rate, 0.01, 0.99)
        return np.asarray(np.sqrt(p * (1 - p) / self.num_samples))

    @property
    def r0_sd(self) -> float:
        """Return the sampling sd of R0, taken to have as many answers as the first point."""
        p = min(max(self.r0, 0.01), 0.99)
        return float(np.sqrt(p * (1 - p) / np.broadcast_to(self.num_samples, self.compute.shape)[0]))


def cut(window: Window, start: float = 0.0, end: float = float("inf")) -> Window:
    """Return the part of a window with start <= compute <= end.

    Raises:
        ValueError: too few points are left.
    """
    inside = (window.compute >= start) & (window.compute <= end)
    samples = window.num_samples
    return Window(
        compute=window.compute[inside],
        pass_rate=window.pass_rate[inside],
        r0=window.r0,
        num_samples=samples if isinstance(samples, int | float) else samples[inside],
    )


def coarsen(window: Window, most: int) -> Window:
    """Return at most `most` points: neighbours become their mean, their answers added up.

    One mean spans at most 2 / (most - 2) of the points and the same share of the window's log compute. The
    first and the last point stay as they are: they say where the window ends and how many answers one
    evaluation has.
    """
    n, x = len(window.compute), window.log_compute
    if n <= most:
        return window
    # The mean of a point's rank and of its place in log compute: neither dense nor sparse stretches are lost.
    place = (np.arange(n) / (n - 1) + (x - x[0]) / (x[-1] - x[0])) / 2
    part = 1 + np.floor(place * (most - 2))
    part[[0, -1]] = 0, most
    first = np.flatnonzero(np.diff(part, prepend=-1))
    samples = np.broadcast_to(np.asarray(window.num_samples, dtype=float), n)
    num_samples = np.add.reduceat(samples, first)
    compute = np.exp(np.add.reduceat(samples * x, first) / num_samples)
    compute[[0, -1]] = window.compute[[0, -1]]
    pass_rate = np.clip(np.add.reduceat(samples * window.pass_rate, first) / num_samples, 0.0, 1.0)
    return Window(compute=compute, pass_rate=pass_rate, r0=window.r0, num_samples=num_samples)
