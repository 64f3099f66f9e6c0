"""Reading curves: run folders (metrics.jsonl) and tables (CSV, Parquet), with a clear message for what cannot be read."""

import os
import re
import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scalerl.curve.prior import DEFAULT_SAMPLES
from scalerl.curve.sigmoid import BoolArray, FloatArray
from scalerl.curve.window import MIN_POINTS, Window
from scalerl.metrics import read_rows

AXES = {"gpu_hours": ("gpu_hours",), "tokens": ("tokens",), "flops": ("flops",), "steps": ("step", "steps")}
"""Compute axes and the columns that hold them."""
SPLITS = ("fit", "extrapolation")
MAX_COUNT = 1e9  # of prompts, or of samples a prompt
AS_TEXT = ("run", "figure", "seed")
"""Columns of names: 01, NA and None are names too."""
Where = Callable[[int], str]


@dataclass(frozen=True, kw_only=True)
class RunPoints:
    """One run's evaluations after the first; arrays [points], compute ascending."""

    figure: str
    """Axis of a sweep or figure of a paper that the run belongs to; empty for none."""
    run: str
    seed: str
    compute: FloatArray
    pass_rate: FloatArray
    fitted: BoolArray
    """False for points that are predicted and scored, never fitted."""
    num_samples: FloatArray
    epoch: FloatArray | None
    """Passes over the prompts so far, where the input has a column of that name; NaN where it holds no number."""
    r0: float
    folder: Path | None
    """The run folder, where there is one."""

    @property
    def key(self) -> str:
        """Unique within one input."""
        return "/".join(part for part in (self.figure, self.run) if part) + (f"#{self.seed}" if self.seed else "")

    def window(self) -> Window:
        """The points to fit.

        Raises:
            ValueError: they are too few, not ascending, or not pass rates.
        """
        return Window(
            compute=self.compute[self.fitted],
            pass_rate=self.pass_rate[self.fitted],
            r0=self.r0,
            num_samples=self.num_samples[self.fitted],
        )


@dataclass(frozen=True, kw_only=True)
class Unreadable:
    """A run that cannot be fitted, and why."""

    run: str
    reason: str


def read_input(path: Path, axis: str = "gpu_hours", task: str | None = None) -> tuple[list[RunPoints], list[Unreadable]]:
    """All curves of a sweep folder, a run folder, a CSV or a Parquet file; `task`: of its pass rate alone.

    Raises:
        ValueError: nothing can be read at all: no such axis, no file, no rows, no column.
    """
    if axis not in AXES:
        raise ValueError(f"no compute axis {axis!r}; valid: {', '.join(AXES)}")
    if path.is_dir():
        return _read_folders(path, axis, task)
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
        if "metrics.jsonl" in names:
            subfolders.clear()  # the spool and the checkpoints of a run hold many files and no runs
            yield Path(folder)


def _collect(names: list[str], read: Callable[[int], RunPoints]) -> tuple[list[RunPoints], list[Unreadable]]:
    runs: dict[str, RunPoints] = {}
    unreadable = []
    for i, name in enumerate(names):
        try:
            run = read(i)
            run.window()
            if run.key in runs:
                raise ValueError(f"a second run of the name {run.key!r}; rename its folder, or fit the folders apart")
            runs[run.key] = run
        except (ValueError, OSError) as error:
            unreadable.append(Unreadable(run=name, reason=str(error)))
    return list(runs.values()), unreadable


def read_folder(folder: Path, axis: str = "gpu_hours", name: str | None = None, task: str | None = None) -> RunPoints:
    """The eval rows of one run folder; the first, taken before any update, is R0.

    Raises:
        ValueError: a row lacks a value, or the evaluations do not make a curve.
    """
    name = folder.name if name is None else name
    figure, run, seed = split_name(name)
    rows = _eval_rows(folder / "metrics.jsonl", axis, task)
    if len(rows) <= MIN_POINTS:
        raise ValueError(f"{folder}: {len(rows)} evaluations; a curve needs R0 and at least {MIN_POINTS} more: run longer")
    table = pd.DataFrame(rows).sort_values("step", kind="stable").reset_index(drop=True)
    if table.step[0] != 0:
        raise ValueError(f"{folder}: the first evaluation is of step {table.step[0]}; R0 must be measured at step 0")
    r0 = float(table.pass_rate[0])
    place = f"{folder}: evaluation"
    return _points(table.iloc[1:], _column(table, axis), figure, run, seed, r0, folder, lambda index: f"{place} {index}")


