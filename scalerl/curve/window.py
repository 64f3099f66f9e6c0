"""The points that are fitted."""

from dataclasses import dataclass

import numpy as np

from scalerl.curve.prior import DEFAULT_SAMPLES
from scalerl.curve.sigmoid import FloatArray

MIN_POINTS = 4


@dataclass(frozen=True, kw_only=True)
class Window:
    """Evaluations of one run after the first. Arrays [points]; compute ascending, > 0, in any unit."""

    compute: FloatArray
    pass_rate: FloatArray
    r0: float
    """Pass rate of the evaluation before any update."""
    num_samples: FloatArray | float = DEFAULT_SAMPLES
    """Answers behind each evaluation (prompts x samples per prompt)."""

    def __post_init__(self) -> None:
        """Refuse what no estimator can use.

        Raises:
            ValueError: too few points, compute not ascending, or a pass rate outside [0, 1].
        """
        if len(self.compute) < MIN_POINTS:
            raise ValueError(f"{len(self.compute)} points; a curve needs at least {MIN_POINTS} besides R0: run longer")
        if not (np.diff(self.compute) > 0).all() or not self.compute[0] > 0:
            raise ValueError("compute must be above 0 and ascend from point to point: sort the points, drop repeats")
        if not ((self.pass_rate >= 0) & (self.pass_rate <= 1)).all() or not 0 <= self.r0 < 1:
            raise ValueError("pass rates must lie in [0, 1] and R0 below 1: give fractions, not percentages")

    @property
    def log_compute(self) -> FloatArray:
        return np.asarray(np.log(self.compute))

    @property
    def binomial_sd(self) -> FloatArray:
        """Sampling sd of each evaluation if its answers were independent; pass rates near 0 or 1 count as .01, .99."""
        p = np.clip(self.pass_rate, 0.01, 0.99)
        return np.asarray(np.sqrt(p * (1 - p) / self.num_samples))

    @property
    def r0_sd(self) -> float:
        """Sampling sd of R0, taken by as many answers as the first point."""
        p = min(max(self.r0, 0.01), 0.99)
        return float(np.sqrt(p * (1 - p) / np.broadcast_to(self.num_samples, self.compute.shape)[0]))
