"""When a run has used up what it was given: its own limits and its sweep's."""

from scalerl.config import RunConfig
from scalerl.metrics.rows import Rows
from scalerl.paths import RunPaths
from scalerl.run_folder import RunStatus, read_status
from scalerl.spool.best import lacks_test
from scalerl.spool.evaluations import pending_evaluations


def sibling_gpu_hours(paths: RunPaths) -> float:
    """Return the GPU-hours of the other runs of the sweep: the folders beside this one."""
    sweep_dir = paths.root.resolve().parent
    folders = sweep_dir.iterdir() if sweep_dir.exists() else []
    statuses = [read_status(RunPaths(folder)) for folder in folders if folder.name != paths.root.name]
    return sum(status.gpu_hours.total for status in statuses if status is not None)


def limit_reached(
    config: RunConfig, rows: Rows, total: float, siblings: float = 0.0
) -> tuple[str | None, bool]:
    """Return (why a run must stop, or None; whether for good).

    Args:
        total: GPU-hours the run has used.
        siblings: GPU-hours the rest of its sweep has used.
    """
    budget = config.budget
    if budget.max_gpu_hours is not None and total >= budget.max_gpu_hours:
        return f"max_gpu_hours = {budget.max_gpu_hours} reached", False
    if budget.sweep_max_gpu_hours is not None and total + siblings >= budget.sweep_max_gpu_hours:
        return f"sweep_max_gpu_hours = {budget.sweep_max_gpu_hours} reached by all runs together", False
    patience = config.evaluation.early_stop_evaluations
    pass_rates = [row.pass_rate for row in rows.evaluations]
    if patience and len(pass_rates) > patience and max(pass_rates[-patience:]) <= max(pass_rates[:-patience]):
        return f"no better pass rate in {patience} evaluations", True
    return None, False


def budget_used_up(config: RunConfig, paths: RunPaths) -> bool:
    """Say whether the run in the folder has ended by itself, for good or because its budget allows no further
    step."""
    status = read_status(paths)
    # one that was killed before its last evaluation, or got a test set later, goes on for that alone
    if status is None or status.state != "finished" or pending_evaluations(paths):
        return False
    if lacks_test(paths, config.data.test):
        return False
    if status.final or any(alarm.kind in config.launch.stop_on_alarm for alarm in status.alarms):
        return True
    return _stopped_by(config, status) or _nothing_left(config, paths, status)


def _stopped_by(config: RunConfig, status: RunStatus) -> bool:
    """Say whether one of these very limits ended the run: it stops within a step of it, not on it."""
    limits = config.budget.model_dump()
    return status.reason.partition(" ")[0] in limits and status.limits == limits


def _nothing_left(config: RunConfig, paths: RunPaths, status: RunStatus) -> bool:
    budget, total = config.budget, status.gpu_hours.total
    return (
        (budget.max_steps is not None and status.step >= budget.max_steps)
        or (budget.max_gpu_hours is not None and total >= budget.max_gpu_hours)
        or (
            budget.sweep_max_gpu_hours is not None
            and total + sibling_gpu_hours(paths) >= budget.sweep_max_gpu_hours
        )
    )
