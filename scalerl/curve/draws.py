"""Equally likely curves: what an estimator knows about a run, in a form from which every interval follows."""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from scalerl.curve.sigmoid import FloatArray

INTERVAL = (0.05, 0.95)
"""All intervals are 90 %, equal-tailed."""


@dataclass(frozen=True, kw_only=True)
class Draws:
    """Arrays [draws]: parameters of the sigmoid and of the noise about it."""

    r0: FloatArray
    a: FloatArray
    b: FloatArray
    c_mid: FloatArray
    evaluation_sd: FloatArray
    """Scatter of one evaluation about the run."""
    wander_sd: FloatArray
    """How far the run strays from its sigmoid (0: not at all)."""
    wander_end: FloatArray
    """How far off its sigmoid the run is at the last point."""
    wander_length: float
    """Correlation length of the wander in log compute."""
    drift: float
    """Sd of the law's own drift per sqrt(log compute) beyond the window."""
    last_compute: float

    def curves(self, compute: FloatArray) -> FloatArray:
        """The sigmoid of each draw at `compute` [points] -> [draws, points]."""
        log_ratio = np.log(compute)[None, :] - np.log(self.c_mid)[:, None]
        return np.asarray(self.r0[:, None] + (self.a - self.r0)[:, None] * expit(self.b[:, None] * log_ratio))

    def evaluations(self, compute: FloatArray) -> FloatArray:
        """What an evaluation at each `compute` [points] may show -> [draws, points], the same for the same
        draws.

        Each column has the right distribution; within a draw the columns share their noise, so that bands are
        smooth.
        """
        ahead = np.maximum(np.log(compute / self.last_compute), 0.0)[None, :]
        beyond = (compute > self.last_compute)[None, :]
        memory = np.where(beyond, np.exp(-ahead / self.wander_length), 0.0)
        variance = self.evaluation_sd[:, None] ** 2 + self.wander_sd[:, None] ** 2 * (1 - memory**2)
        noise = np.random.default_rng(0).standard_normal((len(self.a), 1))
        centre = self.curves(compute) + memory * self.wander_end[:, None]
        return np.asarray(centre + np.sqrt(variance + self.drift**2 * ahead) * noise)

    def interval(self, name: str) -> tuple[float, float]:
        """90 % interval of "r0", "a", "b" or "c_mid"."""
        low, high = np.quantile(getattr(self, name), INTERVAL)
        return float(low), float(high)

    @property
    def correlation_ab(self) -> float:
        """Correlation of A and log B (0 where one of them does not vary)."""
        log_b = np.log(self.b)
        spread = self.a.std() * log_b.std()
        return (
            float(np.mean((self.a - self.a.mean()) * (log_b - log_b.mean())) / spread) if spread > 0 else 0.0
        )
