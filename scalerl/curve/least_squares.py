"""Exact least squares for the sigmoid by variable projection: A is linear once B and C_mid are given."""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from scalerl.curve.sigmoid import BoolArray, FloatArray, Sigmoid

B_RANGE = (0.05, 20.0)
C_MID_MARGIN = 100.0
"""C_mid is searched from the first compute / margin to the last compute * margin."""
GRID_SHAPE = (16, 32)
NUM_STARTS = 2
MAX_ITERATIONS = 60
SMALLEST_GAIN = 1e-11
"""Relative fall of the sum of squares at which the walk ends."""


@dataclass(frozen=True)
class Problem:
    """What is minimised: log compute and gain over R0 [points], limits of the amplitude A - R0."""

    log_compute: FloatArray
    gain: FloatArray
    amplitude_range: tuple[float, float]

    @property
    def box(self) -> FloatArray:
        """[[log B low, high], [log C_mid low, high]]."""
        margin = np.log(C_MID_MARGIN)
        return np.array([np.log(B_RANGE), [self.log_compute[0] - margin, self.log_compute[-1] + margin]])


@dataclass(frozen=True)
class State:
    """A batch of candidate curves: theta = (log B, log C_mid) [starts, 2], A eliminated, and how well they
    fit."""

    theta: FloatArray
    amplitude: FloatArray
    fraction: FloatArray
    residual: FloatArray
    error: FloatArray


def fit_least_squares(
    compute: FloatArray, pass_rate: FloatArray, r0: float, a_range: tuple[float, float] = (0.0, 1.0)
) -> Sigmoid:
    """The sigmoid of least squared residuals with r0 given and A in `a_range` (low = high fixes A).

    `compute` [points] > 0 ascending, `pass_rate` [points]. A grid over (log B, log C_mid) finds the valleys,
    a damped Gauss-Newton walk on the projected residual (Golub and Pereyra 1973, Kaufman's Jacobian) finds
    their floor.
    """
    problem = Problem(np.log(compute), pass_rate - r0, (a_range[0] - r0, a_range[1] - r0))
    state = _descend(_valleys(problem), problem)
    best = int(np.argmin(state.error))
    b, c_mid = np.exp(state.theta[best])
    return Sigmoid(r0=r0, a=float(r0 + state.amplitude[best]), b=float(b), c_mid=float(c_mid))


def _evaluate(theta: FloatArray, problem: Problem) -> State:
    fraction = expit(np.exp(theta[:, :1]) * (problem.log_compute - theta[:, 1:]))
    amplitude = (fraction @ problem.gain) / np.maximum(np.einsum("sp,sp->s", fraction, fraction), 1e-300)
    amplitude = np.clip(amplitude, *problem.amplitude_range)
    residual = problem.gain - amplitude[:, None] * fraction
    return State(theta, amplitude, fraction, residual, np.einsum("sp,sp->s", residual, residual))


def _valleys(problem: Problem) -> State:
    """The deepest local minima of a coarse grid."""
    axes = [np.linspace(low, high, n) for (low, high), n in zip(problem.box, GRID_SHAPE, strict=True)]
    theta = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    error = _evaluate(theta.reshape(-1, 2), problem).error.reshape(GRID_SHAPE)
    rows, columns = GRID_SHAPE
    padded = np.pad(error, 1, constant_values=np.inf)
    around = [padded[i : i + rows, j : j + columns] for i in (0, 1, 2) for j in (0, 1, 2)]
    lowest = error <= np.min(around, axis=0)
    deepest = np.argsort(error[lowest])[:NUM_STARTS]
    return _evaluate(theta[lowest][deepest], problem)


def _descend(state: State, problem: Problem) -> State:
    """Levenberg-Marquardt, all starts at once."""
    damping = np.full(len(state.theta), 1e-4)
    low, high = problem.box.T
    for _ in range(MAX_ITERATIONS):
        trial = _evaluate(np.clip(state.theta + _step(state, problem, damping), low, high), problem)
        better = trial.error < state.error
        gained = np.where(better, (state.error - trial.error) / np.maximum(state.error, 1e-300), 0.0)
        state = _choose(better, trial, state)
        damping = np.where(better, damping / 10, damping * 10)
        if (gained < SMALLEST_GAIN).all() and (better | (damping > 1.0)).all():
            break
    return state


def _choose(better: BoolArray, new: State, old: State) -> State:
    pairs = ((getattr(new, name), getattr(old, name)) for name in State.__dataclass_fields__)
    return State(*(np.where(better.reshape(-1, *[1] * (n.ndim - 1)), n, o) for n, o in pairs))


def _step(state: State, problem: Problem, damping: FloatArray) -> FloatArray:
    """The damped Gauss-Newton step [starts, 2]; where A is inside its range, it is projected out of the
    Jacobian."""
    b = np.exp(state.theta[:, :1])
    slope = state.amplitude[:, None] * state.fraction * (1 - state.fraction)
    jacobian = np.stack([slope * b * (problem.log_compute - state.theta[:, 1:]), -slope * b], axis=1)
    low, high = problem.amplitude_range
    free = ((state.amplitude > low) & (state.amplitude < high))[:, None, None]
    norm = np.maximum(np.einsum("sp,sp->s", state.fraction, state.fraction), 1e-300)[:, None, None]
    along = np.einsum("sip,sp->si", jacobian, state.fraction)[:, :, None]
    jacobian = jacobian - free * along * state.fraction[:, None, :] / norm
    normal = np.einsum("sip,sjp->sij", jacobian, jacobian)
    diagonal = np.einsum("sii->si", normal)
    # a share of the trace, because directions that no point tells apart would make it singular for a small
    # damping
    floor = 1e-12 * diagonal.sum(axis=1, keepdims=True) + 1e-30
    normal = normal + np.eye(2) * (damping[:, None] * diagonal + floor)[:, :, None]
    return np.asarray(
        np.linalg.solve(normal, np.einsum("sip,sp->si", jacobian, state.residual)[..., None])[..., 0]
    )