def _eval_rows(path: Path, axis: str, task: str | None) -> list[dict[str, Any]]:
    """The eval rows of a run, their numbers checked."""
    evaluations: list[dict[str, Any]] = []
    for i, row in enumerate(read_rows(path), start=1):
        if not isinstance(row, dict):
            raise ValueError(f"{path}: row {i} is not an object: {str(row)[:80]}")
        if row.get("kind") != "eval":
            continue
        row |= {name: row.get(column) for name, column in _columns_of(task, row, f"{path}: row {i}").items()}
        column = next((name for name in AXES[axis] if name in row), AXES[axis][0])
        optional = [name for name in ("num_prompts", "samples_per_prompt", "epoch") if name in row]
        for name in ("step", "pass_rate", column, *optional):
            value = row.get(name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
                raise ValueError(f"{path}: row {i}, an evaluation: {name} is {value!r}, not a finite number")
        evaluations.append(row)
    return evaluations


def split_name(name: str) -> tuple[str, str, str]:
    """(axis, run, seed) of a run folder's path below the sweep; a sweep names its folders AXIS-RUN-seedN, or RUN-seedN."""
    parent, _, folder = name.rpartition("/")
    match = re.fullmatch(r"(?:([^-]+)-)?(.+)-seed(\d+)", folder)
    return (match[1] or parent, match[2], match[3]) if match else (parent, folder, "")


def _columns_of(task: str | None, there: Collection[str], where: str) -> dict[str, str]:
    """What holds the pass rate of a task, and how many prompts it is of: {usual name: name}. Nothing for all tasks together."""
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
        raise ValueError(f"{path} is empty; it needs the columns run, {AXES[axis][0]}, pass_rate") from None
    table = table.reset_index(drop=True)
    table = table.assign(**{name: table.get(column) for name, column in _columns_of(task, table.columns, str(path)).items()})
    column = _column(table, axis)
    missing = [name for name in ("run", "pass_rate") if name not in table]
    if missing:
        raise ValueError(f"{path} has no column {', '.join(missing)}; it has {', '.join(map(str, table.columns))}")
    if table.empty:
        raise ValueError(f"{path} has a header but no rows")
    for name in ("figure", "seed"):
        table[name] = table[name].map(_label) if name in table else ""
    table["run"] = table["run"].map(_label)
    word, first = ("line", 2) if path.suffix == ".csv" else ("row", 0)

    def where(index: int) -> str:
        return f"{path}: {word} {index + first}"

    groups = list(table.groupby(["figure", "run", "seed"], sort=False))
    names = ["/".join(part for part in map(str, key) if part) for key, _ in groups]
    return _collect(names, lambda i: _table_run(groups[i][1], column, where))


def _read_csv(path: Path) -> pd.DataFrame:
    table = pd.read_csv(path)
    names = pd.read_csv(path, usecols=lambda name: name in AS_TEXT, dtype=str, keep_default_na=False)
    return table.assign(**{str(name): names[name].to_numpy() for name in names})


def _label(value: Any) -> str:
    """A name as text: 3.0 and 3 are the same seed, a missing one is none."""
    if pd.isna(value):
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _column(table: pd.DataFrame, axis: str) -> str:
    for name in AXES[axis]:
        if name in table:
            return name
    raise ValueError(f"no column {AXES[axis][0]} for the axis {axis}; there are {', '.join(map(str, table.columns))}")


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
    return _points(rows, column, figure, run, seed, r0, None, where)


def _given_r0(rows: pd.DataFrame, where: Where) -> float:
    """The one value of column r0."""
    values = pd.to_numeric(rows.r0, errors="coerce")
    for index in rows.index[~np.isfinite(values)]:
        message = "not a finite number: give it in every row of the run, or leave the column out"
        raise ValueError(f"{where(index)}: r0 is {rows.r0[index]}, {message}")
    if values.nunique() > 1:
        raise ValueError(f"{where(rows.index[0])}: {values.nunique()} values of r0; two runs of one name?")
    return float(values.iloc[0])


def _first_r0(rows: pd.DataFrame, column: str, where: Where) -> float:
    """The pass rate of the run's first evaluation, which must be its earliest and not marked as extrapolation."""
    first, compute = where(rows.index[0]), pd.to_numeric(rows[column], errors="coerce")
    later = not np.isfinite(compute.iloc[0]) or (compute.iloc[1:] <= compute.iloc[0]).any()
    if later or ("split" in rows and rows.split.iloc[0] != "fit"):
        raise ValueError(
            f"{first}: without a column r0 a run's first row is its R0, and must be a fit row of the least {column}; "
            "give a column r0, or put the evaluation before any update first"
        )
    value = pd.to_numeric(rows.pass_rate, errors="coerce").iloc[0]
    if not np.isfinite(value):
        raise ValueError(f"{first}: pass_rate is {rows.pass_rate.iloc[0]}, not a finite number; it is the run's R0")
    return float(value)


def _points(
    rows: pd.DataFrame, column: str, figure: str, run: str, seed: str, r0: float, folder: Path | None, where: Where
) -> RunPoints:
    """Check the rows of one run and turn them into arrays; `where` names a row by its index."""
    if rows.empty:
        raise ValueError(f"0 points; a curve needs at least {MIN_POINTS} besides R0: run longer")
    for name in (column, "pass_rate"):
        values = pd.to_numeric(rows[name], errors="coerce")
        for index in rows.index[~np.isfinite(values)]:
            raise ValueError(f"{where(index)}: {name} is {rows[name][index]}, not a finite number")
        rows = rows.assign(**{name: values})
    for index in rows.index[(rows.pass_rate < 0) | (rows.pass_rate > 1)]:
        raise ValueError(f"{where(index)}: pass_rate {rows.pass_rate[index]} is outside [0, 1]; is it a percentage?")
    if not 0 <= r0 < 1:
        raise ValueError(f"{where(rows.index[0])}: R0 = {r0}; it must lie in [0, 1)")
    _check_ascending(rows[column], where, run)
    split = rows.split if "split" in rows else pd.Series("fit", index=rows.index)
    for index in rows.index[~split.isin(SPLITS)]:
        raise ValueError(f"{where(index)}: split '{split[index]}'; valid: {', '.join(SPLITS)}")
    return RunPoints(
        figure=figure,
        run=run,
        seed=seed,
        compute=rows[column].to_numpy(dtype=float),
        pass_rate=rows.pass_rate.to_numpy(dtype=float),
        fitted=(split == "fit").to_numpy(),
        num_samples=_num_samples(rows),
        epoch=pd.to_numeric(rows.epoch, errors="coerce").to_numpy(dtype=float) if "epoch" in rows else None,
        r0=r0,
        folder=folder,
    )


def _check_ascending(compute: pd.Series, where: Where, run: str) -> None:
    values = compute.to_numpy(dtype=float)
    if len(values) and values[0] <= 0:
        raise ValueError(f"{where(compute.index[0])}: {compute.name} {values[0]:g} after R0; it must be above 0")
    for before, value, index in zip(values[:-1], values[1:], compute.index[1:], strict=True):
        if value == before:
            raise ValueError(f"{where(index)}: a second point at {compute.name} {value:g}; drop one of the duplicates")
        if value < before:
            way_out = f"sort the points, or tell two runs of the name {run!r} apart by a seed or figure column"
            raise ValueError(f"{where(index)}: {compute.name} falls from {before:g} to {value:g}; {way_out}")


def _num_samples(rows: pd.DataFrame) -> FloatArray:
    if "num_prompts" not in rows or "samples_per_prompt" not in rows:
        return np.full(len(rows), float(DEFAULT_SAMPLES))
    counts = rows[["num_prompts", "samples_per_prompt"]].apply(pd.to_numeric, errors="coerce").to_numpy(dtype=float)
    if not ((counts > 0) & (counts < MAX_COUNT)).all():
        raise ValueError("num_prompts and samples_per_prompt must be above 0 in every row, or not be there at all")
    return np.asarray(counts.prod(axis=1))
