"""Exact least squares for the sigmoid by variable projection: A is linear once B and C_mid are given."""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from scalerl.curve.estimators.draws import Draws, Estimate
from scalerl.curve.estimators.prior import Prior
from scalerl.curve.sigmoid import BoolArray, FloatArray, Sigmoid, gain_fraction
from scalerl.curve.window import Window

B_RANGE = (0.05, 20.0)
C_MID_MARGIN = 100.0
"""C_mid is searched from the first compute / margin to the last compute * margin."""
GRID_SHAPE = (16, 32)
NUM_STARTS = 2
MAX_ITERATIONS = 60
SMALLEST_GAIN = 1e-11
"""Relative fall of the sum of squares at which the walk ends."""


@dataclass(frozen=True)
class Objective:
    """The residuals to minimise: log compute and gain over R0 [points], limits of the amplitude A - R0."""

    log_compute: FloatArray
    gain: FloatArray
    amplitude_range: tuple[float, float]

    @property
    def box(self) -> FloatArray:
        """Return the limits of the search, [[log B low, high], [log C_mid low, high]]."""
        margin = np.log(C_MID_MARGIN)
        return np.array([np.log(B_RANGE), [self.log_compute[0] - margin, self.log_compute[-1] + margin]])


@dataclass(frozen=True)
class Candidates:
    """A batch of candidate curves and how well they fit."""

    theta: FloatArray
    """(log B, log C_mid) of each candidate, [starts, 2]."""
    amplitude: FloatArray
    """The best A - R0 for this theta, [starts]."""
    fraction: FloatArray
    """Part of the gain reached at each point, [starts, points]."""
    residual: FloatArray
    """What is left of each point, [starts, points]."""
    error: FloatArray
    """Sum of squared residuals, [starts]."""


def estimate_by_least_squares(window: Window, prior: Prior) -> Estimate:
    """Fit the window by least squares, with the textbook uncertainty; the prior is not used."""
    curve = fit_least_squares(window.compute, window.pass_rate, window.r0)
    draws = delta_draws(curve, window)
    return Estimate(curve=curve, parameters=draws, predictive=draws)


def fit_least_squares(
    compute: FloatArray, pass_rate: FloatArray, r0: float, a_range: tuple[float, float] = (0.0, 1.0)
) -> Sigmoid:
    """Return the sigmoid of least squared residuals, r0 given and A in `a_range` (low = high fixes A).

    `compute` [points] is above 0 and ascends, `pass_rate` is [points]. A grid over (log B, log C_mid) finds
    the valleys; a damped Gauss-Newton walk on the projected residual (Golub and Pereyra 1973, Kaufman's
    Jacobian) finds their floor.
    """
    objective = Objective(np.log(compute), pass_rate - r0, (a_range[0] - r0, a_range[1] - r0))
    candidates = _descend(_valleys(objective), objective)
    best = int(np.argmin(candidates.error))
    b, c_mid = np.exp(candidates.theta[best])
    return Sigmoid(r0=r0, a=float(r0 + candidates.amplitude[best]), b=float(b), c_mid=float(c_mid))


def delta_draws(curve: Sigmoid, window: Window, num_draws: int = 2000) -> Draws:
    """Return the textbook uncertainty of a fit: normal about it, covariance from its Jacobian."""
    log_ratio = window.log_compute - np.log(curve.c_mid)
    fraction = gain_fraction(window.compute, curve.b, curve.c_mid)
    slope = (curve.a - curve.r0) * fraction * (1 - fraction) * curve.b
    jacobian = np.stack([fraction, slope * log_ratio, -slope], axis=1)
    residual = window.pass_rate - curve(window.compute)
    variance = float(residual @ residual) / max(len(residual) - 3, 1)
    information = jacobian.T @ jacobian
    # What the points do not tell at all gets a wide spread; a pseudo-inverse would call it certain.
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


