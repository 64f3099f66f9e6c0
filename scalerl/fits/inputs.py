"""Read curves from run folders and tables (CSV, Parquet); say what cannot be read, and why."""

import os
import re
import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scalerl.curve.window import MIN_FIT_POINTS
from scalerl.fits.points import RunPoints, Where, run_points
from scalerl.metrics.rows import EvalRow, read_rows
from scalerl.paths import RunPaths

AXES = {
    "gpu_hours": ("gpu_hours",),
    "tokens": ("generated_tokens", "tokens"),
    "flops": ("flops",),
    "steps": ("step", "steps"),
}
"""Compute axes and the columns that hold them. Tokens are generated ones: trained ones leave out the groups
without a loss, so that recipes that drop them and recipes that keep them would not compare."""
OTHER_NAME = "accuracy"
"""What a training log may call the column pass_rate."""
AS_TEXT = ("run", "figure", "seed")
"""Columns of names: 01, NA and None are names too."""


@dataclass(frozen=True, kw_only=True)
class Unreadable:
    """A run that cannot be fitted, and why."""

    run: str
    reason: str


def read_input(
    path: Path, axis: str = "gpu_hours", task: str | None = None
) -> tuple[list[RunPoints], list[Unreadable]]:
    """Read all curves of a sweep folder, a run folder, a CSV or a Parquet file; with `task`, of that task
    alone.

    Raises:
        ValueError: nothing can be read at all: no such axis, no file, no rows, no column.
    """
    if axis not in AXES:
        raise ValueError(f"no compute axis {axis!r}; valid: {', '.join(AXES)}")
    if path.is_dir():
        return _read_folders(path, axis, task)
    if not path.exists():
        raise ValueError(f"there is no {path}: give a folder of runs, such as `make demo` makes, or a table")
    if path.suffix not in (".csv", ".parquet"):
        raise ValueError(f"{path} is neither a folder of runs nor a .csv or .parquet file")
    return _read_table(path, axis, task)


def _read_folders(root: Path, axis: str, task: str | None) -> tuple[list[RunPoints], list[Unreadable]]:
    folders = sorted(_run_folders(root))
    if not folders:
        raise ValueError(f"no metrics.jsonl below {root}: give a run folder or a folder of runs")
    names = [root.name if folder == root else folder.relative_to(root).as_posix() for folder in folders]
    return _collect(names, lambda i: read_folder(folders[i], axis, names[i], task))


def _run_folders(root: Path) -> Iterator[Path]:
    for folder, subfolders, names in os.walk(root):
        if RunPaths(Path(folder)).metrics.name in names:
            subfolders.clear()  # The spool and the checkpoints of a run hold many files and no runs.
            yield Path(folder)


def _collect(names: list[str], read: Callable[[int], RunPoints]) -> tuple[list[RunPoints], list[Unreadable]]:
    runs: dict[str, RunPoints] = {}
    unreadable = []
    for i, name in enumerate(names):
        try:
            run = read(i)
            run.window()
            if run.key in runs:
                raise ValueError(
                    f"a second run of the name {run.key!r}; rename its folder, or fit the folders apart"
                )
            runs[run.key] = run
        except (ValueError, OSError) as error:
            unreadable.append(Unreadable(run=name, reason=str(error)))
    return list(runs.values()), unreadable


def read_folder(
    folder: Path, axis: str = "gpu_hours", name: str | None = None, task: str | None = None
) -> RunPoints:
    """Read the evaluations of one run folder; the first, taken before any update, is R0.

    Raises:
        ValueError: a row lacks a value, or the evaluations do not make a curve.
    """
    name = folder.name if name is None else name
    figure, run, seed = split_name(name)
    rows = _eval_rows(RunPaths(folder).metrics, axis, task)
    if len(rows) <= MIN_FIT_POINTS:
        needed = f"a curve needs R0 and at least {MIN_FIT_POINTS} more: run longer"
        raise ValueError(f"{folder}: {len(rows)} evaluations; {needed}")
    table = pd.DataFrame(rows).sort_values("step", kind="stable").reset_index(drop=True)
    if table.step[0] != 0:
        raise ValueError(
            f"{folder}: the first evaluation is of step {table.step[0]}; R0 must be measured at step 0"
        )
    r0 = float(table.pass_rate[0])
    place = f"{folder}: evaluation"
    return run_points(
        table.iloc[1:], _column(table, axis), figure, run, seed, r0, folder, lambda index: f"{place} {index}"
    )


