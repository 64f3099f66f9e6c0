"""Fit a whole sweep: read, fit what changed, compare, write tables, figures and report."""

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


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What `fit_all` did."""

    records: list[RunRecord]
    num_fitted: int
    """Runs fitted anew; the others were taken from the last fits.json."""
    unreadable: list[Unreadable]
    scored: list[Scored]


def fit_all(path: Path, out: Path, options: Options) -> Outcome:
    """Fit every run below `path` and write fits.csv, fits.json, predictions.csv, ranking.csv, figures/ and report.html.

    Runs whose points and options did not change since the last call into the same `out` are not fitted again.

    Raises:
        ValueError: nothing can be read at all.
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
    scored = _foretell(runs, records, out, options)
    files.write_json(out / "fits.json", [asdict(record) for record in records])
    ranked, paired = compare(records)
    write_tables(out, records, ranked, paired, scored)
    _draw(out / "figures", records, known)
    write_report(out / "report.html", f"Curves of {path.name}", records, ranked, paired, scored, unreadable)
    return Outcome(records=records, num_fitted=num_fitted, unreadable=unreadable, scored=scored)


def _known(path: Path) -> dict[str, RunRecord]:
    """Records of the last call, by signature; none if the file was written by another version."""
    if not path.exists():
        return {}
    records = json.loads(path.read_text())
    try:
        return {record["signature"]: RunRecord(**record) for record in records}
    except TypeError:
        return {}


def _foretell(runs: list[RunPoints], records: list[RunRecord], out: Path, options: Options) -> list[Scored]:
    """Write predictions that were asked for, score those written earlier."""
    folders = {run.key: run.folder for run in runs}
    scored = []
    for record in records:
        folder = folders[record.key] or out / "records" / slug(record.key)
        if any(target > record.points["compute"][-1] for target in options.predict):
            folder.mkdir(parents=True, exist_ok=True)
            write_prediction(folder / NAME, record)
        if (folder / NAME).exists():
            scored.extend(score(folder / NAME, record))
    return scored


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
        path = folder / f"axis_{slug(figure or 'all')}.png"
        gone = any(old.figure == figure and name not in signatures for name, old in known.items())
        if len(members) > 1 and (gone or not path.exists() or any(m.signature not in known for m in members)):
            save(path, axis_figure(figure or "all runs", members))


def slug(key: str) -> str:
    """A file name for a run: letters, digits, dots and dashes; different keys differ."""
    return re.sub(r"[^A-Za-z0-9.\-]", lambda match: f"_{ord(match[0]):x}" if match[0] not in " /" else "_", key)
