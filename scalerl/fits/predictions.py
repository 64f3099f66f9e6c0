"""prediction.json: what was foretold of a run, written once before it is extended, scored afterwards.
 Each target is foretold once: a later call with a farther target adds prediction-2.json, and so on; no file
ever changes.
"""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scalerl import files
from scalerl.curve.sigmoid import Sigmoid
from scalerl.fits.records import RunRecord

NAME = "prediction.json"
FORETOLD = ("compute", "predicted", "lo90", "hi90")
NEAR = 0.1
"""A run stops in time for its last evaluation: one this close below a target is scored, the prediction moved
there along its curve."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """One foretold pass rate and what came of it."""

    key: str
    foretold_at: float
    """The last compute that was known then."""
    compute: float
    predicted: float
    lo90: float
    hi90: float
    observed: float | None
    """Interpolated in log compute between the evaluations either side, or the last one where that is up to
    NEAR short of the target; the prediction is then the foretold one at its compute. None while the run has
    not got there."""
    error: float | None
    """observed - predicted."""
    hit: bool | None
    """Whether the interval holds it."""


def prediction_files(folder: Path) -> list[Path]:
    """What was foretold of the run in `folder`, oldest first."""
    found: list[Path] = []
    while (path := _file(folder, len(found) + 1)).exists():
        found.append(path)
    return found


def _file(folder: Path, number: int) -> Path:
    return folder / (NAME if number == 1 else f"prediction-{number}.json")


def write_prediction(folder: Path, record: RunRecord) -> Path | None:
    """Write the record's targets beyond its window that nothing in `folder` foretells yet; None if there are
    none such.

    Raises:
        ValueError: no target lies beyond the window, or an earlier prediction cannot be read or is over
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
        foretold = {prediction["compute"] for path in known for prediction in _read(path, record.axis)[2]}
        new = [target for target in targets if target["compute"] not in foretold]
        if not new:
            return None
        path = _file(folder, len(known) + 1)
        if _write_new(path, content | {"predictions": new}):
            return path


def _write_new(path: Path, content: dict[str, Any]) -> bool:
    """Write a file that is not there yet; False if another process was first."""
    temporary = files.temporary_name(path)
    try:
        temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
        files.fsync_file(temporary)
        os.link(temporary, path)  # unlike a rename, never replaces what is there
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    files.fsync_folder(path.parent)
    return True


def _read(path: Path, axis: str) -> tuple[float, Sigmoid, list[dict[str, float]]]:
    """(last compute known then, the curve, predictions) of a file over `axis`."""
    written = files.read_json(path)
    try:
        predictions = [{name: float(entry[name]) for name in FORETOLD} for entry in written["predictions"]]
        foretold_at, found, curve = float(written["window"][1]), written["axis"], Sigmoid(**written["curve"])
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(
            f"{path} holds no prediction ({error!r}); delete it or restore it from a copy"
        ) from None
    if found != axis:
        raise ValueError(f"{path} predicts over {found}; fit with --axis {found} to score it")
    return foretold_at, curve, predictions


def score(folder: Path, record: RunRecord) -> list[Scored]:
    """Compare all that was foretold in `folder` with the run as it is now; `record` is on the same compute
    axis.

    Raises:
        ValueError: a prediction was made on another axis, or a file holds none.
    """
    written = [_read(path, record.axis) for path in prediction_files(folder)]
    return [
        _score(prediction, curve, foretold_at, record)
        for foretold_at, curve, predictions in written
        for prediction in predictions
    ]


def _score(prediction: dict[str, float], curve: Sigmoid, foretold_at: float, record: RunRecord) -> Scored:
    compute, pass_rate = record.points["compute"], record.points["pass_rate"]
    if prediction["compute"] > (1 + NEAR) * compute[-1]:
        return Scored(
            key=record.key, foretold_at=foretold_at, **prediction, observed=None, error=None, hit=None
        )
    reached = min(prediction["compute"], compute[-1])
    moved = float(curve(reached) - curve(prediction["compute"]))
    prediction = prediction | {name: prediction[name] + moved for name in ("predicted", "lo90", "hi90")}
    observed = float(np.interp(np.log(reached), np.log(compute), pass_rate))
    return Scored(
        key=record.key,
        foretold_at=foretold_at,
        **prediction,
        observed=observed,
        error=observed - prediction["predicted"],
        hit=prediction["lo90"] <= observed <= prediction["hi90"],
    )
