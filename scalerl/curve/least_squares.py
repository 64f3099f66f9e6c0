"""Exact least squares for the sigmoid by variable projection: A is linear once B and C_mid are given."""

import numpy as np

from scalerl.curve.sigmoid import FloatArray, Sigmoid

B_RANGE = (0.05, 20.0)
C_MID_MARGIN = 100.0
"""C_mid is searched from the first compute / margin to the last compute * margin."""
GRID_SHAPE = (24, 48)
MAX_ITERATIONS = 60


def fit_least_squares(compute: FloatArray, pass_rate: FloatArray, r0: float) -> Sigmoid:
    """The sigmoid of least squared residuals with r0 given, 0 <= A <= 1.

    `compute` [points] > 0, `pass_rate` [points]. A grid over (log B, log C_mid) finds the valleys, a damped
    Gauss-Newton walk on the projected residual (A eliminated) finds their floor.
    """
    log_compute = np.log(compute)
    starts = _valleys(log_compute, pass_rate - r0, r0)
    theta, amplitude, error = _descend(starts, log_compute, pass_rate - r0, r0)
    best = int(np.argmin(error))
    return Sigmoid(
        r0=r0, a=float(r0 + amplitude[best]), b=float(np.exp(theta[best, 0])), c_mid=float(np.exp(theta[best, 1]))
    )


def _project(theta: FloatArray, log_compute: FloatArray, gain: FloatArray, r0: float) -> tuple[FloatArray, ...]:
    """Best amplitude A - r0 for each theta [..., 2] = (log B, log C_mid); also the fractions and the squared error."""
    b = np.exp(theta[..., :1])
    fraction = 1.0 / (1.0 + np.exp(np.clip(b * (theta[..., 1:] - log_compute), -500, 500)))
    amplitude = (fraction @ gain) / np.maximum((fraction**2).sum(-1), 1e-300)
    amplitude = np.clip(amplitude, -r0, 1.0 - r0)
    residual = gain - amplitude[..., None] * fraction
    return amplitude, fraction, residual, (residual**2).sum(-1)


def _bounds(log_compute: FloatArray) -> tuple[FloatArray, FloatArray]:
    margin = np.log(C_MID_MARGIN)
    low = np.array([np.log(B_RANGE[0]), log_compute.min() - margin])
    return low, np.array([np.log(B_RANGE[1]), log_compute.max() + margin])


def _valleys(log_compute: FloatArray, gain: FloatArray, r0: float) -> FloatArray:
    """The local minima of a coarse grid, the deepest four: [starts, 2]."""
    low, high = _bounds(log_compute)
    axes = [np.linspace(low[i], high[i], GRID_SHAPE[i]) for i in (0, 1)]
    theta = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    error = _project(theta, log_compute, gain, r0)[-1]
    padded = np.pad(error, 1, constant_values=np.inf)
    neighbours = [padded[i : i + GRID_SHAPE[0], j : j + GRID_SHAPE[1]] for i in (0, 1, 2) for j in (0, 1, 2)]
    lowest = error <= np.min(neighbours, axis=0)
    candidates = theta[lowest]
    return np.asarray(candidates[np.argsort(error[lowest])[:4]])


def _descend(theta: FloatArray, log_compute: FloatArray, gain: FloatArray, r0: float) -> tuple[FloatArray, ...]:
    """Levenberg-Marquardt on the projected residual (Kaufman's Jacobian), all starts at once."""
    low, high = _bounds(log_compute)
    damping = np.full(len(theta), 1e-3)
    amplitude, fraction, residual, error = _project(theta, log_compute, gain, r0)
    for _ in range(MAX_ITERATIONS):
        step = _step(theta, amplitude, fraction, residual, log_compute, damping)
        trial = np.clip(theta + step, low, high)
        projected = _project(trial, log_compute, gain, r0)
        better = projected[-1] < error
        gained = np.max(np.where(better, error - projected[-1], 0.0) / np.maximum(error, 1e-300))
        theta = np.where(better[:, None], trial, theta)
        amplitude, error = (np.where(better, new, old) for new, old in ((projected[0], amplitude), (projected[3], error)))
        fraction, residual = (
            np.where(better[:, None], new, old) for new, old in ((projected[1], fraction), (projected[2], residual))
        )
        damping = np.clip(np.where(better, damping / 5, damping * 4), 1e-12, 1e8)
        if gained < 1e-14 and damping.min() > 1e4:
            break
    return theta, amplitude, error


def _step(
    theta: FloatArray,
    amplitude: FloatArray,
    fraction: FloatArray,
    residual: FloatArray,
    log_compute: FloatArray,
    damping: FloatArray,
) -> FloatArray:
    """The damped Gauss-Newton step [starts, 2]."""
    b = np.exp(theta[:, :1])
    slope = amplitude[:, None] * fraction * (1 - fraction)
    jacobian = np.stack([slope * b * (log_compute - theta[:, 1:]), -slope * b], axis=1)
    norm = np.maximum((fraction**2).sum(-1), 1e-300)[:, None, None]
    along = np.einsum("sip,sp->si", jacobian, fraction)[:, :, None]
    jacobian = jacobian - along * fraction[:, None, :] / norm
    normal = np.einsum("sip,sjp->sij", jacobian, jacobian)
    diagonal = np.einsum("sii->si", normal)
    normal = normal + damping[:, None, None] * np.eye(2) * (diagonal[:, :, None] + 1e-12)
    return np.asarray(np.linalg.solve(normal, np.einsum("sip,sp->si", jacobian, residual)[..., None])[..., 0])
