"""The CSV tables of a sweep: fits, predictions, alternatives, windows, ranking, pairs, scores."""

import csv
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from scalerl.common import files
from scalerl.curve.compare import Pair, Ranked, Recipe, pairs, rank
from scalerl.curve.window import Window
from scalerl.fits.predictions import Scored
from scalerl.fits.records import RunRecord

PARAMETERS = {"R0": "r0", "A": "a", "B": "b", "C_mid": "c_mid"}
MAX_PAIRED = 30
"""Pairwise probabilities are given for this many recipes of a figure, those with the highest ceilings."""


def fit_rows(records: list[RunRecord]) -> list[dict[str, Any]]:
    """Return the rows of fits.csv, one a run.

    Where the window does not identify the ceiling, A, B and C_mid are empty and only bounds stand.
    """
    return [_fit_row(record) for record in records]


def _fit_row(record: RunRecord) -> dict[str, Any]:
    row: dict[str, Any] = {"figure": record.figure, "run": record.run, "seed": record.seed}
    for title, name in PARAMETERS.items():
        row[title] = record.curve[name] if record.identified or name == "r0" else None
        row[f"{title}_lo90"], row[f"{title}_hi90"] = record.bounds[name]
    return row | {
        "correlation_A_B": record.correlation_ab,
        "rmse": record.rmse,
        "points": record.num_points,
        "window_start": record.window[0],
        "window_end": record.window[1],
        "axis": record.axis,
        "estimator": record.estimator,
        "identified": record.identified,
        "reason": record.reason,
        "needed_compute": record.needed_compute,
        "best_by_bic": record.alternatives[0]["family"],
    }


def prediction_rows(records: list[RunRecord]) -> list[dict[str, Any]]:
    """Return one row a predicted evaluation; `observed` is empty for targets given by --predict."""
    return [
        {"figure": r.figure, "run": r.run, "seed": r.seed, r.axis: p["compute"]}
        | {name: p[name] for name in ("observed", "predicted", "lo90", "hi90")}
        for r in records
        for p in r.predictions
    ]


def nested_rows(records: list[RunRecord], name: str) -> list[dict[str, Any]]:
    """Return one row for each entry of a record's `alternatives` or `windows`."""
    return [
        {"figure": r.figure, "run": r.run, "seed": r.seed} | entry
        for r in records
        for entry in getattr(r, name)
    ]


def compare(records: list[RunRecord]) -> tuple[dict[str, list[Ranked]], dict[str, list[Pair]]]:
    """Rank the recipes of each figure that has two or more, and give their pairwise probabilities."""
    ranked, paired = {}, {}
    for figure in dict.fromkeys(record.figure for record in records):
        recipes = recipes_of([record for record in records if record.figure == figure])
        if len(recipes) > 1:
            ranked[figure] = rank(recipes)
            paired[figure] = pairs(sorted(recipes, key=_median_a, reverse=True)[:MAX_PAIRED])
    return ranked, paired


def ranking_row(row: Ranked) -> dict[str, Any]:
    """Return a row of the ranking, without what an unidentified recipe has from the prior alone."""
    unknown = {} if row.identified else dict.fromkeys(("a", "common_a", "b", "slope"))
    return asdict(row) | unknown


def score_row(row: Scored) -> dict[str, Any]:
    """Return a row of scores.csv, whose column for `predicted_at` is `foretold_at`."""
    columns = asdict(row)
    return {"key": columns.pop("key"), "foretold_at": columns.pop("predicted_at")} | columns


def _median_a(recipe: Recipe) -> float:
    return float(np.mean([np.median(quantiles) for quantiles in recipe.a_quantiles]))


def recipes_of(records: list[RunRecord]) -> list[Recipe]:
    """Group the runs of one figure by recipe, its seeds together."""
    names = list(dict.fromkeys(record.run for record in records))
    seeds = {name: [record for record in records if record.run == name] for name in names}
    return [
        Recipe(
            name=name,
            windows=[fitted_window(record) for record in seeds[name]],
            a_quantiles=[np.array(record.a_quantiles) for record in seeds[name]],
            identified=all(record.identified for record in seeds[name]),
        )
        for name in names
    ]


def fitted_window(record: RunRecord) -> Window:
    """Return the window that a record was fitted to."""
    fitted = np.array(record.points["fitted"], dtype=bool)
    columns = {
        name: np.array(record.points[name])[fitted] for name in ("compute", "pass_rate", "num_samples")
    }
    return Window(r0=record.measured_r0, **columns)


def write_tables(
    out: Path,
    records: list[RunRecord],
    ranked: dict[str, list[Ranked]],
    paired: dict[str, list[Pair]],
    scored: list[Scored],
) -> None:
    """Write every table into `out`; remove those of an earlier call that have no rows now."""
    tables = {
        "fits": fit_rows(records),
        "predictions": prediction_rows(records),
        "alternatives": nested_rows(records, "alternatives"),
        "windows": nested_rows(records, "windows"),
        "ranking": [{"figure": figure} | ranking_row(row) for figure, rows in ranked.items() for row in rows],
        "pairs": [{"figure": figure} | asdict(row) for figure, rows in paired.items() for row in rows],
        "scores": [score_row(row) for row in scored],
    }
    # A table of an earlier call must not be read as one of this call.
    for name, rows in tables.items():
        path = out / f"{name}.csv"
        if rows:
            files.write_atomic(path, partial(_write_csv, rows))
        else:
            path.unlink(missing_ok=True)


def _write_csv(rows: Sequence[dict[str, Any]], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)


def _cell(value: Any) -> Any:
    """Return a cell with every digit of a number: tables are joined on compute."""
    return repr(float(value)) if isinstance(value, float) else value
