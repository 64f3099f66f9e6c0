"""One run's fit as a record: plain values, from which fits.json, tables, figures and report are made."""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from scalerl.curve.compare import quantiles
from scalerl.curve.estimators import ESTIMATORS, find_estimator
from scalerl.curve.estimators.prior import PUBLISHED
from scalerl.curve.fit import CurveFit, fit_curve
from scalerl.curve.robustness import robustness
from scalerl.curve.sigmoid import BoolArray
from scalerl.curve.window import Window, cut
from scalerl.fits.points import RunPoints

LABELS = {
    "gpu_hours": "GPU-hours",
    "tokens": "generated tokens",
    "flops": "FLOPs",
    "steps": "optimizer steps",
}
"""The units of the compute axes, in words."""
FORMAT = 2
"""Part of every signature: raise it when a fit's meaning changes, and everything is fitted anew."""
BAND_POINTS = 120
BAND_REACH = 6.0
"""Curves are drawn to this multiple of the last point."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to fit and how."""

    axis: str = "gpu_hours"
    estimator: str = "default"
    min_compute: float | None = None
    """Points before this compute are not fitted (None: the estimator's own rule)."""
    max_compute: float | None = None
    """Points after this compute are not fitted."""
    min_epochs: float | None = None
    """Points before this many passes over the prompts are not fitted; needs a column epoch."""
    predict: tuple[float, ...] = ()
    """Compute at which to predict every run."""
    task: str | None = None
    """Fit the pass rate of this task alone."""

    def __post_init__(self) -> None:
        """Refuse what makes no sense.

        Raises:
            ValueError: no such estimator, one that does not know this axis, or a cut-off that leaves nothing.
        """
        if self.max_compute is not None and not self.max_compute > 0:
            raise ValueError(f"--max-compute {self.max_compute:g} leaves nothing to fit; it must be above 0")
        only_axis = find_estimator(self.estimator).only_axis
        if only_axis not in (None, self.axis):
            others = " or ".join(name for name, other in ESTIMATORS.items() if other.only_axis is None)
            raise ValueError(
                f"the estimator {self.estimator} fits over {only_axis} only; over {self.axis} use {others}"
            )

    @property
    def start(self) -> float:
        """Return where windows begin: at --min-compute, else by the estimator's own rule."""
        return ESTIMATORS[self.estimator].min_compute if self.min_compute is None else self.min_compute


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """A fitted run; every value is JSON."""

    signature: str
    figure: str
    run: str
    seed: str
    key: str
    axis: str
    estimator: str
    measured_r0: float
    curve: dict[str, float]
    """r0, a, b, c_mid of the best curve, also where the ceiling is not identified."""
    bounds: dict[str, tuple[float, float]]
    """90 % intervals of r0, a, b, c_mid."""
    correlation_ab: float
    rmse: float
    num_points: int
    window: tuple[float, float]
    """Compute of the first and of the last fitted point."""
    identified: bool
    reason: str
    """Why the ceiling is not identified; empty when it is."""
    needed_compute: float | None
    """Compute at which the ceiling should be identified; None when it is, or when that cannot be said."""
    a_quantiles: list[float]
    alternatives: list[dict[str, Any]]
    """One `Alternative` a family, best BIC first."""
    windows: list[dict[str, Any]]
    """The `WindowFit` of the whole window, then of its parts."""
    points: dict[str, list[Any]]
    """compute, pass_rate, fitted, num_samples."""
    band: dict[str, list[float]]
    """The curve to draw: compute, predicted, lo90, hi90."""
    predictions: list[dict[str, float | None]]
    """compute, observed (None for a target), predicted, lo90, hi90."""

    def __str__(self) -> str:
        """Return one paragraph for a terminal."""
        curve, (low, high) = self.curve, self.bounds["a"]
        start = f"{self.run}: {self.num_points} points, R0 {curve['r0']:.3f}, rmse {self.rmse:.4f}; "
        if self.identified:
            parameters = f"B {curve['b']:.2f}, C_mid {curve['c_mid']:.4g} {LABELS[self.axis]}"
            return f"{start}A {curve['a']:.3f} (90 %: {low:.3f} to {high:.3f}), {parameters}"
        unknown = f"ceiling not yet identified ({self.reason}); A between {low:.3f} and {high:.3f}"
        return f"{start}{unknown}; {advice(self.needed_compute)} {LABELS[self.axis]}"


def advice(needed_compute: float | None) -> str:
    """Say what to do about a ceiling that is not identified; the unit follows."""
    return f"run to about {needed_compute:.4g}" if needed_compute else "how far to run cannot be said yet, in"


