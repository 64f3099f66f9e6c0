"""`scalerl status`: a table of the runs of a sweep, or everything about one run. Read from small files and
one squeue."""

import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from scalerl.alarms import alarms
from scalerl.cluster.slurm import SlurmError, available
from scalerl.files import read_json
from scalerl.launch.status_line import format_duration
from scalerl.metrics.ledger import ROLES
from scalerl.metrics.rows import read_rows
from scalerl.paths import RunPaths
from scalerl.run_folder import GpuHours, PredictedCeiling, RunStatus, read_saved_config
from scalerl.settings import path_hint
from scalerl.sweep.accounting import reconcile
from scalerl.sweep.states import RunState, State, sweep_states
from scalerl.table import format_table

COLUMNS = (
    "run",
    "state",
    "step",
    "pass rate",
    "A (90 %)",
    "GPU-hours",
    "staleness",
    "dropped",
    "reason or last error",
)
STATES: tuple[State, ...] = ("running", "pending", "planned", "stopped", "failed", "finished")
"""In the order of the line of totals."""
REASON_LENGTH = 44
"""Why a ceiling is not identified, cut to this in the table."""
NO_STATUS = RunStatus(state="planned", step=0, limits={}, updated_s=0.0, gpu_hours=GpuHours(total=0.0))
"""What a run that was never started says of itself."""


def status_report(path: Path, width: int | None = None) -> str:
    """What `scalerl status` prints for a sweep or run folder; `width`: cut the table's lines to so many
    characters.

    Raises:
        ValueError: there is no run at `path`, or a file of one is not JSON.
        SlurmError: squeue failed.
    """
    states = states_below(path)
    return run_details(states[0]) if RunPaths(path).config.exists() else sweep_table(states, width)


def print_report(path: Path, every_s: float | None) -> None:
    """Print the report; with `every_s` again and again in its place, until Ctrl-C."""
    terminal = sys.stdout.isatty()
    with suppress(KeyboardInterrupt):
        while True:
            report = status_report(path, shutil.get_terminal_size().columns if terminal else None)
            print(f"\x1b[H\x1b[2J{report}" if terminal and every_s is not None else report, flush=True)
            if every_s is None:
                return
            time.sleep(every_s)


def states_below(path: Path) -> list[RunState]:
    """The state of the run at `path`, or of the runs of the sweep there: at least one.

    Raises:
        ValueError: there is none, or a file of one is not JSON.
        SlurmError: squeue failed.
    """
    if not path.is_dir():
        beside = (folder for folder in path.parent.glob("[!.]*") if folder.is_dir())
        raise ValueError(f"there is no folder {path}; {path_hint(path, beside)}")
    states = sweep_states(path)
    if not states:
        raise ValueError(
            f"{path} is no run folder and holds none: there is no config.json in it, nor one folder below"
        )
    return states


def sweep_table(states: Sequence[RunState], width: int | None = None) -> str:
    """One line a run, and the totals."""
    budgets = [_budget(state.paths) for state in states]
    rows = [_row(state, budget) for state, budget in zip(states, budgets, strict=True)]
    lines = format_table(rows, COLUMNS).splitlines()
    used = sum(_used(state) for state in states)
    limit = _total_limit(budgets)
    total = "" if limit is None else f" of {format_hours(limit)}"
    counts = Counter(state.state for state in states)
    by_state = ", ".join(f"{counts[name]} {name}" for name in STATES if counts[name])
    lines.append(
        f"{len(states)} run{'s'[: len(states) != 1]}: {by_state}; {format_hours(used)}{total} GPU-hours used"
    )
    return "\n".join(line[:width] for line in lines)


def _row(state: RunState, budget: dict[str, Any]) -> tuple[str, ...]:
    status = state.status or NO_STATUS
    return (
        state.name,
        state.state,
        str(status.step) + (f"/{budget['max_steps']}" if budget["max_steps"] is not None else ""),
        _number(status.latest.pass_rate, "{:.4f}"),
        format_ceiling(status.curve),
        format_hours(_used(state))
        + (f"/{format_hours(budget['max_gpu_hours'])}" if budget["max_gpu_hours"] else ""),
        _number(status.latest.off_policyness_mean, "{:.1f}"),
        _number(status.latest.dropped_share, "{:.0%}"),
        "; ".join(
            filter(None, [state.reason or status.last_error, *(f"ALARM {alarm}" for alarm in status.alarms)])
        ),
    )