def _evaluate(theta: FloatArray, objective: Objective) -> Candidates:
    fraction = expit(np.exp(theta[:, :1]) * (objective.log_compute - theta[:, 1:]))
    amplitude = (fraction @ objective.gain) / np.maximum(np.einsum("sp,sp->s", fraction, fraction), 1e-300)
    amplitude = np.clip(amplitude, *objective.amplitude_range)
    residual = objective.gain - amplitude[:, None] * fraction
    return Candidates(theta, amplitude, fraction, residual, np.einsum("sp,sp->s", residual, residual))


def _valleys(objective: Objective) -> Candidates:
    """Return the deepest local minima of a coarse grid."""
    sides = [np.linspace(low, high, n) for (low, high), n in zip(objective.box, GRID_SHAPE, strict=True)]
    theta = np.stack(np.meshgrid(*sides, indexing="ij"), axis=-1)
    error = _evaluate(theta.reshape(-1, 2), objective).error.reshape(GRID_SHAPE)
    rows, columns = GRID_SHAPE
    # A cell is a valley if none of the eight around it is lower; two neighbours may tie.
    padded = np.pad(error, 1, constant_values=np.inf)
    around = [padded[i : i + rows, j : j + columns] for i in (0, 1, 2) for j in (0, 1, 2)]
    lowest = error <= np.min(around, axis=0)
    deepest = np.argsort(error[lowest])[:NUM_STARTS]
    return _evaluate(theta[lowest][deepest], objective)


def _descend(candidates: Candidates, objective: Objective) -> Candidates:
    """Walk down from all candidates at once by Levenberg-Marquardt."""
    damping = np.full(len(candidates.theta), 1e-4)
    low, high = objective.box.T
    for _ in range(MAX_ITERATIONS):
        trial = _evaluate(
            np.clip(candidates.theta + _step(candidates, objective, damping), low, high), objective
        )
        better = trial.error < candidates.error
        gained = np.where(
            better, (candidates.error - trial.error) / np.maximum(candidates.error, 1e-300), 0.0
        )
        candidates = _choose(better, trial, candidates)
        damping = np.where(better, damping / 10, damping * 10)
        # A step that failed for a small damping is no end: a shorter one may still gain.
        if (gained < SMALLEST_GAIN).all() and (better | (damping > 1.0)).all():
            break
    return candidates


def _choose(better: BoolArray, new: Candidates, old: Candidates) -> Candidates:
    pairs = ((getattr(new, name), getattr(old, name)) for name in Candidates.__dataclass_fields__)
    return Candidates(*(np.where(better.reshape(-1, *[1] * (n.ndim - 1)), n, o) for n, o in pairs))


def _step(candidates: Candidates, objective: Objective, damping: FloatArray) -> FloatArray:
    """Return the damped Gauss-Newton step [starts, 2].

    Where A is inside its range, it follows theta: it is projected out of the Jacobian. On a limit it does not
    move, and the Jacobian stays as it is.
    """
    b = np.exp(candidates.theta[:, :1])
    slope = candidates.amplitude[:, None] * candidates.fraction * (1 - candidates.fraction)
    jacobian = np.stack([slope * b * (objective.log_compute - candidates.theta[:, 1:]), -slope * b], axis=1)
    # On a limit of its range A stays where it is, so there is nothing to project out.
    low, high = objective.amplitude_range
    free = ((candidates.amplitude > low) & (candidates.amplitude < high))[:, None, None]
    norm = np.maximum(np.einsum("sp,sp->s", candidates.fraction, candidates.fraction), 1e-300)[:, None, None]
    along = np.einsum("sip,sp->si", jacobian, candidates.fraction)[:, :, None]
    jacobian = jacobian - free * along * candidates.fraction[:, None, :] / norm
    normal = np.einsum("sip,sjp->sij", jacobian, jacobian)
    diagonal = np.einsum("sii->si", normal)
    # A share of the trace is added, too: where no point tells two directions apart, the matrix would be
    # singular for a small damping.
    floor = 1e-12 * diagonal.sum(axis=1, keepdims=True) + 1e-30
    normal = normal + np.eye(2) * (damping[:, None] * diagonal + floor)[:, :, None]
    return np.asarray(
        np.linalg.solve(normal, np.einsum("sip,sp->si", jacobian, candidates.residual)[..., None])[..., 0]
    )
