"""Figures: one a run, one an axis. Log-x, fit window solid, extrapolation dashed, 90 % band."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scalerl import files
from scalerl.fits.records import RunRecord

LABELS = {
    "gpu_hours": "compute (GPU-hours)",
    "tokens": "tokens",
    "flops": "FLOPs",
    "steps": "optimizer steps",
}
COLOURS = (
    "#1f6feb",
    "#d1495b",
    "#2e8b57",
    "#8250df",
    "#c77700",
    "#0f9bb0",
    "#9a3e7c",
    "#5c6670",
    "#7a9a01",
    "#b5482a",
)
DPI = 150
MAX_LEGEND = 20
"""Runs named in the figure of an axis, those with the highest ceilings."""


def save(path: Path, figure: Figure) -> None:
    """Write a figure atomically, as PNG."""
    files.write_atomic(path, lambda temporary: figure.savefig(temporary, dpi=DPI, format="png"))


def run_figure(record: RunRecord) -> Figure:
    """Points, curve and band of one run, its ceiling with interval, and the verdict."""
    figure = Figure(figsize=(5.6, 3.9), layout="constrained")
    axes = _axes(figure, record.axis)
    draw_curve(axes, record, COLOURS[0], band=True)
    low, high = record.bounds["a"]
    axes.axhspan(low, high, color="0.88", zorder=0, label=f"A {low:.3f} to {high:.3f} (90 %)")
    axes.axhline(record.measured_r0, color="0.6", linewidth=0.8, linestyle=":")
    curve = record.curve
    if record.identified:
        summary = f"A {curve['a']:.3f}   B {curve['b']:.2f}   C_mid {curve['c_mid']:.4g}"
    else:
        summary = "ceiling not yet identified"
        axes.annotate(
            _wrap(record.reason), (0.02, 0.02), xycoords="axes fraction", fontsize=6.5, color="0.35"
        )
    axes.set_title(f"{record.key}\n{summary}", fontsize=9, loc="left")
    axes.legend(fontsize=7, frameon=False, loc="upper left")
    seen = [*record.points["pass_rate"], record.measured_r0, *_visible(record)]
    pad = 0.08 * (max(seen) - min(seen))
    axes.set_ylim(min(seen) - pad, max(seen) + 3 * pad)
    return figure


def axis_figure(title: str, records: list[RunRecord]) -> Figure:
    """All runs of one axis in one picture, the legend sorted by ceiling."""
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = _axes(figure, records[0].axis)
    for i, record in enumerate(sorted(records, key=lambda r: -r.curve["a"])):
        verdict = (
            f"A {record.curve['a']:.3f}, B {record.curve['b']:.2f}"
            if record.identified
            else "not yet identified"
        )
        name = record.run + (f" #{record.seed}" if record.seed else "")
        label = f"{name} ({verdict})" if i < MAX_LEGEND else "_"  # matplotlib leaves out what begins so
        draw_curve(axes, record, COLOURS[i % len(COLOURS)], band=False, label=label)
    axes.set_title(title, fontsize=10, loc="left")
    axes.legend(fontsize=7, frameon=False, loc="best")
    return figure


def draw_curve(axes: Axes, record: RunRecord, colour: str, band: bool, label: str | None = None) -> None:
    """One run's curve and points; filled points were fitted, open ones were not."""
    compute, curve, low, high = (np.array(record.band[name]) for name in ("compute", "curve", "lo90", "hi90"))
    start, end = record.window
    before, inside, after = compute < start, (compute >= start) & (compute <= end), compute > end
    joined = after | np.append(after[1:], False)
    axes.plot(compute[inside], curve[inside], color=colour, linewidth=1.8, label=label or "fit")
    axes.plot(compute[joined], curve[joined], color=colour, linewidth=1.4, linestyle="--")
    axes.plot(compute[before], curve[before], color=colour, linewidth=1.0, linestyle=":")
    if band:
        shown = after if record.estimator == "default" else compute > 0
        axes.fill_between(compute[shown], low[shown], high[shown], color=colour, alpha=0.15, linewidth=0)
    x, y = np.array(record.points["compute"]), np.array(record.points["pass_rate"])
    fitted = np.array(record.points["fitted"], dtype=bool)
    axes.plot(x[fitted], y[fitted], "o", color=colour, markersize=3.5)
    axes.plot(x[~fitted], y[~fitted], "o", color=colour, markersize=3.5, markerfacecolor="white")


def _axes(figure: Figure, axis: str) -> Axes:
    axes = figure.add_subplot()
    axes.set(xscale="log", xlabel=LABELS[axis], ylabel="held-out pass rate")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.2, linewidth=0.5)
    return axes


def _visible(record: RunRecord) -> list[float]:
    """The ceiling's bounds, where they do not squeeze the points flat."""
    low, high = record.bounds["a"]
    return [low, min(high, max(record.points["pass_rate"]) + 0.15)]


def _wrap(reason: str) -> str:
    return reason.replace("; ", ";\n")