def _budget(paths: RunPaths) -> dict[str, Any]:
    """max_steps and max_gpu_hours as config.json has them now: an extension raises them before the run starts
    again."""
    return read_saved_config(paths).config["budget"]


def _total_limit(budgets: Sequence[dict[str, Any]]) -> float | None:
    """GPU-hours that all runs together may use: the sum of their budgets, or the sweep's own; None without a
    limit."""
    limits = [budget["max_gpu_hours"] for budget in budgets]
    whole = [
        budget["sweep_max_gpu_hours"] for budget in budgets if budget.get("sweep_max_gpu_hours") is not None
    ]
    return min([*whole, *([] if None in limits else [sum(limits)])], default=None)


def _used(state: RunState) -> float:
    return state.status.gpu_hours.total if state.status else 0.0


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def format_hours(hours: float) -> str:
    """GPU-hours with four digits, and no exponent."""
    return f"{hours:.0f}" if hours >= 1000 else f"{hours:.4g}"


def format_ceiling(curve: PredictedCeiling | None) -> str:
    """The predicted ceiling with its interval, or why there is none."""
    if curve is None:
        return "-"
    if curve.identified:
        return f"{curve.a:.3f} ({curve.lo90:.3f}-{curve.hi90:.3f})"
    reason = curve.reason.partition(";")[0]
    return f"- {reason[: REASON_LENGTH - 3]}..." if len(reason) > REASON_LENGTH else f"- {reason}"


def run_details(state: RunState) -> str:
    """Everything `scalerl status` knows about one run."""
    status, paths = state.status or NO_STATUS, state.paths
    latest, budget = status.latest.to_json() if state.status else {}, _budget(paths)
    limits = ", ".join(f"{name} = {value}" for name, value in budget.items() if value is not None)
    lines = [
        f"{paths.root}: {state.state}" + (f" ({state.reason})" if state.reason else ""),
        _line("step", f"{status.step}, attempt {status.attempt}; budget {limits}"),
        _line(
            "latest", ", ".join(f"{name} {_number(value, '{:.4g}')}" for name, value in latest.items()) or "-"
        ),
        _line("ceiling A", _ceiling_details(status.curve)),
    ]
    raised = alarms(read_rows(paths.metrics))
    lines += [_line("alarm", f"{alarm}, until {alarm.last_step}; {alarm.advice}") for alarm in raised]
    if state.status:
        hours = status.gpu_hours
        parts = ", ".join(f"{role} {format_hours(getattr(hours, role))}" for role in (*ROLES, "idle"))
        lines.append(_line("GPU-hours", f"{format_hours(hours.total)} ({parts})"))
    lines += [_line("Slurm job", text) for text in _jobs(paths)]
    lines += [_line("accounts", text) for text in _reconciliation(paths)]
    if status.last_error:
        lines.append(_line("last error", status.last_error))
    lines += [_line("logs", str(folder)) for folder in sorted(paths.logs.glob("[0-9]*"))]
    if state.status:
        lines.append(_line("updated", f"{format_duration(max(0.0, time.time() - status.updated_s))} ago"))
    return "\n".join(lines)


def _line(title: str, text: str) -> str:
    return f"  {title:<11}{text}"


def _ceiling_details(curve: PredictedCeiling | None) -> str:
    if curve is None:
        return "- (too few evaluations for a fit)"
    if curve.identified:
        return format_ceiling(curve)
    return f"not yet identified, between {curve.lo90:.3f} and {curve.hi90:.3f}: {curve.reason}"


def _jobs(paths: RunPaths) -> list[str]:
    """One text a start of a Slurm job, requeues included."""
    if not paths.compute.exists():
        return []
    saved = read_json(paths.compute)
    texts = []
    for interval in saved["intervals"]:
        if interval["role"] == "allocation":
            begin = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(interval["start_s"]))
            end_s = saved["saved_s"] if interval["end_s"] is None else interval["end_s"]
            duration = format_duration(max(0.0, end_s - interval["start_s"]))
            texts.append(f"{interval['job_id']}: {interval['devices']} devices from {begin} for {duration}")
    return texts


def _reconciliation(paths: RunPaths) -> list[str]:
    """The ledger against sacct; no text where the run had no job, or this machine no Slurm."""
    if not available():
        return []
    try:
        compared = reconcile(paths)
    except SlurmError as error:
        return [f"not compared with sacct: {error}"]
    return [] if compared is None else [str(compared)]
