"""The grids that hold a posterior, and R0 and A integrated on them in closed form; for posterior.py."""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, ndtr

from scalerl.curve.estimators.prior import Prior
from scalerl.curve.sigmoid import FloatArray
from scalerl.curve.window import Window

GRID_SHAPE = (25, 41)
COARSE_SHAPE = (17, 27)
ZOOMS = 4
KEEP_LOG = 12.0
"""Grid cells this far (in log posterior) below the best are dropped when zooming in."""


@dataclass(frozen=True)
class Noise:
    """One way the points may scatter."""

    scatter: float
    """Standard deviation of an evaluation as a multiple of its binomial one."""
    wander_sd: float
    log_weight: tuple[float, float]
    """Its log weight beforehand: for the run's own parameters, for predictions."""


@dataclass(frozen=True)
class Linear:
    """Posterior of (R0, A) in each grid cell under one noise and both gain priors: arrays [2 * cells]."""

    log_evidence: FloatArray
    r0_mean: FloatArray
    a_mean: FloatArray
    r0_var: FloatArray
    covariance: FloatArray
    a_var: FloatArray


@dataclass(frozen=True)
class Basis:
    """Directions in which the points' noise is independent, whatever the scatter."""

    rotation: FloatArray
    """The directions [points, points], of points in units of their binomial sd."""
    spectrum: FloatArray
    """The wander's variance in each direction, for a wander sd of 1."""
    log_scale: float
    """Log determinant of the scaling by the binomial sd."""

    def variance(self, scatter: float, wander_sd: float) -> FloatArray:
        """Return the noise variance along each direction."""
        return np.asarray(scatter**2 + wander_sd**2 * self.spectrum)


@dataclass(frozen=True)
class Grid:
    """Cells over (log B, log C_mid): `box` [2, 2] holds the limits, `cells` [cells, 2] the centres."""

    box: FloatArray
    cells: FloatArray
    fraction: FloatArray
    """Part of the gain reached at each point, [cells, points]."""
    rotated: FloatArray
    """The same along the basis."""
    squared: FloatArray
    """Its square."""
    step: FloatArray
    """Spacing of the cells [2]."""


def integrate_all(window: Window, prior: Prior) -> tuple[list[Grid], list[Noise], list[Linear]]:
    """Return the grids without and with wander, the noises, and R0 and A integrated under every noise.

    Each of the two has its own grid: however many the points, the wander keeps its posterior wide, and the
    other is narrow.
    """
    basis = _basis(window, prior)
    grids = [_zoomed(basis, window, prior, wander_sd) for wander_sd in (0.0, prior.wander_sd)]
    noises = _noises(grids[0], window, prior)
    parts = [_integrate(grids[n.wander_sd > 0], basis, window, prior, n.scatter, n.wander_sd) for n in noises]
    return grids, noises, parts


def _zoomed(basis: Basis, window: Window, prior: Prior, wander_sd: float) -> Grid:
    box = _first_box(window, prior)
    for _ in range(ZOOMS):
        box = _zoom(_grid(box, COARSE_SHAPE, window, basis), basis, window, prior, wander_sd)
    return _grid(box, GRID_SHAPE, window, basis)


def log_prior(cells: FloatArray, window: Window, prior: Prior) -> FloatArray:
    """Return the log prior density of (log B, log C_mid) [cells, 2], up to one constant for all priors."""
    z_b = (cells[:, 0] - prior.log_b_mean) / prior.log_b_scale
    z_c = (cells[:, 1] - window.log_compute.mean()) / prior.log_c_mid_sd
    return np.asarray(
        -2.5 * np.log1p(z_b**2 / 4) - 0.5 * z_c**2 - np.log(prior.log_b_scale * prior.log_c_mid_sd)
    )


def _first_box(window: Window, prior: Prior) -> FloatArray:
    reach = 4 * prior.log_c_mid_sd
    middle = window.log_compute.mean()
    return np.array([[np.log(0.15), np.log(15.0)], [middle - reach, middle + reach]])


def _basis(window: Window, prior: Prior) -> Basis:
    scaled = correlation(window, prior) / np.outer(window.binomial_sd, window.binomial_sd)
    spectrum, directions = np.linalg.eigh(scaled)
    rotation = directions / window.binomial_sd[:, None]
    return Basis(rotation, np.maximum(spectrum, 0.0), float(np.log(window.binomial_sd).sum()))


def correlation(window: Window, prior: Prior) -> FloatArray:
    """Return the wander's correlation between all pairs of points, [points, points]."""
    x = window.log_compute
    return np.asarray(np.exp(-np.abs(x[:, None] - x) / prior.wander_length))


def _grid(box: FloatArray, shape: tuple[int, int], window: Window, basis: Basis) -> Grid:
    step = (box[:, 1] - box[:, 0]) / shape
    sides = [low + width * (np.arange(n) + 0.5) for low, width, n in zip(box[:, 0], step, shape, strict=True)]
    cells = np.stack(np.meshgrid(*sides, indexing="ij"), axis=-1).reshape(-1, 2)
    fraction = expit(np.exp(cells[:, :1]) * (window.log_compute - cells[:, 1:]))
    rotated = fraction @ basis.rotation
    return Grid(box, cells, fraction, rotated, rotated**2, step)


