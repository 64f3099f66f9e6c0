"""prediction.json: predictions of a run, written once before it is extended and scored afterwards.

Each target is predicted once: a later call with a farther target adds prediction-2.json, and so on; no file
ever changes.
"""

import json
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from scalerl.common import files
from scalerl.curve.sigmoid import Sigmoid
from scalerl.fits.records import RunRecord
from scalerl.paths import RunPaths

KEPT = ("compute", "predicted", "lo90", "hi90")
"""What a file holds of each prediction."""
NEAR = 0.1
"""A run stops in time for its last evaluation: one that ends at most this share below a target is scored, the
prediction moved there along its curve."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """One predicted pass rate and what came of it."""

    key: str
    predicted_at: float
    """The last compute that was known when the prediction was written."""
    compute: float
    predicted: float
    lo90: float
    hi90: float
    observed: float | None
    """The pass rate interpolated in log compute between the evaluations either side, or that of the last one
    where it is up to NEAR short of the target; the prediction is then the one at its compute. None while the
    run has not got there."""
    error: float | None
    """observed - predicted."""
    hit: bool | None
    """True where the interval holds what was observed; None while nothing is."""


def prediction_files(folder: Path) -> list[Path]:
    """Return the predictions written of the run in `folder`, oldest first."""
    found: list[Path] = []
    while (path := RunPaths(folder).prediction(len(found) + 1)).exists():
        found.append(path)
    return found


def write_prediction(folder: Path, record: RunRecord) -> Path | None:
    """Write the record's targets beyond its window that no file in `folder` predicts yet.

    Return the new file, or None if there are no such targets.

    Raises:
        ValueError: no target lies beyond the window, or an earlier file holds no prediction, or one over
            another axis.
    """
    last = record.points["compute"][-1]
    targets = [p for p in record.predictions if p["observed"] is None and (p["compute"] or 0) > last]
    if not targets:
        raise ValueError(f"{record.key}: no target lies beyond the last point, {last:g}")
    content = {
        "written_at_s": time.time(),
        "key": record.key,
        "axis": record.axis,
        "estimator": record.estimator,
        "window": record.window,
        "num_points": record.num_points,
        "identified": record.identified,
        "curve": record.curve,
    }
    while True:
        known = prediction_files(folder)
        predicted = {entry["compute"] for path in known for entry in _read(path, record.axis).predictions}
        new = [target for target in targets if target["compute"] not in predicted]
        if not new:
            return None
        path = RunPaths(folder).prediction(len(known) + 1)
        # Another process may have written this very file meanwhile: look again at what is predicted then.
        text = json.dumps(content | {"predictions": new}, indent=1, allow_nan=False) + "\n"
        if files.write_new(path, partial(Path.write_text, data=text)):
            return path


@dataclass(frozen=True)
class _Written:
    """The content of one prediction file."""

    predicted_at: float
    axis: str
    curve: Sigmoid
    predictions: list[dict[str, float]]


def _read(path: Path, axis: str) -> _Written:
    """Read a file of predictions over `axis`."""
    content = files.read_json(path)
    try:
        written = _Written(
            predicted_at=float(content["window"][1]),
            axis=content["axis"],
            curve=Sigmoid(**content["curve"]),
            predictions=[{name: float(entry[name]) for name in KEPT} for entry in content["predictions"]],
        )
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(
            f"{path} holds no prediction ({error!r}); delete it or restore it from a copy"
        ) from None
    if written.axis != axis:
        raise ValueError(f"{path} predicts over {written.axis}; fit with --axis {written.axis} to score it")
    return written


def score(folder: Path, record: RunRecord) -> list[Scored]:
    """Compare all predictions in `folder` with the run as it is now; `record` is on the same compute axis.

    Raises:
        ValueError: a prediction was made on another axis, or a file holds none.
    """
    files_there = [_read(path, record.axis) for path in prediction_files(folder)]
    return [
        _score(prediction, written, record) for written in files_there for prediction in written.predictions
    ]


def _score(prediction: dict[str, float], written: _Written, record: RunRecord) -> Scored:
    compute, pass_rate = record.points["compute"], record.points["pass_rate"]
    if prediction["compute"] > (1 + NEAR) * compute[-1]:
        return Scored(
            key=record.key,
            predicted_at=written.predicted_at,
            **prediction,
            observed=None,
            error=None,
            hit=None,
        )
    reached = min(prediction["compute"], compute[-1])
    moved = float(written.curve(reached) - written.curve(prediction["compute"]))
    prediction = prediction | {name: prediction[name] + moved for name in ("predicted", "lo90", "hi90")}
    observed = float(np.interp(np.log(reached), np.log(compute), pass_rate))
    return Scored(
        key=record.key,
        predicted_at=written.predicted_at,
        **prediction,
        observed=observed,
        error=observed - prediction["predicted"],
        hit=prediction["lo90"] <= observed <= prediction["hi90"],
    )