def _eval_rows(path: Path, axis: str, task: str | None) -> list[dict[str, Any]]:
    """Return the evaluations of a run, their numbers checked."""
    evaluations: list[dict[str, Any]] = []
    for i, record in enumerate(read_rows(path), start=1):
        if not isinstance(record, EvalRow):
            continue
        # what a row of an older version does not say is no column
        row = {name: value for name, value in record.to_json().items() if value is not None}
        row |= {name: row.get(column) for name, column in _columns_of(task, row, f"{path}: row {i}").items()}
        column = next((name for name in AXES[axis] if name in row), AXES[axis][0])
        optional = [name for name in ("num_prompts", "samples_per_prompt", "epoch") if name in row]
        for name in ("step", "pass_rate", column, *optional):
            value = row.get(name)
            if not _is_finite(value):
                raise ValueError(f"{path}: row {i}, an evaluation: {name} is {value!r}, not a finite number")
        evaluations.append(row)
    return evaluations


def _is_finite(value: Any) -> bool:
    # JSON may hold integers that no float can: math.isfinite would raise OverflowError.
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and abs(value) <= sys.float_info.max


def split_name(name: str) -> tuple[str, str, str]:
    """Split a run folder's path below the sweep into (figure, run, seed).

    A sweep names its folders AXIS-RUN-seedN or RUN-seedN, and its axis is the figure; without an axis, the
    folder above is.
    """
    parent, _, folder = name.rpartition("/")
    match = re.fullmatch(r"(?:([^-]+)-)?(.+)-seed(\d+)", folder)
    return (match[1] or parent, match[2], match[3]) if match else (parent, folder, "")


def _columns_of(task: str | None, there: Collection[str], where: str) -> dict[str, str]:
    """Return which columns hold the pass rate and the number of prompts of a task, as {usual name: name}.

    It is empty for all tasks together.
    """
    if task is None:
        return {}
    names = {"pass_rate": f"pass_rate_{task}", "num_prompts": f"num_prompts_{task}"}
    if names["pass_rate"] not in there:
        tasks = sorted(name.removeprefix("pass_rate_") for name in there if name.startswith("pass_rate_"))
        raise ValueError(f"{where} has no {names['pass_rate']}; tasks there: {', '.join(tasks) or 'none'}")
    return {name: column for name, column in names.items() if name == "pass_rate" or name in there}


def _read_table(path: Path, axis: str, task: str | None) -> tuple[list[RunPoints], list[Unreadable]]:
    if not path.exists():
        raise ValueError(f"{path} does not exist")
    try:
        table = _read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
    except pd.errors.EmptyDataError:
        needed = f"the columns {AXES[axis][0]} and pass_rate (or {OTHER_NAME})"
        raise ValueError(f"{path} is empty; it needs {needed}") from None
    table = table.reset_index(drop=True)
    column = _column(table, axis)
    table = _evaluations(_usual_columns(table, path, task), path)
    word, first = ("line", 2) if path.suffix == ".csv" else ("row", 0)

    def where(index: int) -> str:
        return f"{path}: {word} {index + first}"

    runs = list(table.groupby(["figure", "run", "seed"], sort=False))
    names = ["/".join(part for part in map(str, key) if part) for key, _ in runs]
    return _collect(names, lambda i: _table_run(runs[i][1], column, where))


