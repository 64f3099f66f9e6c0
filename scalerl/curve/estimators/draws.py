"""Equally likely curves: what an estimator knows about a run, in a form from which every interval follows."""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from scalerl.curve.sigmoid import FloatArray, Sigmoid

INTERVAL = (0.05, 0.95)
"""All intervals are 90 %, equal-tailed."""


@dataclass(frozen=True, kw_only=True)
class Draws:
    """Equally likely curves of one run: arrays [draws] of the sigmoid's parameters and of the noise."""

    r0: FloatArray
    a: FloatArray
    b: FloatArray
    c_mid: FloatArray
    evaluation_sd: FloatArray
    """Standard deviation of one evaluation about the run."""
    wander_sd: FloatArray
    """Standard deviation of the run's wander about its sigmoid; 0 where it does not wander."""
    wander_end: FloatArray
    """Distance of the run from its sigmoid at the last point."""
    wander_length: float
    """Correlation length of the wander in log compute."""
    drift: float
    """Standard deviation of the law's own drift per sqrt(log compute) beyond the window."""
    last_compute: float
    """Compute of the last fitted point: what lies beyond it is predicted."""

    def curves(self, compute: FloatArray) -> FloatArray:
        """Return the sigmoid of each draw at `compute` [points] as [draws, points]."""
        log_ratio = np.log(compute)[None, :] - np.log(self.c_mid)[:, None]
        return np.asarray(self.r0[:, None] + (self.a - self.r0)[:, None] * expit(self.b[:, None] * log_ratio))

    def evaluations(self, compute: FloatArray) -> FloatArray:
        """Return what an evaluation at each `compute` [points] may show, as [draws, points].

        The same draws give the same values. Each column has the right distribution; within a draw the columns
        share their noise, so that bands are smooth.
        """
        ahead = np.maximum(np.log(compute / self.last_compute), 0.0)[None, :]
        beyond = (compute > self.last_compute)[None, :]
        # How far off its sigmoid the run is now fades with distance, as in an Ornstein-Uhlenbeck process.
        memory = np.where(beyond, np.exp(-ahead / self.wander_length), 0.0)
        variance = self.evaluation_sd[:, None] ** 2 + self.wander_sd[:, None] ** 2 * (1 - memory**2)
        noise = np.random.default_rng(0).standard_normal((len(self.a), 1))
        centre = self.curves(compute) + memory * self.wander_end[:, None]
        return np.asarray(centre + np.sqrt(variance + self.drift**2 * ahead) * noise)

    def interval(self, name: str) -> tuple[float, float]:
        """Return the 90 % interval of "r0", "a", "b" or "c_mid"."""
        low, high = np.quantile(getattr(self, name), INTERVAL)
        return float(low), float(high)

    @property
    def correlation_ab(self) -> float:
        """Return the correlation of A and log B, 0 where one of them does not vary."""
        log_b = np.log(self.b)
        spread = self.a.std() * log_b.std()
        if not spread > 0:
            return 0.0
        return float(np.mean((self.a - self.a.mean()) * (log_b - log_b.mean())) / spread)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What an estimator returns for one window."""

    curve: Sigmoid
    """The single best curve."""
    parameters: Draws
    """Draws of the run's own parameters: their spread is the parameters' uncertainty."""
    predictive: Draws
    """Draws for evaluations to come."""
