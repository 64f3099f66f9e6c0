"""The printed procedure of arXiv 2510.13786: a grid over A and C_mid, B fitted in every cell."""

import numpy as np
from scipy.special import expit

from scalerl.curve.estimators.draws import Estimate
from scalerl.curve.estimators.least_squares import delta_draws
from scalerl.curve.estimators.prior import Prior
from scalerl.curve.sigmoid import FloatArray, Sigmoid
from scalerl.curve.window import Window

A_GRID = np.linspace(0.45, 0.8, 71)
C_MID_GRID = np.linspace(100.0, 40_000.0, 100)
"""GPU-hours."""
MIN_GPU_HOURS = 1500.0
"""Points before this (about one epoch) are dropped, as in the paper."""
LOG_B_GRID = np.log(np.geomspace(0.05, 20.0, 48))
NEWTON_STEPS = 12


def estimate_by_paper(window: Window, prior: Prior) -> Estimate:
    """Fit the window by the printed grid, with the textbook uncertainty; the prior is not used."""
    curve = fit_paper(window.compute, window.pass_rate, window.r0)
    draws = delta_draws(curve, window)
    return Estimate(curve=curve, parameters=draws, predictive=draws)


def fit_paper(compute: FloatArray, pass_rate: FloatArray, r0: float) -> Sigmoid:
    """Return the cell of least squared residuals in linear pass rate.

    `compute` [points] is in GPU-hours, the first epoch already dropped. The minimum is that of
    scipy.optimize.curve_fit in each of the 7,100 cells, found for all cells at once.
    """
    gain = pass_rate - r0
    log_ratio = np.log(compute)[None, :] - np.log(C_MID_GRID)[:, None]
    amplitude = A_GRID - r0
    # The coarse grid lands in the valley of each cell; from there Gauss-Newton finds what curve_fit finds.
    log_b = _start(log_ratio, gain, amplitude)
    for _ in range(NEWTON_STEPS):
        log_b = log_b + _newton_step(log_b, log_ratio, gain, amplitude)
    error = _error(log_b, log_ratio, gain, amplitude)
    i, j = np.unravel_index(int(np.argmin(error)), error.shape)
    return Sigmoid(r0=r0, a=float(A_GRID[i]), b=float(np.exp(log_b[i, j])), c_mid=float(C_MID_GRID[j]))


def _start(log_ratio: FloatArray, gain: FloatArray, amplitude: FloatArray) -> FloatArray:
    """Return the best log B of a coarse grid in each cell [A, C_mid].

    The error is quadratic in A, so all A together cost no more than one.
    """
    fraction = expit(np.exp(LOG_B_GRID)[:, None, None] * log_ratio)
    linear, square = fraction @ gain, np.einsum("bcp,bcp->bc", fraction, fraction)
    error = amplitude[:, None, None] ** 2 * square - 2 * amplitude[:, None, None] * linear
    return np.asarray(LOG_B_GRID[np.argmin(error, axis=1)])


def _newton_step(
    log_b: FloatArray, log_ratio: FloatArray, gain: FloatArray, amplitude: FloatArray
) -> FloatArray:
    """Return the Gauss-Newton step in log B of each cell, no longer than the coarse grid's spacing."""
    b = np.exp(log_b)[:, :, None]
    fraction = expit(b * log_ratio)
    slope = amplitude[:, None, None] * fraction * (1 - fraction) * b * log_ratio
    residual = gain - amplitude[:, None, None] * fraction
    step = np.einsum("acp,acp->ac", slope, residual) / np.maximum(
        np.einsum("acp,acp->ac", slope, slope), 1e-300
    )
    limit = LOG_B_GRID[1] - LOG_B_GRID[0]
    return np.asarray(np.clip(step, -limit, limit))


def _error(log_b: FloatArray, log_ratio: FloatArray, gain: FloatArray, amplitude: FloatArray) -> FloatArray:
    fraction = expit(np.exp(log_b)[:, :, None] * log_ratio)
    return np.asarray(((gain - amplitude[:, None, None] * fraction) ** 2).sum(axis=-1))
