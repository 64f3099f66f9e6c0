"""The default estimator: Bayesian, on a grid, with what can be done in closed form done in closed form.
 Given B, C_mid and the noise, R(C) = R0 (1 - s) + A s is linear in R0 and A, so these two are integrated
exactly; B and C_mid live on grids that zoom in on the posterior, the noise on a few nodes. The noise has
three parts: binomial sampling times a fitted scatter, a wander about the sigmoid that is correlated in log
compute, and beyond the window a drift of the law itself.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, ndtr, ndtri

from scalerl.curve.draws import Draws
from scalerl.curve.prior import Prior
from scalerl.curve.sigmoid import FloatArray
from scalerl.curve.window import Window, merge

NUM_DRAWS = 4000
GRID_SHAPE = (25, 41)
COARSE_SHAPE = (17, 27)
ZOOMS = 4
MAX_POINTS = 400
"""Longer windows are merged to this many points first: the wander's covariance is a dense matrix."""
KEEP_LOG = 12.0
"""Grid cells this far (in log posterior) below the best are dropped when zooming in."""


@dataclass(frozen=True)
class Noise:
    """One way the points may scatter, and its log weight beforehand (for the parameters, for predictions)."""

    scatter: float
    wander_sd: float
    log_weight: tuple[float, float]


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
    """Directions in which the points' noise is independent, whatever the scatter: rotation [points, points]
    of the points in units of their binomial sd, and the wander's share in each direction for a wander sd of
    1."""

    rotation: FloatArray
    spectrum: FloatArray
    log_scale: float
    """Log determinant of the scaling by the binomial sd."""

    def variance(self, scatter: float, wander_sd: float) -> FloatArray:
        """Noise variance along each direction."""
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


def fit_posterior(window: Window, prior: Prior) -> tuple[Draws, Draws]:
    """Draws for the run's own parameters, and draws for predicting its evaluations to come."""
    window = merge(window, MAX_POINTS)
    grids, noises, parts = integrate_all(window, prior)
    cell_priors = [
        np.tile(log_prior(grid.cells, window, prior) + np.log(grid.step).sum(), 2) for grid in grids
    ]
    evidence = np.stack(
        [part.log_evidence + cell_priors[n.wander_sd > 0] for n, part in zip(noises, parts, strict=True)]
    )
    weights = np.array([noise.log_weight for noise in noises])
    parameters, predictive = (
        _draw(grids, evidence + weights[:, [purpose]], parts, noises, window, prior) for purpose in (0, 1)
    )
    return parameters, predictive


def integrate_all(window: Window, prior: Prior) -> tuple[list[Grid], list[Noise], list[Linear]]:
    """The grids that hold the posterior without and with wander, and R0 and A integrated there under every
    noise.

    Each has its own: however many the points, the wander keeps its posterior wide, and the other is narrow.
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
    """Log prior density of (log B, log C_mid) [cells, 2], normalised up to one constant for all priors."""
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
    scaled = _correlation(window, prior) / np.outer(window.binomial_sd, window.binomial_sd)
    spectrum, directions = np.linalg.eigh(scaled)
    rotation = directions / window.binomial_sd[:, None]
    return Basis(rotation, np.maximum(spectrum, 0.0), float(np.log(window.binomial_sd).sum()))


def _correlation(window: Window, prior: Prior) -> FloatArray:
    x = window.log_compute
    return np.asarray(np.exp(-np.abs(x[:, None] - x) / prior.wander_length))


def _grid(box: FloatArray, shape: tuple[int, int], window: Window, basis: Basis) -> Grid:
    step = (box[:, 1] - box[:, 0]) / shape
    axes = [low + width * (np.arange(n) + 0.5) for low, width, n in zip(box[:, 0], step, shape, strict=True)]
    cells = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    fraction = expit(np.exp(cells[:, :1]) * (window.log_compute - cells[:, 1:]))
    rotated = fraction @ basis.rotation
    return Grid(box, cells, fraction, rotated, rotated**2, step)


def _zoom(grid: Grid, basis: Basis, window: Window, prior: Prior, wander_sd: float) -> FloatArray:
    """The part of the grid's box that holds the posterior under this wander."""
    scatter = _typical_scatter(grid, window, prior)
    evidence = (
        _integrate(grid, basis, window, prior, scatter, wander_sd).log_evidence.reshape(2, -1).max(axis=0)
    )
    log_weight = evidence + log_prior(grid.cells, window, prior)
    kept = (log_weight > log_weight.max() - KEEP_LOG).reshape(COARSE_SHAPE)
    box = np.empty((2, 2))
    for axis in (0, 1):
        index = np.flatnonzero(kept.any(axis=1 - axis))
        (low, high), step = grid.box[axis], grid.step[axis]
        box[axis] = max(low, low + (index[0] - 1) * step), min(high, low + (index[-1] + 2) * step)
    return box


