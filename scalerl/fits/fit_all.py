"""Fit a whole sweep: read, fit what changed, compare, write tables, figures and report."""

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from scalerl.alarms import Alarm, alarms
from scalerl.common import files
from scalerl.fits.drawing import draw_run, draw_together, save
from scalerl.fits.inputs import Unreadable, read_input
from scalerl.fits.points import RunPoints
from scalerl.fits.predictions import Scored, score, write_prediction
from scalerl.fits.records import Options, RunRecord, fit_record, signature
from scalerl.fits.report import write_report
from scalerl.fits.tables import compare, write_tables
from scalerl.metrics.rows import read_rows
from scalerl.paths import RunPaths
from scalerl.spool.best import FinalTest, read_test

MAX_READABLE = 100
"""File names keep this much of a run's key."""


@dataclass(frozen=True, kw_only=True)
class SweepFits:
    """What `fit_all` did."""

    records: list[RunRecord]
    num_fitted: int
    """Runs fitted anew; the others were taken from the last fits.json."""
    unreadable: list[Unreadable]
    scored: list[Scored]


def fit_all(path: Path, out: Path, options: Options) -> SweepFits:
    """Fit every run below `path`; write tables, figures/, report.html and fits.json into `out`.

    Runs whose points and options did not change since the last call into the same `out` are not fitted again.

    Raises:
        ValueError: nothing can be read at all.
        OSError: `out` cannot be written.
    """
    runs, unreadable = read_input(path, options.axis, options.task)
    out.mkdir(parents=True, exist_ok=True)
    known = _known(out / "fits.json")
    records, num_fitted, unfitted = _fit_changed(runs, known, options)
    scored, unscored = _predict(runs, records, out, options)
    unreadable += unfitted + unscored
    ranked, paired = compare(records)
    write_tables(out, records, ranked, paired, scored)
    _draw(out / "figures", records, known)
    title = f"Curves of {path.name}" + (f", {options.task} alone" if options.task else "")
    report = (records, ranked, paired, scored, unreadable, _alarmed(runs), _tested(runs))
    write_report(out / "report.html", title, *report)
    # Last: after an interruption, the figures that may be missing are those of runs not known here.
    files.write_json(out / "fits.json", [asdict(record) for record in records])
    return SweepFits(records=records, num_fitted=num_fitted, unreadable=unreadable, scored=scored)


def _known(path: Path) -> dict[str, RunRecord]:
    """Return the records of the last call by signature; none if the file is broken or of another version."""
    try:
        return {record["signature"]: RunRecord(**record) for record in json.loads(path.read_text())}
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def _fit_changed(
    runs: list[RunPoints], known: dict[str, RunRecord], options: Options
) -> tuple[list[RunRecord], int, list[Unreadable]]:
    """Fit the runs that are not known; return all records, the number fitted, and what could not be."""
    records, num_fitted, unfitted = [], 0, []
    for run in runs:
        record = known.get(signature(run, options))
        if record is None:
            try:
                record = fit_record(run, options)
            except ValueError as error:
                unfitted.append(Unreadable(run=run.key, reason=str(error)))
                continue
            num_fitted += 1
        records.append(record)
    return records, num_fitted, unfitted


def _predict(
    runs: list[RunPoints], records: list[RunRecord], out: Path, options: Options
) -> tuple[list[Scored], list[Unreadable]]:
    """Write predictions that were asked for and are not there yet; score all that are."""
    folders = {run.key: run.folder for run in runs}
    scored: list[Scored] = []
    unscored = []
    for record in records:
        # A run folder holds predictions of all its tasks together, so those of one task go elsewhere.
        folder = (None if options.task else folders[record.key]) or out / "records" / slug(record.key)
        try:
            if any(target > record.points["compute"][-1] for target in options.predict):
                folder.mkdir(parents=True, exist_ok=True)
                write_prediction(folder, record)
            scored.extend(score(folder, record))
        except (ValueError, OSError) as error:
            unscored.append(Unreadable(run=record.key, reason=str(error)))
    return scored, unscored


def _alarmed(runs: list[RunPoints]) -> dict[str, list[Alarm]]:
    """Return the alarms of every run folder that raised any, by the run's key."""
    raised = {run.key: alarms(read_rows(RunPaths(run.folder).metrics)) for run in runs if run.folder}
    return {key: found for key, found in raised.items() if found}


def _tested(runs: list[RunPoints]) -> dict[str, FinalTest]:
    """Return the test of the best policy of every run folder that has one, by the run's key."""
    tests = {run.key: read_test(RunPaths(run.folder)) for run in runs if run.folder}
    return {key: test for key, test in tests.items() if test is not None}


def _draw(folder: Path, records: list[RunRecord], known: dict[str, RunRecord]) -> None:
    """Draw what changed since the last call, whose records are `known`; delete pictures of what is gone."""
    folder.mkdir(exist_ok=True)
    drawn, wanted = _pictures(list(known.values())), _pictures(records)
    for name in drawn.keys() - wanted.keys():
        (folder / name).unlink(missing_ok=True)
    for name, members in wanted.items():
        before = {record.signature for record in drawn.get(name, [])}
        if before != {record.signature for record in members} or not (folder / name).exists():
            title = members[0].figure or "all runs"
            save(folder / name, draw_together(title, members) if len(members) > 1 else draw_run(members[0]))


def _pictures(records: list[RunRecord]) -> dict[str, list[RunRecord]]:
    """Return the runs in every picture by file name: one a run, one a figure of two runs or more."""
    pictures = {f"{slug(record.key)}.png": [record] for record in records}
    for figure in dict.fromkeys(record.figure for record in records):
        members = [record for record in records if record.figure == figure]
        if len(members) > 1:
            pictures[f"axis_{slug(figure) if figure else 'all'}.png"] = members
    return pictures


def slug(key: str) -> str:
    """Return a file name for a run: what can be read of its key, then six digits of a hash of it."""
    readable = re.sub(r"[^A-Za-z0-9.\-]", "_", key)[:MAX_READABLE].lstrip(".")
    return f"{readable}-{hashlib.sha256(key.encode()).hexdigest()[:6]}"