def signature(points: RunPoints, options: Options) -> str:
    """Return what identifies a fit: the same points, options and prior give the same record."""
    # The prior belongs to it: after tools/learn_prior.py every curve is another one.
    arrays = [
        values.tolist() for values in (points.compute, points.pass_rate, points.fitted, points.num_samples)
    ]
    epoch = None if points.epoch is None else points.epoch.tolist()
    name = [points.figure, points.run, points.seed]
    content = [FORMAT, name, points.r0, arrays, epoch, asdict(options), asdict(PUBLISHED)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def window_of(points: RunPoints, options: Options) -> Window:
    """Return what is fitted of a run: its fit points between the cut-offs.

    Raises:
        ValueError: too few points are left, or epochs are asked for and not known.
    """
    start = options.start
    if options.min_epochs is not None:
        if points.epoch is None or not np.isfinite(points.epoch).all():
            raise ValueError(
                f"{points.key} has no epoch in every row; cut off by compute instead (--min-compute)"
            )
        start = max(start, points.compute[points.epoch >= options.min_epochs].min(initial=float("inf")))
    end = float("inf") if options.max_compute is None else options.max_compute
    try:
        return cut(points.window(), start, end)
    except ValueError as error:
        if options.min_compute is None and options.start > 0:
            limit = f"{options.start:g} {LABELS[options.axis]}"
            way_out = (
                f"the estimator {options.estimator} drops points before {limit}; --min-compute 0 keeps them"
            )
            raise ValueError(f"{error}; {way_out}") from None
        raise


def fit_record(points: RunPoints, options: Options) -> RunRecord:
    """Fit one run.

    Raises:
        ValueError: the cut-offs leave too few points.
    """
    window = window_of(points, options)
    fit = fit_curve(window, options.estimator)
    names = ("r0", "a", "b", "c_mid")
    return RunRecord(
        signature=signature(points, options),
        figure=points.figure,
        run=points.run,
        seed=points.seed,
        key=points.key,
        axis=options.axis,
        estimator=options.estimator,
        measured_r0=points.r0,
        curve={name: float(getattr(fit.curve, name)) for name in names},
        bounds={name: fit.parameters.interval(name) for name in names},
        correlation_ab=fit.parameters.correlation_ab,
        rmse=fit.rmse,
        num_points=len(window.compute),
        window=(float(window.compute[0]), float(window.compute[-1])),
        identified=fit.identification.identified,
        reason=fit.identification.reason,
        needed_compute=fit.identification.needed_compute,
        a_quantiles=quantiles(fit.parameters.a).tolist(),
        alternatives=[asdict(alternative) for alternative in fit.alternatives],
        windows=[asdict(window_fit) for window_fit in robustness(window, fit)],
        points={
            "compute": points.compute.tolist(),
            "pass_rate": points.pass_rate.tolist(),
            "fitted": _in_window(points, window).tolist(),
            "num_samples": points.num_samples.tolist(),
        },
        band=_band(fit, points, window),
        predictions=_predictions(fit, points, options),
    )


def _in_window(points: RunPoints, window: Window) -> BoolArray:
    return np.asarray(
        points.fitted & (points.compute >= window.compute[0]) & (points.compute <= window.compute[-1])
    )


def _band(fit: CurveFit, points: RunPoints, window: Window) -> dict[str, list[float]]:
    # Drawn well beyond the last point: the extrapolation is what a reader looks for.
    last = max(points.compute[-1], BAND_REACH * window.compute[-1])
    compute = np.geomspace(min(points.compute[0], window.compute[0]) / 1.5, last, BAND_POINTS)
    prediction = fit.predict(compute)
    return {
        "compute": compute.tolist(),
        "curve": fit.curve(compute).tolist(),
        "predicted": prediction.predicted.tolist(),
        "lo90": prediction.lo90.tolist(),
        "hi90": prediction.hi90.tolist(),
    }


def _predictions(fit: CurveFit, points: RunPoints, options: Options) -> list[dict[str, float | None]]:
    """Return predictions of the points marked as extrapolation, then of the targets asked for."""
    observed: list[float | None] = [
        *points.pass_rate[~points.fitted].tolist(),
        *[None] * len(options.predict),
    ]
    compute = np.array([*points.compute[~points.fitted], *options.predict], dtype=float)
    if not len(compute):
        return []
    prediction = fit.predict(compute)
    columns = (compute.tolist(), observed, prediction.predicted, prediction.lo90, prediction.hi90)
    return [
        {"compute": c, "observed": o, "predicted": float(p), "lo90": float(low), "hi90": float(high)}
        for c, o, p, low, high in zip(*columns, strict=True)
    ]
