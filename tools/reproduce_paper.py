"""Recompute the paper's own numbers from its published points; print both side by side (Markdown).

    python tools/reproduce_paper.py

Robustness of the 100k run to the window, the power law that finds no ceiling, and the leave-one-out slopes.
"""

from pathlib import Path

import pandas as pd

from scalerl.curve.alternatives import power_law
from scalerl.curve.compare import linearised_slope
from scalerl.curve.estimators.least_squares import fit_least_squares
from scalerl.curve.fit import fit_curve
from scalerl.curve.sigmoid import Sigmoid
from scalerl.curve.window import Window, cut

POINTS = Path(__file__).parent / "data" / "published_points.csv"
# (start, end in GPU-hours, published A, published B)
ROBUSTNESS = (
    (1500, 50_000, 0.645, 1.70),
    (0, 100_000, 0.655, 1.56),
    (0, 50_000, 0.645, 1.70),
    (5000, 50_000, 0.645, 1.67),
)
POWER_LAW = ((1500, 50_000, 1.0), (5000, 50_000, 0.74), (30_000, 60_000, 0.65))
"""(start, end, published A). The third window is inferred: the one given here yields its value."""
SLOPES = {"ScaleRL": 2.01, "prompt-adv-norm": 1.82, "length-penalty": 1.75}
COMMON_A = 0.605
LOO_END = 8000
"""GPU-hours to which the leave-one-out runs are fitted."""


def window(figure: str, run: str, path: Path = POINTS) -> Window:
    """Return all points of one published curve."""
    rows = pd.read_csv(path).query("figure == @figure and run == @run")
    compute, pass_rate = rows.gpu_hours.to_numpy(dtype=float), rows.pass_rate.to_numpy()
    return Window(compute=compute, pass_rate=pass_rate, r0=float(rows.r0.iloc[0]))


def robustness(path: Path = POINTS) -> list[tuple[float, float, float, float, Sigmoid, Sigmoid]]:
    """Return (start, end, published A, published B, least squares, default) of the 100k run."""
    run = window("fig1", "8B 100k", path)
    rows = []
    for start, end, a, b in ROBUSTNESS:
        part = cut(run, start, end)
        least = fit_least_squares(part.compute, part.pass_rate, part.r0)
        rows.append((start, end, a, b, least, fit_curve(part).curve))
    return rows


def power_law_ceilings(path: Path = POINTS) -> list[tuple[float, float, float, float | None]]:
    """Return (start, end, published A, our A) of A - D / C^B on the 100k run."""
    run = window("fig1", "8B 100k", path)
    return [(start, end, a, power_law(cut(run, start, end))[0]) for start, end, a in POWER_LAW]


def slopes(path: Path = POINTS) -> dict[str, tuple[float, float, float]]:
    """Return published B, the linearised slope, and B by least squares with A fixed to the LOO mean."""
    rows = {}
    for run, published in SLOPES.items():
        part = cut(window("loo1", run, path), 0, LOO_END)
        fixed = _fixed_a(part)
        rows[run] = (published, linearised_slope(part, COMMON_A), fixed)
    return rows


def _fixed_a(part: Window) -> float:
    return fit_least_squares(part.compute, part.pass_rate, part.r0, (COMMON_A, COMMON_A)).b


def main() -> None:
    print("| window (GPU-hours) | published A / B | least squares A / B | default A / B |\n|---|---|---|---|")
    for start, end, a, b, least, ours in robustness():
        pairs = ((a, b), (least.a, least.b), (ours.a, ours.b))
        print(f"| {start}-{end} | " + " | ".join(f"{x:.3f} / {y:.2f}" for x, y in pairs) + " |")
    print("\n| power law on | published A | ours |\n|---|---|---|")
    for start, end, a, ceiling in power_law_ceilings():
        print(f"| {start}-{end} | {a:.2f} | {ceiling:.2f} |")
    print(f"\n| LOO run | published B | linearised slope (A = {COMMON_A}) | least squares with that A |")
    print("|---|---|---|---|")
    for run, (published, slope, fixed) in slopes().items():
        print(f"| {run} | {published:.2f} | {slope:.2f} | {fixed:.2f} |")


if __name__ == "__main__":
    main()
