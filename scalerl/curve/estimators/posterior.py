"""The default estimator: Bayesian, on a grid, with what can be done in closed form done in closed form.

Given B, C_mid and the noise, R(C) = R0 (1 - s) + A s is linear in R0 and A, so these two are integrated
exactly; B and C_mid live on grids that zoom in on the posterior, the noise on a few nodes (grid.py). The
noise has three parts: binomial sampling times a fitted scatter, a wander about the sigmoid that is correlated
in log compute, and beyond the window a drift of the law itself.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri

from scalerl.curve.estimators.draws import Draws, Estimate
from scalerl.curve.estimators.grid import Grid, Linear, Noise, correlation, integrate_all, log_prior
from scalerl.curve.estimators.prior import Prior
from scalerl.curve.sigmoid import FloatArray, Sigmoid
from scalerl.curve.window import Window, coarsen

NUM_DRAWS = 4000
MAX_POINTS = 400
"""Longer windows are coarsened to this many points first: the wander's covariance is a dense matrix."""


@dataclass(frozen=True)
class Chosen:
    """The cells that the draws fall into, arrays [draws]: indices."""

    node: FloatArray
    """The noise."""
    index: FloatArray
    """The cell and gain prior in `Linear` of that noise."""
    cell: FloatArray
    """The cell in the grid of that noise."""


def fit_posterior(window: Window, prior: Prior) -> Estimate:
    """Return the curve of posterior medians, and draws of the run's parameters and for predictions."""
    window = coarsen(window, MAX_POINTS)
    grids, noises, parts = integrate_all(window, prior)
    # A cell's weight is its density times its area: the two grids have cells of different size.
    cell_priors = [
        np.tile(log_prior(grid.cells, window, prior) + np.log(grid.step).sum(), 2) for grid in grids
    ]
    evidence = np.stack(
        [part.log_evidence + cell_priors[n.wander_sd > 0] for n, part in zip(noises, parts, strict=True)]
    )
    parameters, predictive = (
        _draw(grids, evidence + np.array(weights)[:, None], parts, noises, window, prior)
        for weights in zip(*(noise.log_weight for noise in noises), strict=True)
    )
    medians = {name: float(np.median(getattr(parameters, name))) for name in ("r0", "a", "b", "c_mid")}
    return Estimate(curve=Sigmoid(**medians), parameters=parameters, predictive=predictive)


def _draw(
    grids: list[Grid],
    log_weight: FloatArray,
    parts: list[Linear],
    noises: list[Noise],
    window: Window,
    prior: Prior,
) -> Draws:
    """Draw from the weighted cells [noises, 2 * cells of the noise's grid], then from the normals within."""
    # Always the same random numbers: the same points give the same record.
    rng = np.random.default_rng(0)
    chosen = _choose_cells(log_weight, num_cells=len(grids[0].cells))
    scatter = np.array([noise.scatter for noise in noises])[chosen.node]
    wander_sd = np.array([noise.wander_sd for noise in noises])[chosen.node]
    which = (wander_sd > 0).astype(int)
    cells, steps = np.stack([grid.cells for grid in grids]), np.stack([grid.step for grid in grids])
    # Spread evenly within the cell, or the draws would sit on the grid's few values.
    within = steps[which] * rng.uniform(-0.5, 0.5, (NUM_DRAWS, 2))
    log_b, log_c_mid = (cells[which, chosen.cell] + within).T
    r0, a = _draw_linear(parts, chosen, window.r0, rng)
    return Draws(
        r0=r0,
        a=a,
        b=np.exp(log_b),
        c_mid=np.exp(log_c_mid),
        evaluation_sd=scatter * window.binomial_sd[-1],
        wander_sd=wander_sd,
        wander_end=_draw_wander_end(r0, a, grids[1].fraction, chosen, noises, window, prior, rng),
        wander_length=prior.wander_length,
        drift=prior.drift,
        last_compute=float(window.compute[-1]),
    )


def _choose_cells(log_weight: FloatArray, num_cells: int) -> Chosen:
    """Choose cells by their weight, systematically: a cell's share of the draws is its weight to one draw."""
    total = np.cumsum(np.exp(log_weight - log_weight.max()))
    places = np.searchsorted(total, total[-1] * (np.arange(NUM_DRAWS) + 0.5) / NUM_DRAWS)
    node, index = np.divmod(places, log_weight.shape[1])
    return Chosen(node, index, index % num_cells)


def _draw_linear(
    parts: list[Linear], chosen: Chosen, lowest: float, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """Draw (R0, A): A from its truncated normal, then R0 given A."""
    names = ("r0_mean", "a_mean", "r0_var", "covariance", "a_var")
    r0_mean, a_mean, r0_var, covariance, a_var = (
        np.stack([getattr(part, name) for part in parts])[chosen.node, chosen.index] for name in names
    )
    a_sd = np.sqrt(a_var)
    low, high = ndtr((lowest - a_mean) / a_sd), ndtr((1 - a_mean) / a_sd)
    quantile = np.clip(low + (high - low) * rng.uniform(size=len(a_mean)), 1e-15, 1 - 1e-15)
    a = np.clip(a_mean + a_sd * ndtri(quantile), lowest, 1.0)
    slope = covariance / a_var
    spread = np.sqrt(np.maximum(r0_var - slope * covariance, 0.0))
    return r0_mean + slope * (a - a_mean) + spread * rng.standard_normal(len(a_mean)), a


def _draw_wander_end(
    r0: FloatArray,
    a: FloatArray,
    fraction: FloatArray,
    chosen: Chosen,
    noises: list[Noise],
    window: Window,
    prior: Prior,
    rng: np.random.Generator,
) -> FloatArray:
    """Draw the wander at the last point given each draw's residuals: a normal, from the process itself."""
    end = np.zeros(len(chosen.node))
    related = correlation(window, prior)
    for i in np.unique(chosen.node):
        noise, mine = noises[i], chosen.node == i
        if not noise.wander_sd:
            continue
        cross = noise.wander_sd**2 * related[-1]
        covariance = noise.wander_sd**2 * related + np.diag((noise.scatter * window.binomial_sd) ** 2)
        gain = np.linalg.solve(covariance, cross)
        spread = np.sqrt(max(noise.wander_sd**2 - gain @ cross, 0.0))
        level = gain.sum() * r0[mine] + (a - r0)[mine] * (fraction @ gain)[chosen.cell[mine]]
        end[mine] = window.pass_rate @ gain - level + spread * rng.standard_normal(mine.sum())
    return end
