"""The three ways to fit a curve, with one result: `default` (ours), `paper` (the printed grid),
`least_squares`."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from scalerl.curve.alternatives import Alternative, compare_families
from scalerl.curve.draws import INTERVAL, Draws
from scalerl.curve.least_squares import fit_least_squares
from scalerl.curve.paper import fit_paper
from scalerl.curve.posterior import fit_posterior
from scalerl.curve.prior import PUBLISHED, Prior
from scalerl.curve.sigmoid import FloatArray, Sigmoid, gain_fraction
from scalerl.curve.verdict import Verdict, judge
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
    """Of the points about `curve`."""
    alternatives: list[Alternative]
    verdict: Verdict

    def predict(self, compute: FloatArray) -> Prediction:
        """What evaluations at `compute` [points] will show."""
        evaluations = self.predictive.evaluations(compute)
        low, high = np.quantile(evaluations, INTERVAL, axis=0)
        centre = np.median(evaluations, axis=0) if self.estimator == "default" else self.curve(compute)
        return Prediction(predicted=centre, lo90=np.minimum(low, centre), hi90=np.maximum(high, centre))


def fit_curve(window: Window, estimator: str = "default", prior: Prior = PUBLISHED) -> CurveFit:
    """Fit one run's window.

    Raises:
        ValueError: no such estimator.
    """
    if estimator not in ESTIMATORS:
        raise ValueError(f"no estimator {estimator!r}; valid: {', '.join(ESTIMATORS)}")
    curve, parameters, predictive = ESTIMATORS[estimator](window, prior)
    alternatives = compare_families(window)
    return CurveFit(
        estimator=estimator,
        curve=curve,
        parameters=parameters,
        predictive=predictive,
        rmse=float(np.sqrt(np.mean((window.pass_rate - curve(window.compute)) ** 2))),
        alternatives=alternatives,
        verdict=judge(parameters, alternatives, window),
    )


def _fit_default(window: Window, prior: Prior) -> tuple[Sigmoid, Draws, Draws]:
    parameters, predictive = fit_posterior(window, prior)
    middle = {name: float(np.median(getattr(parameters, name))) for name in ("r0", "a", "b", "c_mid")}
    return Sigmoid(**middle), parameters, predictive


def _fit_least_squares(window: Window, prior: Prior) -> tuple[Sigmoid, Draws, Draws]:
    curve = fit_least_squares(window.compute, window.pass_rate, window.r0)
    draws = delta_draws(curve, window)
    return curve, draws, draws


def _fit_paper(window: Window, prior: Prior) -> tuple[Sigmoid, Draws, Draws]:
    curve = fit_paper(window.compute, window.pass_rate, window.r0)
    draws = delta_draws(curve, window)
    return curve, draws, draws


def delta_draws(curve: Sigmoid, window: Window, num_draws: int = 2000) -> Draws:
    """The textbook uncertainty of a least-squares fit: normal about it, covariance from its Jacobian, white
    scatter."""
    log_ratio = window.log_compute - np.log(curve.c_mid)
    fraction = gain_fraction(window.compute, curve.b, curve.c_mid)
    slope = (curve.a - curve.r0) * fraction * (1 - fraction) * curve.b
    jacobian = np.stack([fraction, slope * log_ratio, -slope], axis=1)
    residual = window.pass_rate - curve(window.compute)
    variance = float(residual @ residual) / max(len(residual) - 3, 1)
    information = jacobian.T @ jacobian
    # what the points do not tell at all gets a wide spread, where a pseudo-inverse would call it certain
    covariance = variance * np.linalg.inv(information + (1e-12 * np.trace(information) + 1e-30) * np.eye(3))
    normal = np.random.default_rng(0).multivariate_normal(
        np.zeros(3), covariance, num_draws, "ignore", method="eigh"
    )
    nothing = np.zeros(num_draws)
    return Draws(
        r0=np.full(num_draws, curve.r0),
        a=np.clip(curve.a + normal[:, 0], 0.0, 1.0),
        b=curve.b * np.exp(np.clip(normal[:, 1], -5, 5)),
        c_mid=curve.c_mid * np.exp(np.clip(normal[:, 2], -10, 10)),
        evaluation_sd=np.full(num_draws, np.sqrt(variance)),
        wander_sd=nothing,
        wander_end=nothing,
        wander_length=1.0,
        drift=0.0,
        last_compute=float(window.compute[-1]),
    )


ESTIMATORS: dict[str, Callable[[Window, Prior], tuple[Sigmoid, Draws, Draws]]] = {
    "default": _fit_default,
    "paper": _fit_paper,
    "least_squares": _fit_least_squares,
}