def _zoom(grid: Grid, basis: Basis, window: Window, prior: Prior, wander_sd: float) -> FloatArray:
    """Return the part of the grid's box that holds the posterior under this wander."""
    scatter = _typical_scatter(grid, window, prior)
    evidence = _integrate(grid, basis, window, prior, scatter, wander_sd).log_evidence
    log_weight = evidence.reshape(2, -1).max(axis=0) + log_prior(grid.cells, window, prior)
    kept = (log_weight > log_weight.max() - KEEP_LOG).reshape(COARSE_SHAPE)
    box = np.empty((2, 2))
    for side in (0, 1):
        index = np.flatnonzero(kept.any(axis=1 - side))
        (low, high), step = grid.box[side], grid.step[side]
        # One cell more on either side: the posterior between two cell centres must not be cut off.
        box[side] = max(low, low + (index[0] - 1) * step), min(high, low + (index[-1] + 2) * step)
    return box


def _typical_scatter(grid: Grid, window: Window, prior: Prior) -> float:
    """Return the scatter that the best cell's residuals and the prior suggest together, without a wander."""
    gain = window.pass_rate - window.r0
    weight = window.binomial_sd**-2.0
    linear, square = grid.fraction @ (weight * gain), grid.squared.sum(axis=1)
    amplitude = np.clip(linear / np.maximum(square, 1e-300), 0.0, 1 - window.r0)
    squares = (weight @ gain**2 - 2 * amplitude * linear + amplitude**2 * square).min()
    points = prior.scatter_points
    return float(np.sqrt((points * prior.white_scatter**2 + max(squares, 0.0)) / (points + len(gain))))


def _noises(grid: Grid, window: Window, prior: Prior) -> list[Noise]:
    """Return five scatters about the likely one without wander, and five with it."""
    typical = _typical_scatter(grid, window, prior)
    step = 1.3 / np.sqrt(2 * (prior.scatter_points + len(window.compute)))
    smallest = min(prior.scatter, 0.8 * typical)
    white = [_noise(typical * np.exp(step * k), 0.0, np.log(step), prior) for k in range(-2, 3)]
    first, spacing = 0.7 * smallest, np.log(1.2 * typical / (0.7 * smallest)) / 4
    wandering = [
        _noise(first * np.exp(spacing * k), prior.wander_sd, np.log(spacing), prior) for k in range(5)
    ]
    return white + wandering


def _noise(scatter: float, wander_sd: float, log_spacing: float, prior: Prior) -> Noise:
    """Return a node with its prior weight, scaled inverse chi-square in the scatter's square."""
    wanders = wander_sd > 0
    ratio = (prior.scatter if wanders else prior.white_scatter) / scatter
    log_weight = prior.scatter_points * (np.log(ratio) - ratio**2 / 2) + log_spacing
    chance = prior.wander_chance if wanders else 1 - prior.wander_chance
    # Evaluations to come are those of a real run: predictions always allow for a wander.
    ahead = log_weight if wanders else -np.inf
    return Noise(float(scatter), wander_sd, (log_weight + np.log(chance), ahead))


def _integrate(
    grid: Grid, basis: Basis, window: Window, prior: Prior, scatter: float, wander_sd: float
) -> Linear:
    """Integrate R0 and A in closed form: 2 x 2 normal equations per cell, A truncated to [measured R0, 1]."""
    variance = basis.variance(scatter, wander_sd)
    y, one = window.pass_rate @ basis.rotation, basis.rotation.sum(axis=0)
    # With v the gain fraction, the curve is R0 (1 - v) + A v: every sum over points is of a product with v.
    vv = grid.squared @ (1 / variance)
    v_one, v_y = grid.rotated @ (one / variance), grid.rotated @ (y / variance)
    one_one, one_y, yy = one @ (one / variance), one @ (y / variance), y @ (y / variance)
    gain_sd = np.array([[prior.gain_sd], [prior.wide_gain_sd]])
    share = np.array([[1 - prior.wide_weight], [prior.wide_weight]])
    room, r0_precision = 1.0 - window.r0, (scatter * window.r0_sd) ** -2.0
    a_precision, a_prior = (room * gain_sd) ** -2.0, window.r0 + room * prior.gain_mean
    r0_r0, r0_a, a_a = one_one - 2 * v_one + vv + r0_precision, v_one - vv, vv + a_precision
    r0_y, a_y = one_y - v_y + r0_precision * window.r0, v_y + a_precision * a_prior
    det = r0_r0 * a_a - r0_a**2
    r0_mean, a_mean = (a_a * r0_y - r0_a * a_y) / det, (r0_r0 * a_y - r0_a * r0_y) / det
    misfit = yy + r0_precision * window.r0**2 + a_precision * a_prior**2 - r0_mean * r0_y - a_mean * a_y
    a_var = r0_r0 / det
    inside = ndtr((1 - a_mean) / np.sqrt(a_var)) - ndtr((window.r0 - a_mean) / np.sqrt(a_var))
    occam = np.log(a_precision * r0_precision / det) - np.log(variance).sum()
    evidence = 0.5 * (occam - misfit) - basis.log_scale + np.log(np.maximum(inside * share, 1e-300))
    columns = (evidence, r0_mean, a_mean, a_a / det, -r0_a / det, a_var)
    return Linear(*(np.broadcast_to(column, det.shape).ravel() for column in columns))
