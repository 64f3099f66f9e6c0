"""Curves of run folders: read evaluations, fit, write fit.json and curve.png."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from scalerl import files
from scalerl.curve.least_squares import fit_least_squares
from scalerl.curve.sigmoid import FloatArray, Sigmoid


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """One run's curve."""

    run: str
    curve: Sigmoid
    rmse: float
    num_points: int
    identified: bool
    reason: str


def fit_run(run_dir: Path) -> FitResult:
    """Fit the eval rows of run_dir/metrics.jsonl; write run_dir/fit.json and run_dir/curve.png.

    Raises:
        ValueError: fewer than four evaluations after the first.
    """
    compute, pass_rate, r0 = _read(run_dir)
    curve = fit_least_squares(compute, pass_rate, r0)
    reason = _reason(curve, compute)
    rmse = float(np.sqrt(np.mean((curve(compute) - pass_rate) ** 2)))
    result = FitResult(
        run=run_dir.name, curve=curve, rmse=rmse, num_points=len(compute), identified=not reason, reason=reason
    )
    files.write_json(run_dir / "fit.json", asdict(result))
    files.write_atomic(run_dir / "curve.png", lambda path: _draw(path, result, compute, pass_rate))
    return result


def _read(run_dir: Path) -> tuple[FloatArray, FloatArray, float]:
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    rows = sorted((row for row in rows if row["kind"] == "eval"), key=lambda row: row["step"])
    if len(rows) < 5:
        raise ValueError(f"{run_dir} has {len(rows)} evaluations; a curve needs R0 and at least 4 more: run longer")
    compute = np.array([row["gpu_hours"] for row in rows[1:]])
    return compute, np.array([row["pass_rate"] for row in rows[1:]]), float(rows[0]["pass_rate"])


def _reason(curve: Sigmoid, compute: FloatArray) -> str:
    if curve.a >= 0.999:
        return "A lies on its bound 1.0"
    if curve.c_mid > compute.max():
        return f"the window ends at {compute.max():.3g}, before C_mid = {curve.c_mid:.3g}"
    return ""


def _draw(path: Path, result: FitResult, compute: FloatArray, pass_rate: FloatArray) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 3.8), layout="constrained")
    axes = figure.add_subplot()
    grid = np.geomspace(compute.min() / 1.5, compute.max() * 4, 300)
    inside = grid <= compute.max()
    axes.plot(grid[inside], result.curve(grid[inside]), color="C0")
    axes.plot(grid[~inside], result.curve(grid[~inside]), color="C0", linestyle="--")
    axes.plot(compute, pass_rate, "o", color="C0", markersize=4)
    verdict = "" if result.identified else " (not yet identified)"
    axes.set_title(f"{result.run}: A {result.curve.a:.3f}, B {result.curve.b:.2f}{verdict}", fontsize=10)
    axes.set(xscale="log", xlabel="GPU-hours", ylabel="held-out pass rate")
    figure.savefig(path, dpi=150, format="png")