def _typical_scatter(grid: Grid, window: Window, prior: Prior) -> float:
    """The scatter that the best cell's residuals and the prior suggest together, no wander assumed."""
    gain = window.pass_rate - window.r0
    weight = window.binomial_sd**-2.0
    linear, square = grid.fraction @ (weight * gain), grid.squared.sum(axis=1)
    amplitude = np.clip(linear / np.maximum(square, 1e-300), 0.0, 1 - window.r0)
    squares = (weight @ gain**2 - 2 * amplitude * linear + amplitude**2 * square).min()
    points = prior.scatter_points
    return float(np.sqrt((points * prior.white_scatter**2 + max(squares, 0.0)) / (points + len(gain))))


def _noises(grid: Grid, window: Window, prior: Prior) -> list[Noise]:
    """Five scatters about the likely one, without and with wander."""
    typical = _typical_scatter(grid, window, prior)
    step = 1.3 / np.sqrt(2 * (prior.scatter_points + len(window.compute)))
    smallest = min(prior.scatter, 0.8 * typical)
    white = [
        _noise(
            typical * np.exp(step * k), 0.0, prior.white_scatter, prior, np.log(step), 1 - prior.wander_chance
        )
        for k in range(-2, 3)
    ]
    spacing = np.log(1.2 * typical / (0.7 * smallest)) / 4
    wandering = [
        _noise(
            0.7 * smallest * np.exp(spacing * k),
            prior.wander_sd,
            prior.scatter,
            prior,
            np.log(spacing),
            prior.wander_chance,
        )
        for k in range(5)
    ]
    return white + wandering


def _noise(
    scatter: float, wander_sd: float, expected: float, prior: Prior, log_spacing: float, chance: float
) -> Noise:
    """A node with its prior weight: scaled inverse chi-square in the scatter's square."""
    ratio = expected / scatter
    log_weight = prior.scatter_points * (np.log(ratio) - ratio**2 / 2) + log_spacing
    return Noise(
        float(scatter), wander_sd, (log_weight + np.log(chance), log_weight if wander_sd else -np.inf)
    )


def _integrate(
    grid: Grid, basis: Basis, window: Window, prior: Prior, scatter: float, wander_sd: float
) -> Linear:
    """Integrate R0 and A in closed form (2 x 2 normal equations per cell); A is truncated to [measured R0,
    1]."""
    variance = basis.variance(scatter, wander_sd)
    y, one = window.pass_rate @ basis.rotation, basis.rotation.sum(axis=0)
    vv, v_one, v_y = (
        grid.squared @ (1 / variance),
        grid.rotated @ (one / variance),
        grid.rotated @ (y / variance),
    )
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
    evidence = (
        0.5 * (np.log(a_precision * r0_precision / det) - misfit - np.log(variance).sum()) - basis.log_scale
    )
    evidence = evidence + np.log(np.maximum(inside * share, 1e-300))
    columns = (evidence, r0_mean, a_mean, a_a / det, -r0_a / det, a_var)
    return Linear(*(np.broadcast_to(column, det.shape).ravel() for column in columns))


