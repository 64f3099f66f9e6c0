"""prediction.json: what was foretold of a run, written once before it is extended, scored afterwards."""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scalerl import files
from scalerl.fits.records import RunRecord

NAME = "prediction.json"


@dataclass(frozen=True, kw_only=True)
class Scored:
    """One foretold pass rate and what came of it."""

    key: str
    compute: float
    predicted: float
    lo90: float
    hi90: float
    observed: float | None
    """Interpolated in log compute between the evaluations either side; None while the run has not got there."""
    error: float | None
    """observed - predicted."""
    hit: bool | None
    """Whether the interval holds it."""


def write_prediction(path: Path, record: RunRecord) -> bool:
    """Write the record's targets beyond its window to `path` unless it exists; says whether it was written.

    Raises:
        ValueError: no target lies beyond the window.
    """
    targets = [p for p in record.predictions if p["observed"] is None and (p["compute"] or 0) > record.points["compute"][-1]]
    if not targets:
        raise ValueError(f"{record.key}: no target lies beyond the last point, {record.points['compute'][-1]:g}")
    content = {
        "written_at_s": time.time(),
        "key": record.key,
        "axis": record.axis,
        "estimator": record.estimator,
        "window": record.window,
        "num_points": record.num_points,
        "identified": record.identified,
        "curve": record.curve,
        "predictions": targets,
    }
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


def score(path: Path, record: RunRecord) -> list[Scored]:
    """Compare a written prediction with the run as it is now; `record` is on the same compute axis.

    Raises:
        ValueError: the prediction was made on another axis, or the file holds none.
    """
    written = files.read_json(path)
    try:
        axis, predictions = written["axis"], written["predictions"]
        if axis == record.axis:
            return [_score(prediction, record) for prediction in predictions]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} holds no prediction ({error!r}); delete it or restore it from a copy") from None
    raise ValueError(f"{path} predicts over {axis}; fit with --axis {axis} to score it")


def _score(prediction: dict[str, Any], record: RunRecord) -> Scored:
    compute, pass_rate = record.points["compute"], record.points["pass_rate"]
    foretold = {name: prediction[name] for name in ("compute", "predicted", "lo90", "hi90")}
    if prediction["compute"] > compute[-1]:
        return Scored(key=record.key, **foretold, observed=None, error=None, hit=None)
    observed = float(np.interp(np.log(prediction["compute"]), np.log(compute), pass_rate))
    return Scored(
        key=record.key,
        **foretold,
        observed=observed,
        error=observed - prediction["predicted"],
        hit=prediction["lo90"] <= observed <= prediction["hi90"],
    )
