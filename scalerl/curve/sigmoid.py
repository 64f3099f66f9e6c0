"""The scaling law of RL compute: pass rate is a saturating sigmoid of the logarithm of compute."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Sigmoid:
    """R(C) = r0 + (a - r0) / (1 + (c_mid / C)^b), arXiv 2510.13786 equation 1."""

    r0: float
    """Pass rate before RL, in [0, 1]."""
    a: float
    """Asymptotic pass rate (the ceiling), in [0, 1]."""
    b: float
    """Efficiency exponent, > 0."""
    c_mid: float
    """Compute at which half the gain is reached, > 0, in the unit of the run's compute axis."""

    def __call__(self, compute: ArrayLike) -> FloatArray:
        """Return the pass rate at `compute`, above 0 and of any shape."""
        gain = gain_fraction(np.asarray(compute, dtype=float), self.b, self.c_mid)
        return np.asarray(self.r0 + (self.a - self.r0) * gain)


def gain_fraction(compute: FloatArray, b: ArrayLike, c_mid: ArrayLike) -> FloatArray:
    """Return the part of the gain reached at `compute`, 1 / (1 + (c_mid / C)^b); arguments broadcast."""
    return np.asarray(expit(np.asarray(b) * (np.log(compute) - np.log(c_mid))))
