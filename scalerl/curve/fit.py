"""One fit of one run: a curve, its uncertainty, its rivals and whether its ceiling is to be believed."""

from dataclasses import dataclass

import numpy as np

from scalerl.curve.alternatives import Alternative, compare_families
from scalerl.curve.estimators import ESTIMATORS, find_estimator
from scalerl.curve.estimators.draws import INTERVAL, Draws
from scalerl.curve.estimators.prior import PUBLISHED, Prior
from scalerl.curve.identification import Identification, identify
from scalerl.curve.sigmoid import FloatArray, Sigmoid
from scalerl.curve.window import Window


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Evaluations to come at given compute, arrays [points]: median and 90 % interval of one evaluation."""

    predicted: FloatArray
    lo90: FloatArray
    hi90: FloatArray


@dataclass(frozen=True, kw_only=True)
class CurveFit:
    """One run's curve, with its uncertainty."""

    estimator: str
    curve: Sigmoid
    parameters: Draws
    """Draws of the run's own parameters: their spread is the parameters' uncertainty."""
    predictive: Draws
    """Draws for evaluations to come."""
    rmse: float
    """Root mean square distance of the points from `curve`."""
    alternatives: list[Alternative]
    """Every family fitted to the same points, best BIC first."""
    identification: Identification

    def predict(self, compute: FloatArray) -> Prediction:
        """Predict evaluations at `compute` [points]."""
        evaluations = self.predictive.evaluations(compute)
        low, high = np.quantile(evaluations, INTERVAL, axis=0)
        by_median = ESTIMATORS[self.estimator].predicts_median
        centre = np.median(evaluations, axis=0) if by_median else self.curve(compute)
        # A fitted curve may lie outside the interval of its draws, as where A is on its limit.
        return Prediction(predicted=centre, lo90=np.minimum(low, centre), hi90=np.maximum(high, centre))


def fit_curve(window: Window, estimator: str = "default", prior: Prior = PUBLISHED) -> CurveFit:
    """Fit one run's window.

    Raises:
        ValueError: there is no such estimator.
    """
    estimate = find_estimator(estimator).estimate(window, prior)
    alternatives = compare_families(window)
    residual = window.pass_rate - estimate.curve(window.compute)
    return CurveFit(
        estimator=estimator,
        curve=estimate.curve,
        parameters=estimate.parameters,
        predictive=estimate.predictive,
        rmse=float(np.sqrt(np.mean(residual**2))),
        alternatives=alternatives,
        identification=identify(estimate.parameters, alternatives, window),
    )
