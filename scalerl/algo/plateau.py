"""Plateaus of the held-out pass rate, at which the learning rate falls and the batch grows.

A rising curve looks flat between two evaluations, by chance alone; so does a curve of which too few samples
are known. A plateau therefore has to be shown: the gain of a window of evaluations over the window before is
below the least gain that counts, with two standard errors to spare, and these are no larger than that gain.
"""

from dataclasses import dataclass

import numpy as np

STANDARD_ERRORS = 2.0
"""How far an estimated gain must lie below the least that counts."""


@dataclass(frozen=True, kw_only=True)
class Gain:
    """How much higher the pass rate is in the newest window of evaluations than in the window before."""

    mean: float
    standard_error: float

    def is_plateau(self, min_gain: float) -> bool:
        """Say whether the gain is below `min_gain`, and the evaluations are many enough to show that."""
        uncertainty = STANDARD_ERRORS * self.standard_error
        return uncertainty <= min_gain and self.mean + uncertainty < min_gain


def window_gain(rates: np.ndarray, window: int) -> Gain | None:
    """Return the gain of the last `window` evaluations over the `window` before; None where that is unknown.

    rates: [evaluations, prompts], the share of correct samples, oldest evaluation first. It is unknown with
    fewer than two windows of evaluations, or two prompts.
    """
    num_evaluations, num_prompts = rates.shape
    if num_evaluations < 2 * window or num_prompts < 2:
        return None
    # Prompt by prompt: every evaluation has the same prompts, and how hard each is cancels out. Taken as two
    # independent means the standard error would be several times larger.
    gains = rates[-window:].mean(axis=0) - rates[-2 * window : -window].mean(axis=0)
    return Gain(mean=float(gains.mean()), standard_error=float(gains.std(ddof=1) / np.sqrt(num_prompts)))
