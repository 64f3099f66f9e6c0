"""`scalerl status`: a table of the runs of a sweep, or everything about one run.

Both are read from small files and one squeue.
"""

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
from scalerl.common.files import read_json
from scalerl.common.table import format_table
from scalerl.launch.status_line import format_duration
from scalerl.metrics.ledger import ROLES
from scalerl.metrics.rows import read_rows
from scalerl.paths import RunPaths
from scalerl.run_folder import GpuHours, PredictedCeiling, RunStatus, read_saved_config
from scalerl.settings import path_hint
from scalerl.spool.best import read_test
from scalerl.sweep.accounting import reconcile
from scalerl.sweep.states import RunState, State, sweep_states

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
"""All states, in the order of the line of totals."""
REASON_LENGTH = 44
"""Characters that the table shows of why a ceiling is not identified."""
REMARK_LENGTH = 60
"""Characters that the table shows of a run's reason or last error; longer ones stand below it, each once."""
NUM_REMARKS = 8
"""Long remarks that are shown below the table, those of the most runs first."""
NO_STATUS = RunStatus(state="planned", step=0, limits={}, updated_s=0.0, gpu_hours=GpuHours(total=0.0))
"""The status of a run that was never started."""


def status_report(path: Path, width: int | None = None) -> str:
    """Return what `scalerl status` prints for a sweep or run folder; the table's lines are cut to `width`.

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
    """Return the state of the run at `path`, or of the runs of the sweep there: at least one.

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
    """Return one line a run, the remarks that are too long for one, and the totals."""
    budgets = [_budget(state.paths) for state in states]
    rows = [_row(state, budget) for state, budget in zip(states, budgets, strict=True)]
    table = [line[:width] for line in format_table(rows, COLUMNS).splitlines()]
    return "\n".join([*table, *_long_remarks(states), _totals(states, budgets)[:width]])


def _totals(states: Sequence[RunState], budgets: Sequence[dict[str, Any]]) -> str:
    used = sum(state.used_gpu_hours for state in states)
    limit = _total_limit(budgets)
    total = "" if limit is None else f" of {format_hours(limit)}"
    counts = Counter(state.state for state in states)
    by_state = ", ".join(f"{counts[name]} {name}" for name in STATES if counts[name])
    runs = f"{len(states)} run{'s'[: len(states) != 1]}"
    return f"{runs}: {by_state}; {format_hours(used)}{total} GPU-hours used"


def _row(state: RunState, budget: dict[str, Any]) -> tuple[str, ...]:
    """Return the cells of one run, by COLUMNS."""
    status = state.status or NO_STATUS
    max_steps, max_gpu_hours = budget["max_steps"], budget["max_gpu_hours"]
    # the alarms of a run that has ended stand in its details: there is nothing to stop any more
    alarms = [f"ALARM {alarm}" for alarm in status.alarms if state.state == "running"]
    return (
        state.name,
        state.state,
        str(status.step) + (f"/{max_steps}" if max_steps is not None else ""),
        _number(status.latest.pass_rate, "{:.4f}"),
        format_ceiling(status.curve),
        format_hours(state.used_gpu_hours) + (f"/{format_hours(max_gpu_hours)}" if max_gpu_hours else ""),
        _number(status.latest.off_policyness_mean, "{:.1f}"),
        _number(status.latest.dropped_share, "{:.0%}"),
        "; ".join(filter(None, [*alarms, _cut(_remark(state), REMARK_LENGTH)])),
    )


def _remark(state: RunState) -> str:
    """Return why a run ended or waits, else its newest error, without the name of its own folder.

    Runs that failed for one reason then have one text, although each names a log of its own.
    """
    text = state.reason or (state.status.last_error if state.status else "") or ""
    return text.replace(str(state.paths.root.absolute()), "RUN").replace(str(state.paths.root), "RUN")


def _long_remarks(states: Sequence[RunState]) -> list[str]:
    """Return the remarks that the table has to cut, each once, with the number of its runs."""
    remarks = Counter(remark for state in states if len(remark := _remark(state)) > REMARK_LENGTH)
    lines = [f"{count} run{'s'[: count != 1]}: {text}" for text, count in remarks.most_common(NUM_REMARKS)]
    others = len(remarks) - len(lines)
    return lines + [f"{others} other remarks: `scalerl status RUN` shows that of one run"] * (others > 0)


def _cut(text: str, length: int) -> str:
    return f"{text[: length - 3]}..." if len(text) > length else text


def _budget(paths: RunPaths) -> dict[str, Any]:
    """Return the budget as config.json has it now: an extension raises it before the run starts again."""
    return read_saved_config(paths).config["budget"]


def _total_limit(budgets: Sequence[dict[str, Any]]) -> float | None:
    """Return the GPU-hours that all runs together may use; None without a limit.

    They are the sum of the runs' budgets, or the sweep's own budget if that is less.
    """
    limits = [budget["max_gpu_hours"] for budget in budgets]
    whole = [
        budget["sweep_max_gpu_hours"] for budget in budgets if budget.get("sweep_max_gpu_hours") is not None
    ]
    return min([*whole, *([] if None in limits else [sum(limits)])], default=None)


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def format_hours(hours: float) -> str:
    """Return GPU-hours with four digits, and no exponent."""
    return f"{hours:.0f}" if hours >= 1000 else f"{hours:.4g}"


def format_ceiling(curve: PredictedCeiling | None) -> str:
    """Return the predicted ceiling with its interval, or why there is none."""
    if curve is None:
        return "-"
    if curve.identified:
        return f"{curve.a:.3f} ({curve.lo90:.3f}-{curve.hi90:.3f})"
    return f"- {_cut(curve.reason.partition(';')[0], REASON_LENGTH)}"


def run_details(state: RunState) -> str:
    """Return everything `scalerl status` knows about one run."""
    status, paths = state.status or NO_STATUS, state.paths
    latest, budget = status.latest.to_json() if state.status else {}, _budget(paths)
    limits = ", ".join(f"{name} = {value}" for name, value in budget.items() if value is not None)
    numbers = ", ".join(f"{name} {_number(value, '{:.4g}')}" for name, value in latest.items())
    lines = [
        f"{paths.root}: {state.state}" + (f" ({state.reason})" if state.reason else ""),
        _line("step", f"{status.step}, attempt {status.attempt}; budget {limits}"),
        _line("latest", numbers or "-"),
        _line("ceiling A", _ceiling_details(status.curve)),
    ]
    if (tested := read_test(paths)) is not None:
        lines.append(_line("test", f"{tested}; {tested.test_set}"))
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
    """Return one text for each start of a Slurm job, requeues included."""
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
    """Compare the ledger with sacct; no text where the run had no job, or this machine no Slurm."""
    if not available():
        return []
    try:
        compared = reconcile(paths)
    except SlurmError as error:
        return [f"not compared with sacct: {error}"]
    return [] if compared is None else [str(compared)]
