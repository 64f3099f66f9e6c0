"""Fit a whole sweep: read, fit what changed, compare, write tables, figures and report."""

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from scalerl import files
from scalerl.fits.figures import axis_figure, run_figure, save
from scalerl.fits.inputs import RunPoints, Unreadable, read_input
from scalerl.fits.predictions import NAME, Scored, score, write_prediction
from scalerl.fits.records import Options, RunRecord, fit_record, signature
from scalerl.fits.report import write_report
from scalerl.fits.tables import compare, write_tables

MAX_READABLE = 100
"""File names keep this much of a run's key."""
Foretold = tuple[list[Scored], list[Unreadable], list[str]]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What `fit_all` did."""

    records: list[RunRecord]
    num_fitted: int
    """Runs fitted anew; the others were taken from the last fits.json."""
    unreadable: list[Unreadable]
    scored: list[Scored]
    notes: list[str]
    """What was asked for and not done, without being an error."""


def fit_all(path: Path, out: Path, options: Options) -> Outcome:
    """Fit every run below `path` and write fits.csv, fits.json, predictions.csv, ranking.csv, figures/ and report.html.

    Runs whose points and options did not change since the last call into the same `out` are not fitted again.

    Raises:
        ValueError: nothing can be read at all.
        OSError: `out` cannot be written.
    """
    runs, unreadable = read_input(path, options.axis)
    out.mkdir(parents=True, exist_ok=True)
    known = _known(out / "fits.json")
    records, num_fitted = [], 0
    for run in runs:
        record = known.get(signature(run, options))
        if record is None:
            try:
                record = fit_record(run, options)
            except ValueError as error:
                unreadable.append(Unreadable(run=run.key, reason=str(error)))
                continue
            num_fitted += 1
        records.append(record)
    scored, failed, notes = _foretell(runs, records, out, options)
    unreadable += failed
    ranked, paired = compare(records)
    write_tables(out, records, ranked, paired, scored)
    _draw(out / "figures", records, known)
    write_report(out / "report.html", f"Curves of {path.name}", records, ranked, paired, scored, unreadable)
    # last: after an interruption, the figures that may be missing are those of runs not known here
    files.write_json(out / "fits.json", [asdict(record) for record in records])
    return Outcome(records=records, num_fitted=num_fitted, unreadable=unreadable, scored=scored, notes=notes)


def _known(path: Path) -> dict[str, RunRecord]:
    """Records of the last call, by signature; none if the file is broken or of another version."""
    try:
        return {record["signature"]: RunRecord(**record) for record in json.loads(path.read_text())}
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def _foretell(runs: list[RunPoints], records: list[RunRecord], out: Path, options: Options) -> Foretold:
    """Write predictions that were asked for, score those written earlier."""
    folders = {run.key: run.folder for run in runs}
    scored: list[Scored] = []
    unreadable, notes = [], []
    for record in records:
        folder = folders[record.key] or out / "records" / slug(record.key)
        targets = {target for target in options.predict if target > record.points["compute"][-1]}
        try:
            if targets:
                folder.mkdir(parents=True, exist_ok=True)
            written = bool(targets) and write_prediction(folder / NAME, record)
            rows = score(folder / NAME, record) if (folder / NAME).exists() else []
        except (ValueError, OSError) as error:
            unreadable.append(Unreadable(run=record.key, reason=str(error)))
            continue
        scored.extend(rows)
        if not written and targets - {row.compute for row in rows}:
            notes.append(f"{NAME} of {record.key} is of an earlier call and stays: {folder / NAME}")
    return scored, unreadable, notes


def _draw(folder: Path, records: list[RunRecord], known: dict[str, RunRecord]) -> None:
    """Figures of runs that changed, and of axes with such a run."""
    folder.mkdir(exist_ok=True)
    for record in records:
        path = folder / f"{slug(record.key)}.png"
        if record.signature not in known or not path.exists():
            save(path, run_figure(record))
    signatures = {record.signature for record in records}
    for figure in dict.fromkeys(record.figure for record in records):
        members = [record for record in records if record.figure == figure]
        path = folder / f"axis_{slug(figure) if figure else 'all'}.png"
        gone = any(old.figure == figure and name not in signatures for name, old in known.items())
        if len(members) > 1 and (gone or not path.exists() or any(m.signature not in known for m in members)):
            save(path, axis_figure(figure or "all runs", members))


def slug(key: str) -> str:
    """A file name for a run: what can be read of its key, then six digits of a hash, so that different keys differ."""
    readable = re.sub(r"[^A-Za-z0-9.\-]", "_", key)[:MAX_READABLE].lstrip(".")
    return f"{readable}-{hashlib.sha256(key.encode()).hexdigest()[:6]}"