def _draw(
    grids: list[Grid],
    log_weight: FloatArray,
    parts: list[Linear],
    noises: list[Noise],
    window: Window,
    prior: Prior,
) -> Draws:
    """Systematic draws from the weighted cells [noises, 2 * cells of the noise's grid], then from the normals
    within."""
    rng = np.random.default_rng(0)
    total = np.cumsum(np.exp(log_weight - log_weight.max()))
    chosen = np.searchsorted(total, total[-1] * (np.arange(NUM_DRAWS) + 0.5) / NUM_DRAWS)
    node, index = np.divmod(chosen, log_weight.shape[1])
    scatter, wander_sd = (
        np.array([getattr(n, name) for n in noises])[node] for name in ("scatter", "wander_sd")
    )
    which, cell = (wander_sd > 0).astype(int), index % len(grids[0].cells)
    cells, steps = np.stack([grid.cells for grid in grids]), np.stack([grid.step for grid in grids])
    log_b, log_c_mid = (cells[which, cell] + steps[which] * rng.uniform(-0.5, 0.5, (NUM_DRAWS, 2))).T
    r0, a = _draw_linear(parts, node, index, window.r0, rng)
    return Draws(
        r0=r0,
        a=a,
        b=np.exp(log_b),
        c_mid=np.exp(log_c_mid),
        evaluation_sd=scatter * window.binomial_sd[-1],
        wander_sd=wander_sd,
        wander_end=_draw_wander_end(r0, a, grids[1].fraction, cell, node, noises, window, prior, rng),
        wander_length=prior.wander_length,
        drift=prior.drift,
        last_compute=float(window.compute[-1]),
    )


def _draw_linear(
    parts: list[Linear], node: FloatArray, index: FloatArray, lowest: float, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """(R0, A) of each draw: A from its truncated normal, R0 given A."""
    names = ("r0_mean", "a_mean", "r0_var", "covariance", "a_var")
    r0_mean, a_mean, r0_var, covariance, a_var = (
        np.stack([getattr(p, n) for p in parts])[node, index] for n in names
    )
    a_sd = np.sqrt(a_var)
    low, high = ndtr((lowest - a_mean) / a_sd), ndtr((1 - a_mean) / a_sd)
    quantile = np.clip(low + (high - low) * rng.uniform(size=len(node)), 1e-15, 1 - 1e-15)
    a = np.clip(a_mean + a_sd * ndtri(quantile), lowest, 1.0)
    slope = covariance / a_var
    spread = np.sqrt(np.maximum(r0_var - slope * covariance, 0.0))
    return r0_mean + slope * (a - a_mean) + spread * rng.standard_normal(len(node)), a


def _draw_wander_end(
    r0: FloatArray,
    a: FloatArray,
    fraction: FloatArray,
    cell: FloatArray,
    node: FloatArray,
    noises: list[Noise],
    window: Window,
    prior: Prior,
    rng: np.random.Generator,
) -> FloatArray:
    """The wander at the last point given each draw's residuals: a normal, from the process itself."""
    end = np.zeros(len(node))
    correlation = _correlation(window, prior)
    memory = correlation[-1]
    for i in np.unique(node):
        noise, mine = noises[i], node == i
        if noise.wander_sd:
            cross = noise.wander_sd**2 * memory
            covariance = noise.wander_sd**2 * correlation + np.diag((noise.scatter * window.binomial_sd) ** 2)
            gain = np.linalg.solve(covariance, cross)
            spread = np.sqrt(max(noise.wander_sd**2 - gain @ cross, 0.0))
            level = gain.sum() * r0[mine] + (a - r0)[mine] * (fraction @ gain)[cell[mine]]
            end[mine] = window.pass_rate @ gain - level + spread * rng.standard_normal(mine.sum())
    return end
