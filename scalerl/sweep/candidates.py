"""Which runs of a folder `scalerl extend` lets go on: all, some by name, or those that rank highest."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from scalerl.common.names import suggest
from scalerl.config import RunConfig
from scalerl.curve.compare import rank
from scalerl.fits.inputs import read_folder, split_name
from scalerl.fits.records import Options, RunRecord, fit_record
from scalerl.fits.tables import recipes_of
from scalerl.sweep.states import RunState

ACTIVE = ("pending", "running")
"""States of a run that cannot be extended yet: its job would go on with the old budget."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One run of the folder; it is fitted when its fit is asked for."""

    state: RunState
    to: float
    """The budget in GPU-hours that it would get."""

    @property
    def recipe(self) -> str:
        """Return the run's name without axis and seed."""
        return split_name(self.state.name)[1]

    @cached_property
    def fit(self) -> RunRecord | str:
        """Return the fit with its prediction at the target, or why there is none."""
        try:
            return fit_record(read_folder(self.state.paths.root), Options(predict=(self.to,)))
        except ValueError as error:
            return str(error)


def choose(
    candidates: list[Candidate], top: int | None, by: str, recipes: Sequence[str]
) -> tuple[list[Candidate], list[str]]:
    """Return the chosen runs, and notes on how they were chosen; arguments as in extend.plan_extension.

    Raises:
        ValueError: an unknown recipe, `top` below 1, or a ranking over several axes.
    """
    known = list(dict.fromkeys(candidate.recipe for candidate in candidates))
    unknown = [name for name in recipes if name not in known]
    if unknown:
        raise ValueError(f"there is no recipe {unknown[0]}; {suggest(unknown[0], known)}")
    if top is None:
        names = list(recipes) or known
        return [candidate for candidate in candidates if candidate.recipe in names], []
    if top < 1:
        raise ValueError(f"--top {top}: at least 1 is needed")
    fitted = [candidate.fit for candidate in candidates if isinstance(candidate.fit, RunRecord)]
    if len({record.figure for record in fitted}) > 1:
        raise ValueError(
            "--top compares the recipes of one axis, and these runs are of several: name them with --recipe"
        )
    order = _by_ceiling(fitted) if by == "ceiling" else _by_prediction(fitted)
    notes = [
        f"not ranked: {c.state.name}: {c.fit}"
        for c in candidates
        if isinstance(c.fit, str) and c.recipe not in order
    ]
    notes.append(f"ranked by {by}: {', '.join(order)}")
    return [candidate for candidate in candidates if candidate.recipe in order[:top]], notes


def _by_prediction(records: list[RunRecord]) -> list[str]:
    """Rank recipes by the pass rate predicted at the target, mean over their seeds, best first."""
    predicted: dict[str, list[float]] = {}
    for record in records:
        value = record.predictions[-1]["predicted"]
        assert value is not None
        predicted.setdefault(record.run, []).append(value)
    return sorted(predicted, key=lambda recipe: -float(np.mean(predicted[recipe])))


def _by_ceiling(records: list[RunRecord]) -> list[str]:
    """Rank recipes as the report does: by ceiling, within the margin by efficiency."""
    return [row.recipe for row in rank(recipes_of(records))] if records else []


def already_extended(candidate: Candidate, config: RunConfig, extended: RunConfig) -> str:
    """Say why a run needs nothing more, as after a launcher that died half-way; "" if it does."""
    state, limit = candidate.state.state, config.budget.max_gpu_hours
    if candidate.state.used_gpu_hours >= candidate.to:
        return f"it has used {candidate.state.used_gpu_hours:.4g} GPU-hours already"
    if config.budget.max_steps is None and limit is not None and limit >= candidate.to and state in ACTIVE:
        return f"it is {state} with max_gpu_hours = {limit:g} already"
    # a run ends within a step of its budget, so it may have used a little less than the target
    if config == extended and state == "finished":
        return f"it has finished with max_gpu_hours = {limit:g}"
    return ""


def obstacle(candidate: Candidate, config: RunConfig) -> str:
    """Say why a run cannot be extended, with the way out; "" if it can."""
    state, status, limit = candidate.state.state, candidate.state.status, config.budget.max_gpu_hours
    if state in ACTIVE:
        return f"is {state}: wait for its end (`scalerl status`), or stop it"
    if status is None:
        return "was never run: start it with `scalerl sweep` or `scalerl run`"
    if status.final:
        return f"has ended for good ({status.reason}): no budget makes it go on"
    if limit is not None and candidate.to < limit:
        spent = f"has a budget of {limit:g} GPU-hours and used {candidate.state.used_gpu_hours:.4g} of them"
        return f"{spent}: --to must not be below it"
    return f"has no curve to predict from ({candidate.fit})" if isinstance(candidate.fit, str) else ""
