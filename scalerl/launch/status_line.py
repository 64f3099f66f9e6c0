"""The live line of a run: where it is, how well it does, what it has cost, when it ends."""

import shutil
import sys
import time
from collections.abc import Sequence

from scalerl.config import RunConfig
from scalerl.metrics.rows import Rows, StepRow
from scalerl.run_folder import Alarm, GpuHours
from scalerl.spool.best import FinalTest

TERMINAL_EVERY_S = 0.5
RECENT_STEPS = 21
"""Newest steps that means and paces are of: 20 intervals."""


def format_duration(seconds: float) -> str:
    """Return seconds as h:mm:ss."""
    minutes, second = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{second:02d}"


def eta_s(config: RunConfig, rows: Sequence[StepRow], gpu_hours: float) -> float | None:
    """Estimate the seconds until the budget is used up, at the pace of the last 20 steps; None while there is
    no pace."""
    if len(rows) < 2:
        return None
    recent = rows[-RECENT_STEPS:]
    elapsed_s = recent[-1].time_s - recent[0].time_s
    if elapsed_s <= 0:
        return None
    estimates = []
    if config.budget.max_steps is not None:
        pace = (recent[-1].step - recent[0].step) / elapsed_s
        estimates.append((config.budget.max_steps - recent[-1].step) / pace)
    if config.budget.max_gpu_hours is not None:
        pace = ((recent[-1].gpu_hours or 0.0) - (recent[0].gpu_hours or 0.0)) / elapsed_s
        estimates.append((config.budget.max_gpu_hours - gpu_hours) / pace)
    return max(0.0, min(estimates))


def status_line(
    config: RunConfig,
    rows: Rows,
    gpu_hours: GpuHours,
    alarms: Sequence[Alarm] = (),
    test: FinalTest | None = None,
) -> str:
    """Return one line from the rows, the GPU-hours of every role, the alarms that stand, and the test."""
    steps, evals = rows.steps, rows.evaluations
    parts = ["starting" if not steps else f"step {steps[-1].step}"]
    if config.budget.max_steps is not None:
        parts[0] += f"/{config.budget.max_steps}"
    parts += [f"ALARM {alarm}" for alarm in alarms]
    if steps:
        parts += _recent_steps(steps[-RECENT_STEPS:], config.off_policy.max_off_policyness)
    if evals:
        parts.append(
            f"held-out {evals[-1].pass_rate:.3f} at step {evals[-1].step} (R0 {evals[0].pass_rate:.3f})"
        )
    if test is not None:
        parts.append(str(test))
    parts_of_total = (gpu_hours.generator, gpu_hours.trainer, gpu_hours.evaluator, gpu_hours.idle)
    by_role = " + ".join(f"{hours:.3g}" for hours in parts_of_total if hours)
    parts.append(f"GPU-hours {gpu_hours.total:.4g}" + (f" ({by_role})" if by_role else ""))
    remaining_s = eta_s(config, steps, gpu_hours.total)
    parts.append("ETA -" if remaining_s is None else f"ETA {format_duration(remaining_s)}")
    return " | ".join(parts)


def _recent_steps(recent: Sequence[StepRow], max_off_policyness: int) -> list[str]:
    elapsed_s = recent[-1].time_s - recent[0].time_s
    tokens = (recent[-1].generated_tokens or 0) - (recent[0].generated_tokens or 0)
    means = {
        name: sum(getattr(row, name) or 0.0 for row in recent) / len(recent)
        for name in ("reward", "pass_rate", "off_policyness_mean")
    }
    return [
        f"reward {means['reward']:+.3f}",
        f"pass {means['pass_rate']:.3f}",
        f"{tokens / elapsed_s if elapsed_s > 0 else 0.0:,.0f} tokens/s",
        f"off-policy {means['off_policyness_mean']:.1f}/{max_off_policyness}",
    ]


class Display:
    """Where status lines go: rewritten in place on a terminal; in a log at most one a step.

    A job runs for weeks, and its log must stay readable: a step that was shown is shown again only after
    `alive_s`, as a sign of life.
    """

    def __init__(self, every_s: float = 10.0, alive_s: float = 600.0) -> None:
        """Show nothing yet. In a log, two lines are `every_s` apart, `alive_s` while no step happens."""
        self._terminal = sys.stdout.isatty()
        self._every_s, self._alive_s = every_s, alive_s
        self._shown_step: int | None = None
        self._shown_s = 0.0

    def due(self, step: int) -> bool:
        """Say whether the status line should be shown now, with `step` as the newest step."""
        if self._shown_step is None:
            return True
        age_s = time.monotonic() - self._shown_s
        if self._terminal:
            return age_s >= TERMINAL_EVERY_S
        return age_s >= (self._alive_s if step == self._shown_step else self._every_s)

    def show(self, line: str, step: int) -> None:
        """Show the status line of a step."""
        self._shown_step, self._shown_s = step, time.monotonic()
        if self._terminal:
            line = line[: shutil.get_terminal_size().columns - 1]  # a wrapped line could not be rewritten
        print(f"\r\x1b[K{line}" if self._terminal else line, end="" if self._terminal else "\n", flush=True)

    def note(self, line: str) -> None:
        """Print a line that stays."""
        print(f"\r\x1b[K{line}" if self._terminal else line, flush=True)
