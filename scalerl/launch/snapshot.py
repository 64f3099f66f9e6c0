"""The numbers of a run that status.json shows: small enough to read five hundred of them in a moment."""

from typing import Any

import numpy as np

from scalerl.curve.window import MIN_FIT_POINTS, Window


def latest(rows: list[dict[str, Any]]) -> dict[str, float | None]:
    """The newest evaluation and step: pass_rate, off_policyness_mean, and dropped_share of the groups (zero
    variance)."""
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
    """The default fit of the evaluations so far over GPU-hours: a, lo90, hi90, identified, reason; None while
    they make no curve."""
    evaluations = sorted((row for row in rows if row["kind"] == "eval"), key=lambda row: row["step"])
    after = evaluations[1:]
    if len(after) < MIN_FIT_POINTS:
        return None
    from scalerl.curve.fit import fit_curve  # SciPy takes a second to import

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
    found = {"identified": fit.identification.identified, "reason": fit.identification.reason}
    return {"a": float(fit.curve.a), "lo90": float(low), "hi90": float(high)} | found
