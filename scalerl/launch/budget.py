"""When a run has used up what it was given: its own limits and its sweep's."""

from typing import Any

from scalerl.config import RunConfig
from scalerl.files import read_json
from scalerl.paths import RunPaths
from scalerl.spool.evaluations import pending_evaluations


def sibling_gpu_hours(paths: RunPaths) -> float:
    """GPU-hours of the other runs of the sweep: the folders beside this one."""
    name, sweep_dir = paths.status.name, paths.root.resolve().parent
    folders = sweep_dir.iterdir() if sweep_dir.exists() else []
    statuses = [folder / name for folder in folders if folder.name != paths.root.name]
    return sum(read_json(path)["gpu_hours"]["total"] for path in statuses if path.exists())


def limit_reached(
    config: RunConfig, rows: list[dict[str, Any]], total: float, siblings: float = 0.0
) -> tuple[str | None, bool]:
    """(why a run must stop that has used `total` GPU-hours, and its sweep `siblings` besides, or None; whether for good)."""
    budget = config.budget
    if budget.max_gpu_hours is not None and total >= budget.max_gpu_hours:
        return f"max_gpu_hours = {budget.max_gpu_hours} reached", False
    if budget.sweep_max_gpu_hours is not None and total + siblings >= budget.sweep_max_gpu_hours:
        return f"sweep_max_gpu_hours = {budget.sweep_max_gpu_hours} reached by all runs together", False
    patience = config.evaluation.early_stop_evaluations
    pass_rates = [row["pass_rate"] for row in rows if row["kind"] == "eval"]
    if patience and len(pass_rates) > patience and max(pass_rates[-patience:]) <= max(pass_rates[:-patience]):
        return f"no better pass rate in {patience} evaluations", True
    return None, False


def budget_used_up(config: RunConfig, paths: RunPaths) -> bool:
    """Whether the run in the folder has ended by itself, for good or because its budget allows no further step."""
    if not paths.status.exists() or pending_evaluations(paths):
        return False
    status = read_json(paths.status)
    if status["state"] != "finished" or status["final"]:
        return status["state"] == "finished"
    if any(alarm["kind"] in config.launch.stop_on_alarm for alarm in status.get("alarms", [])):
        return True
    budget, total = config.budget, status["gpu_hours"]["total"]
    by_budget = status["reason"].partition(" ")[0] in type(budget).model_fields
    if by_budget and all(status[name] == limit for name, limit in budget.model_dump().items()):
        return True  # it stopped within a step of them
    return (
        (budget.max_steps is not None and status["step"] >= budget.max_steps)
        or (budget.max_gpu_hours is not None and total >= budget.max_gpu_hours)
        or (
            budget.sweep_max_gpu_hours is not None
            and total + sibling_gpu_hours(paths) >= budget.sweep_max_gpu_hours
        )
    )
