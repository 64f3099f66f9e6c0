"""What status.json says of a run: small enough to read five hundred of them in a moment."""

from typing import Any

import numpy as np

from scalerl.config import RunConfig
from scalerl.curve.window import MIN_POINTS, Window
from scalerl.files import read_json
from scalerl.paths import RunPaths
from scalerl.spool.policy import pending_evaluations


def latest(rows: list[dict[str, Any]]) -> dict[str, float | None]:
    """The newest evaluation and step: pass_rate, off_policyness_mean, and dropped_share of the groups (zero variance)."""
    evaluations = [row for row in rows if row["kind"] == "eval"]
    steps = [row for row in rows if row["kind"] == "step"]
    newest = steps[-1] if steps else {}
    dropped = sum((newest.get("groups_dropped") or {}).values())
    return {
        "pass_rate": evaluations[-1]["pass_rate"] if evaluations else None,
        "off_policyness_mean": newest.get("off_policyness_mean"),
        "dropped_share": dropped / newest["num_groups"] if newest.get("num_groups") else None,
    }


def ceiling(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The default fit of the evaluations so far over GPU-hours: a, lo90, hi90, identified, reason; None while they make no curve."""
    evaluations = sorted((row for row in rows if row["kind"] == "eval"), key=lambda row: row["step"])
    after = evaluations[1:]
    if len(after) < MIN_POINTS:
        return None
    from scalerl.curve.estimators import fit_curve  # SciPy takes a second to import

    try:
        window = Window(
            compute=np.array([row["gpu_hours"] for row in after]),
            pass_rate=np.array([row["pass_rate"] for row in after]),
            r0=evaluations[0]["pass_rate"],
            num_samples=np.array([row["num_prompts"] * row["samples_per_prompt"] for row in after]),
        )
    except ValueError:
        return None
    fit = fit_curve(window)
    low, high = np.quantile(fit.parameters.a, [0.05, 0.95])
    verdict = {"identified": fit.verdict.identified, "reason": fit.verdict.reason}
    return {"a": float(fit.curve.a), "lo90": float(low), "hi90": float(high)} | verdict


def sibling_gpu_hours(paths: RunPaths) -> float:
    """GPU-hours of the other runs of the sweep: the folders beside this one."""
    name, sweep_dir = paths.status.name, paths.root.resolve().parent
    folders = sweep_dir.iterdir() if sweep_dir.exists() else []
    statuses = [folder / name for folder in folders if folder.name != paths.root.name]
    return sum(read_json(path)["gpu_hours"]["total"] for path in statuses if path.exists())


def limit_reached(config: RunConfig, rows: list[dict[str, Any]], total: float, siblings: float = 0.0) -> tuple[str | None, bool]:
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
        or (budget.sweep_max_gpu_hours is not None and total + sibling_gpu_hours(paths) >= budget.sweep_max_gpu_hours)
    )
