"""The registry of estimators: what can be fitted by name, and what the rest of the program must know about
each.

A new estimator is one file here and one entry in ESTIMATORS.
"""

from collections.abc import Callable
from dataclasses import dataclass

from scalerl.curve.estimators.draws import Estimate
from scalerl.curve.estimators.least_squares import estimate_by_least_squares
from scalerl.curve.estimators.paper import MIN_GPU_HOURS, estimate_by_paper
from scalerl.curve.estimators.posterior import fit_posterior
from scalerl.curve.estimators.prior import Prior
from scalerl.curve.window import Window


@dataclass(frozen=True, kw_only=True)
class Estimator:
    """One way to fit a curve."""

    estimate: Callable[[Window, Prior], Estimate]
    """Fits a window; an estimator that has no use for a prior ignores it."""
    only_axis: str | None = None
    """The one compute axis whose unit the estimator knows; None where any axis will do."""
    min_compute: float = 0.0
    """Points before this compute are not fitted, unless the user sets another limit."""
    predicts_median: bool = False
    """True: a prediction is the median of the draws, which speak of evaluations beyond the window only.
    False: a prediction is the fitted curve, and the draws scatter about all of it."""


ESTIMATORS: dict[str, Estimator] = {
    "default": Estimator(estimate=fit_posterior, predicts_median=True),
    "paper": Estimator(estimate=estimate_by_paper, only_axis="gpu_hours", min_compute=MIN_GPU_HOURS),
    "least_squares": Estimator(estimate=estimate_by_least_squares),
}


def find_estimator(name: str) -> Estimator:
    """Return the estimator of this name.

    Raises:
        ValueError: there is none.
    """
    if name not in ESTIMATORS:
        raise ValueError(f"no estimator {name!r}; valid: {', '.join(ESTIMATORS)}")
    return ESTIMATORS[name]