def _usual_columns(table: pd.DataFrame, path: Path, task: str | None) -> pd.DataFrame:
    """Return the table with pass_rate, run, figure, seed; without a column run, it is one run."""
    of_task = _columns_of(task, table.columns, str(path))
    table = table.assign(**{name: table.get(column) for name, column in of_task.items()})
    if "pass_rate" not in table and OTHER_NAME in table:
        table = table.rename(columns={OTHER_NAME: "pass_rate"})
    if "pass_rate" not in table:
        there = ", ".join(map(str, table.columns))
        raise ValueError(f"{path} has no column pass_rate (or {OTHER_NAME}); it has {there}")
    if "run" not in table:
        table = table.assign(run=path.stem)
    labels = {name: table[name].map(_label) if name in table else "" for name in AS_TEXT}
    return table.assign(**labels)


def _evaluations(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Return the rows to read; in a log with a column step, steps without an evaluation are left out."""
    if table.empty:
        raise ValueError(f"{path} has a header but no rows")
    # A log has a row a step, most without an evaluation. In a table of points an empty rate is an error.
    if "step" in table:
        table = table[table.pass_rate.notna()]
    if table.empty:
        raise ValueError(f"{path} holds no evaluation: pass_rate is empty in every row")
    return table


def _read_csv(path: Path) -> pd.DataFrame:
    table = pd.read_csv(path)
    # Read twice: pandas would make a number of the seed 01, and nothing at all of the run NA.
    names = pd.read_csv(path, usecols=lambda name: name in AS_TEXT, dtype=str, keep_default_na=False)
    return table.assign(**{str(name): names[name].to_numpy() for name in names})


def _label(value: Any) -> str:
    """Return a name as text: 3.0 and 3 are the same seed, a missing one is none."""
    if pd.isna(value):
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _column(table: pd.DataFrame, axis: str) -> str:
    for name in AXES[axis]:
        if name in table:
            return name
    there = ", ".join(map(str, table.columns))
    raise ValueError(f"no column {' or '.join(AXES[axis])} for the axis {axis}; there are {there}")


def _table_run(rows: pd.DataFrame, column: str, where: Where) -> RunPoints:
    figure, run, seed = (str(rows[name].iloc[0]) for name in ("figure", "run", "seed"))
    if not run:
        raise ValueError(f"{where(rows.index[0])} names no run")
    if "r0" in rows:
        r0 = _given_r0(rows, where)
        rows = rows[rows[column] != 0]
    else:
        r0 = _first_r0(rows, column, where)
        rows = rows.iloc[1:]
    return run_points(rows, column, figure, run, seed, r0, None, where)


def _given_r0(rows: pd.DataFrame, where: Where) -> float:
    """Return the one value of column r0."""
    values = pd.to_numeric(rows.r0, errors="coerce")
    for index in rows.index[~np.isfinite(values)]:
        way_out = "give it in every row of the run, or leave the column out"
        raise ValueError(f"{where(index)}: r0 is {rows.r0[index]}, not a finite number: {way_out}")
    if values.nunique() > 1:
        raise ValueError(f"{where(rows.index[0])}: {values.nunique()} values of r0; two runs of one name?")
    return float(values.iloc[0])


def _first_r0(rows: pd.DataFrame, column: str, where: Where) -> float:
    """Return the first evaluation's pass rate: it must be the earliest and not marked as extrapolation."""
    first, compute = where(rows.index[0]), pd.to_numeric(rows[column], errors="coerce")
    later = not np.isfinite(compute.iloc[0]) or (compute.iloc[1:] <= compute.iloc[0]).any()
    if later or ("split" in rows and rows.split.iloc[0] != "fit"):
        rule = f"without a column r0 a run's first row is its R0, and must be a fit row of the least {column}"
        way_out = "give a column r0, or put the evaluation before any update first"
        raise ValueError(f"{first}: {rule}; {way_out}")
    value = pd.to_numeric(rows.pass_rate, errors="coerce").iloc[0]
    if not np.isfinite(value):
        raise ValueError(
            f"{first}: pass_rate is {rows.pass_rate.iloc[0]}, not a finite number; it is the run's R0"
        )
    return float(value)
