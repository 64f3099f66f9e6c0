"""report.html: one self-contained page for a sweep; opens from a file, needs no network."""

import html
import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scalerl.common import files
from scalerl.curve.compare import Pair, Ranked
from scalerl.fits.drawing import COLOURS
from scalerl.fits.inputs import Unreadable
from scalerl.fits.page import PAGE
from scalerl.fits.predictions import Scored
from scalerl.fits.records import LABELS, RunRecord
from scalerl.fits.tables import fit_rows, ranking_row
from scalerl.run_folder import Alarm
from scalerl.spool.best import FinalTest

CURVE_DIGITS = 5


def write_report(
    path: Path,
    title: str,
    records: list[RunRecord],
    ranked: dict[str, list[Ranked]],
    paired: dict[str, list[Pair]],
    scored: list[Scored],
    unreadable: list[Unreadable],
    alarmed: dict[str, list[Alarm]],
    tested: dict[str, FinalTest],
) -> None:
    """Write the page.

    alarmed: the alarms of every run that had any, by its key. tested: the test of every best policy.
    """
    sections = [
        _section("Not fitted, or not scored", [asdict(row) for row in unreadable]),
        *(
            _section(f"Ranking: {figure or 'all runs'}", [ranking_row(r) for r in rows])
            for figure, rows in ranked.items()
        ),
        *(
            _matrix(f"P(row's ceiling is above column's): {figure or 'all runs'}", rows)
            for figure, rows in paired.items()
        ),
        _section(
            "Alarms", [{"run": key} | alarm.to_json() for key, raised in alarmed.items() for alarm in raised]
        ),
        _section("The best policy of each run, on its test set", _tests(tested)),
        _section("Predictions scored", [asdict(row) for row in scored]),
        _section("Other curves (BIC, lower is better)", _families(records)),
        _section("Robustness to the window", _windows(records)),
    ]
    data = {
        "runs": [_curve(record) for record in records],
        "rows": fit_rows(records),
        "axis": f"compute ({LABELS[records[0].axis]})" if records else "",
        "colours": COLOURS,
    }
    embedded = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
    content = {"title": html.escape(title), "sections": "\n".join(sections), "data": embedded}
    # In one pass: a run may be named {{data}}.
    files.write_text(path, re.sub(r"\{\{(\w+)\}\}", lambda match: content[match[1]], PAGE))


def _curve(record: RunRecord) -> dict[str, Any]:
    return {
        "key": record.key,
        "window": record.window,
        "points": {name: record.points[name] for name in ("compute", "pass_rate", "fitted")},
        "band": {name: [_short(value) for value in values] for name, values in record.band.items()},
    }


def _short(value: float) -> float:
    return float(f"{value:.{CURVE_DIGITS}g}")


def _tests(tested: dict[str, FinalTest]) -> list[dict[str, Any]]:
    names = ("step", "heldout_pass_rate", "pass_rate", "standard_error", "num_prompts", "samples_per_prompt")
    return [{"run": key} | {name: getattr(test, name) for name in names} for key, test in tested.items()]


def _families(records: list[RunRecord]) -> list[dict[str, Any]]:
    rows = []
    for record in records:
        bic = {entry["family"]: entry["bic"] for entry in record.alternatives}
        rows.append({"run": record.key} | {name: bic[name] - bic["sigmoid"] for name in sorted(bic)})
    return rows


def _windows(records: list[RunRecord]) -> list[dict[str, Any]]:
    return [{"run": record.key} | entry for record in records for entry in record.windows]


def _section(title: str, rows: Sequence[dict[str, Any]]) -> str:
    if not rows:
        return ""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in rows[0])
    body = "\n".join("<tr>" + "".join(_cell(value) for value in row.values()) + "</tr>" for row in rows)
    return (
        f"<details{' open' if len(rows) <= 30 else ''}><summary>{html.escape(title)}</summary>"
        f'<table class="sortable"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></details>'
    )


def _matrix(title: str, rows: list[Pair]) -> str:
    names = list(dict.fromkeys(row.recipe for row in rows))
    above = {(row.recipe, row.other): row.ceiling_above for row in rows}
    table: list[dict[str, Any]] = [
        {"": one} | {other: above.get((one, other), "") for other in names} for one in names
    ]
    return _section(title, table)


def _cell(value: Any) -> str:
    if value is None:
        return "<td></td>"
    if isinstance(value, float):
        return f'<td class="number" data-value="{value!r}">{value:.4g}</td>'
    return f"<td>{html.escape(str(value))}</td>"
