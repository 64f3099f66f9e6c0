"""Curves of run folders and tables: read, fit, predict, compare, draw.

The mathematics is in scalerl.curve, whose README.md follows a number from metrics.jsonl to fits.csv.
"""

from dataclasses import asdict
from pathlib import Path

from scalerl.common import files
from scalerl.fits.drawing import draw_run, save
from scalerl.fits.inputs import read_folder
from scalerl.fits.predictions import write_prediction
from scalerl.fits.records import Options, RunRecord, fit_record
from scalerl.paths import RunPaths


def fit_run(run_dir: Path) -> RunRecord:
    """Fit the evaluations of a run over GPU-hours; write fit.json and curve.png into its folder.

    Raises:
        ValueError: the evaluations do not make a curve (too few, not ascending, not pass rates).
    """
    record = fit_record(read_folder(run_dir), Options())
    paths = RunPaths(run_dir)
    files.write_json(paths.fit, asdict(record))
    save(paths.curve, draw_run(record))
    return record


def predict_run(run_dir: Path, gpu_hours: tuple[float, ...]) -> Path | None:
    """Write a prediction of these targets into run_dir, before the run is extended.

    Return the new file, or None if all the targets were predicted earlier.

    Raises:
        ValueError: the run has no curve, or no target lies beyond the last evaluation.
    """
    return write_prediction(run_dir, fit_record(read_folder(run_dir), Options(predict=gpu_hours)))
