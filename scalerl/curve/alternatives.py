"""Other curves through the same points, compared by AIC and BIC: does the window show a bend, and which one?

R0 is measured and given to every family; what is linear is solved for, the rest is searched on a grid that
zooms in.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from scalerl.curve.estimators.least_squares import fit_least_squares
from scalerl.curve.sigmoid import FloatArray
from scalerl.curve.window import Window

ZOOMS = 9
GRID_POINTS = 15


@dataclass(frozen=True, kw_only=True)
class Alternative:
    """One family's least-squares fit."""

    family: str
    ceiling: float | None
    """The family's asymptotic pass rate; None where it has none."""
    rmse: float
    """Root mean square distance of the points from the curve."""
    aic: float
    bic: float


def compare_families(window: Window) -> list[Alternative]:
    """Fit every family to the window; return them best BIC first."""
    fits = [_summary(family, *fit(window), window) for family, fit in FAMILIES.items()]
    return sorted(fits, key=lambda fit: fit.bic)


def _summary(
    family: str, ceiling: float | None, predicted: FloatArray, num_free: int, window: Window
) -> Alternative:
    n = len(window.compute)
    mean_square = max(float(np.mean((window.pass_rate - predicted) ** 2)), 1e-12)
    spent = num_free + 1  # The scatter is estimated too.
    fit = n * np.log(mean_square)
    return Alternative(
        family=family,
        ceiling=ceiling,
        rmse=float(np.sqrt(mean_square)),
        aic=float(fit + 2 * spent),
        bic=float(fit + spent * np.log(n)),
    )


def _sigmoid(window: Window) -> tuple[float | None, FloatArray, int]:
    curve = fit_least_squares(window.compute, window.pass_rate, window.r0)
    return curve.a, curve(window.compute), 3


def power_law(window: Window) -> tuple[float | None, FloatArray, int]:
    """Fit A - D / C^B with A <= 1, the form of pre-training's laws; return (A, curve, free numbers)."""
    # Compute in units of its geometric mean: C^-B neither over- nor underflows, whatever the unit.
    log_ratio = window.log_compute - window.log_compute.mean()

    def solve(theta: FloatArray) -> tuple[FloatArray, FloatArray]:
        falling = np.exp(-np.exp(theta) * log_ratio)
        centred = falling - falling.mean(axis=1, keepdims=True)
        d = -(centred @ window.pass_rate) / np.maximum((centred**2).sum(axis=1), 1e-300)
        a = np.minimum(window.pass_rate.mean() + d * falling.mean(axis=1), 1.0)
        d = ((a[:, None] - window.pass_rate) * falling).sum(axis=1) / (falling**2).sum(axis=1)
        return a, a[:, None] - d[:, None] * falling

    a, predicted = _best(solve, window, [(np.log(1e-3), np.log(10.0))])
    return a, predicted, 3


def _stretched_exponential(window: Window) -> tuple[float | None, FloatArray, int]:
    """Fit R0 + (A - R0) (1 - exp(-(C / C_mid)^B)), which saturates faster than the sigmoid."""
    gain = window.pass_rate - window.r0

    def solve(theta: FloatArray) -> tuple[FloatArray, FloatArray]:
        power = np.clip(np.exp(theta[:, :1]) * (window.log_compute - theta[:, 1:]), -50, 50)
        part = -np.expm1(-np.exp(power))
        amplitude = np.clip(
            (part @ gain) / np.maximum((part**2).sum(axis=1), 1e-300), -window.r0, 1 - window.r0
        )
        return amplitude + window.r0, window.r0 + amplitude[:, None] * part

    span = (window.log_compute[0] - 3.0, window.log_compute[-1] + 5.0)
    a, predicted = _best(solve, window, [(np.log(0.1), np.log(10.0)), span])
    return a, predicted, 3


def _no_ceiling(window: Window) -> tuple[float | None, FloatArray, int]:
    """Fit R0 + D C^B, which the sigmoid becomes when C_mid lies far beyond the window: no bend."""
    gain = window.pass_rate - window.r0
    log_ratio = window.log_compute - window.log_compute[-1]

    def solve(theta: FloatArray) -> tuple[FloatArray, FloatArray]:
        rising = np.exp(np.exp(theta) * log_ratio)
        d = (rising @ gain) / (rising**2).sum(axis=1)
        return d, window.r0 + d[:, None] * rising

    return None, _best(solve, window, [(np.log(0.01), np.log(10.0))])[1], 2


def _logarithm(window: Window) -> tuple[float | None, FloatArray, int]:
    """Fit a straight line in log compute."""
    x = window.log_compute - window.log_compute.mean()
    slope = (x @ window.pass_rate) / max(x @ x, 1e-300)
    return None, window.pass_rate.mean() + slope * x, 2


def _best(
    solve: Callable[[FloatArray], tuple[FloatArray, FloatArray]],
    window: Window,
    box: list[tuple[float, float]],
) -> tuple[float, FloatArray]:
    """Search the non-linear parameters in `box` on a grid that zooms in; return the best cell's ceiling and
    curve.

    `solve` takes parameters [cells, parameters] and returns the linear ceiling [cells] and the curves [cells,
    points].
    """
    for _ in range(ZOOMS):
        sides = [np.linspace(low, high, GRID_POINTS) for low, high in box]
        theta = np.stack(np.meshgrid(*sides, indexing="ij"), axis=-1).reshape(-1, len(box))
        linear, predicted = solve(theta)
        best = int(np.argmin(((window.pass_rate - predicted) ** 2).sum(axis=1)))
        steps = [2 * (high - low) / (GRID_POINTS - 1) for low, high in box]
        inside = zip(theta[best], steps, box, strict=True)
        # The next box is two steps either way around the best cell, inside the last one.
        box = [(max(at - step, low), min(at + step, high)) for at, step, (low, high) in inside]
    return float(linear[best]), predicted[best]


# Each returns (ceiling or None, the curve at the window's points, number of free parameters).
FAMILIES: dict[str, Callable[[Window], tuple[float | None, FloatArray, int]]] = {
    "sigmoid": _sigmoid,
    "power_law": power_law,
    "stretched_exponential": _stretched_exponential,
    "no_ceiling": _no_ceiling,
    "logarithm": _logarithm,
}
BENDLESS = ("no_ceiling", "logarithm")
"""Families without a ceiling: where one of them does as well as the sigmoid, the window shows no bend."""
