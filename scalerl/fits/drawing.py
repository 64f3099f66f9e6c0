"""Pictures: one a run, one a figure of several runs.

Compute is on a log axis; the fit window is solid, the extrapolation dashed, the band holds 90 %.
"""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from scalerl.common import files
from scalerl.curve.estimators import ESTIMATORS
from scalerl.fits.records import LABELS, RunRecord

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
"""Runs named in the picture of a figure, those with the highest ceilings."""


def save(path: Path, picture: Figure) -> None:
    """Write a picture atomically, as PNG."""
    files.write_atomic(path, lambda temporary: picture.savefig(temporary, dpi=DPI, format="png"))


def draw_run(record: RunRecord) -> Figure:
    """Draw points, curve and band of one run, and its ceiling with interval or why there is none."""
    picture = Figure(figsize=(5.6, 3.9), layout="constrained")
    panel = _panel(picture, record.axis)
    draw_curve(panel, record, COLOURS[0], band=True)
    low, high = record.bounds["a"]
    panel.axhspan(low, high, color="0.88", zorder=0, label=f"A {low:.3f} to {high:.3f} (90 %)")
    panel.axhline(record.measured_r0, color="0.6", linewidth=0.8, linestyle=":")
    curve = record.curve
    if record.identified:
        summary = f"A {curve['a']:.3f}   B {curve['b']:.2f}   C_mid {curve['c_mid']:.4g}"
    else:
        summary = "ceiling not yet identified"
        reason = record.reason.replace("; ", ";\n")
        # Curves rise from the lower left to the upper right.
        panel.annotate(reason, (0.98, 0.02), xycoords="axes fraction", fontsize=6.5, color="0.35", ha="right")
    panel.set_title(f"{record.key}\n{summary}", fontsize=9, loc="left")
    panel.legend(fontsize=7, frameon=False, loc="upper left")
    seen = [*record.points["pass_rate"], record.measured_r0, *_visible(record)]
    # The upper rim has room for the legend.
    pad = 0.08 * (max(seen) - min(seen))
    panel.set_ylim(min(seen) - pad, max(seen) + 3 * pad)
    _mark_compute(panel)
    return picture


def draw_together(title: str, records: list[RunRecord]) -> Figure:
    """Draw all runs of one figure in one picture, the legend sorted by ceiling."""
    picture = Figure(figsize=(6.4, 4.4), layout="constrained")
    panel = _panel(picture, records[0].axis)
    for i, record in enumerate(sorted(records, key=lambda r: -r.curve["a"])):
        found = f"A {record.curve['a']:.3f}, B {record.curve['b']:.2f}"
        name = record.run + (f" #{record.seed}" if record.seed else "")
        label = f"{name} ({found if record.identified else 'not yet identified'})"
        if i >= MAX_LEGEND:
            label = "_"  # Matplotlib leaves out of the legend what begins so.
        draw_curve(panel, record, COLOURS[i % len(COLOURS)], band=False, label=label)
    panel.set_title(title, fontsize=10, loc="left")
    panel.legend(fontsize=7, frameon=False, loc="best")
    _mark_compute(panel)
    return picture


def draw_curve(panel: Axes, record: RunRecord, colour: str, band: bool, label: str | None = None) -> None:
    """Draw one run's curve and points; filled points were fitted, open ones were not."""
    compute, curve, low, high = (np.array(record.band[name]) for name in ("compute", "curve", "lo90", "hi90"))
    start, end = record.window
    before, inside, after = compute < start, (compute >= start) & (compute <= end), compute > end
    # The dashed part begins at the last solid point, or there would be a gap.
    joined = after | np.append(after[1:], False)
    panel.plot(compute[inside], curve[inside], color=colour, linewidth=1.8, label=label or "fit")
    panel.plot(compute[joined], curve[joined], color=colour, linewidth=1.4, linestyle="--")
    panel.plot(compute[before], curve[before], color=colour, linewidth=1.0, linestyle=":")
    if band:
        # Draws that speak of evaluations to come say nothing of the window itself.
        shown = after if ESTIMATORS[record.estimator].predicts_median else compute > 0
        panel.fill_between(compute[shown], low[shown], high[shown], color=colour, alpha=0.15, linewidth=0)
    x, y = np.array(record.points["compute"]), np.array(record.points["pass_rate"])
    fitted = np.array(record.points["fitted"], dtype=bool)
    panel.plot(x[fitted], y[fitted], "o", color=colour, markersize=3.5)
    panel.plot(x[~fitted], y[~fitted], "o", color=colour, markersize=3.5, markerfacecolor="white")


def _panel(picture: Figure, axis: str) -> Axes:
    panel = picture.add_subplot()
    panel.set(xscale="log", xlabel=f"compute ({LABELS[axis]})", ylabel="held-out pass rate")
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(alpha=0.2, linewidth=0.5)
    return panel


def _mark_compute(panel: Axes) -> None:
    """Write numbers at 1, 2 and 5 of each decade where the axis has few decades, else at 1 alone."""
    low, high = panel.get_xlim()
    if 3 * low < high < 100 * low and high < 1e6:
        panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.xaxis.set_major_formatter("{x:g}")
        panel.xaxis.set_minor_formatter(NullFormatter())


def _visible(record: RunRecord) -> list[float]:
    """Return the ceiling's bounds, where they do not squeeze the points flat."""
    low, high = record.bounds["a"]
    return [low, min(high, max(record.points["pass_rate"]) + 0.15)]
