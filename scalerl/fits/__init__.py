"""Curves of run folders and tables: read, fit, predict, compare, draw. The mathematics is in
scalerl.curve."""

from dataclasses import asdict, dataclass
from pathlib import Path

from scalerl import files
from scalerl.curve.sigmoid import Sigmoid
from scalerl.fits.figures import run_figure, save
from scalerl.fits.inputs import read_folder
from scalerl.fits.predictions import write_prediction
from scalerl.fits.records import Options, advice, fit_record


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """One run's curve."""

    run: str
    curve: Sigmoid
    """The best curve, also where the ceiling is not identified."""
    a_interval: tuple[float, float]
    """90 % interval of A."""
    rmse: float
    num_points: int
    identified: bool
    reason: str
    """Why the ceiling is not identified; empty when it is."""
    needed_compute: float | None
    """GPU-hours at which it should be; None when it is, or when that cannot be said."""

    def __str__(self) -> str:
        """One paragraph for a terminal."""
        c, (low, high) = self.curve, self.a_interval
        curve = f"{self.run}: {self.num_points} points, R0 {c.r0:.3f}, rmse {self.rmse:.4f}; "
        if self.identified:
            return (
                curve
                + f"A {c.a:.3f} (90 %: {low:.3f} to {high:.3f}), B {c.b:.2f}, C_mid {c.c_mid:.4g} GPU-hours"
            )
        return curve + (
            f"ceiling not yet identified ({self.reason}); A between {low:.3f} and {high:.3f}; "
            f"{advice(self.needed_compute)} GPU-hours"
        )


def fit_run(run_dir: Path) -> FitResult:
    """Fit the eval rows of run_dir/metrics.jsonl over GPU-hours; write run_dir/fit.json and
    run_dir/curve.png.

    Raises:
        ValueError: the evaluations do not make a curve (too few, not ascending, not pass rates).
    """
    record = fit_record(read_folder(run_dir), Options())
    files.write_json(run_dir / "fit.json", asdict(record))
    save(run_dir / "curve.png", run_figure(record))
    return FitResult(
        run=record.run,
        curve=Sigmoid(**record.curve),
        a_interval=record.bounds["a"],
        rmse=record.rmse,
        num_points=record.num_points,
        identified=record.identified,
        reason=record.reason,
        needed_compute=record.needed_compute,
    )


def predict_run(run_dir: Path, gpu_hours: tuple[float, ...]) -> Path | None:
    """Write a prediction of these targets into run_dir, before the run is extended; None if all were foretold
    earlier.

    Raises:
        ValueError: no curve, or no target beyond the last evaluation.
    """
    return write_prediction(run_dir, fit_record(read_folder(run_dir), Options(predict=gpu_hours)))
