"""`scalerl extend`: finished runs go on to a larger budget, and what is foretold of them is written down
before they do.
 First everything is checked, then the predictions are frozen, then the budgets in the config.json files are
raised; the same runs continue from their checkpoints in their folders.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from scalerl.cluster.site import SiteConfig
from scalerl.config import RunConfig
from scalerl.curve.compare import rank
from scalerl.fits.inputs import read_folder, split_name
from scalerl.fits.predictions import prediction_files, write_prediction
from scalerl.fits.records import Options, RunRecord, fit_record
from scalerl.fits.tables import format_table, recipes_of
from scalerl.launch.supervisor import EXIT_INTERRUPTED, run
from scalerl.run_folder import read_config, save_config
from scalerl.sweep.states import RunState
from scalerl.sweep.status import states_below
from scalerl.sweep.submission import resolve_submissions, submit
from scalerl.sweep.submissions import Submission, sweep_lock

ACTIVE = ("pending", "running")
RANKINGS = ("prediction", "ceiling")


@dataclass(frozen=True, kw_only=True)
class Extension:
    """One run that goes on."""

    state: RunState
    config: RunConfig
    """With the new budget."""
    record: RunRecord
    """The fit of what has been run, with its prediction at the target."""
    used: float
    """GPU-hours so far."""

    def row(self) -> dict[str, object]:
        """A line of the forecast."""
        foretold = self.record.predictions[-1]
        ceiling = f"A {self.record.curve['a']:.3f}" if self.record.identified else "not yet identified"
        return {
            "run": self.state.name,
            "GPU-hours": self.used,
            "pass rate": self.record.points["pass_rate"][-1],
            "foretold": foretold["predicted"],
            "lo90": foretold["lo90"],
            "hi90": foretold["hi90"],
            "ceiling": ceiling,
            "to spend": self.to_spend,
        }

    @property
    def to_spend(self) -> float:
        """GPU-hours that the extension costs."""
        limit = self.config.budget.max_gpu_hours
        assert limit is not None
        return limit - self.used


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What an extension will do."""

    path: Path
    """The run folder or the folder of runs it was asked for."""
    extensions: list[Extension]
    notes: list[str]
    """What the user should know before saying yes."""

    @property
    def sweep_dir(self) -> Path:
        """The folder that holds the run folders."""
        return self.extensions[0].state.paths.root.parent

    @property
    def to_spend(self) -> float:
        """GPU-hours of all runs together."""
        return sum(extension.to_spend for extension in self.extensions)

    def __str__(self) -> str:
        """The forecast: a table, the notes, the sum."""
        rows = [extension.row() for extension in self.extensions]
        total = f"{len(rows)} run{'s'[: len(rows) != 1]}, {self.to_spend:.4g} GPU-hours to spend"
        return "\n".join([format_table(rows, list(rows[0])), *self.notes, total])


@dataclass(frozen=True, kw_only=True)
class _Candidate:
    """A run of the folder; it is fitted when its fit is asked for."""

    state: RunState
    to: float

    @property
    def recipe(self) -> str:
        return split_name(self.state.name)[1]

    @property
    def used(self) -> float:
        return self.state.status["gpu_hours"]["total"] if self.state.status else 0.0

    @cached_property
    def fit(self) -> RunRecord | str:
        """The fit with its prediction at the target, or why there is none."""
        try:
            return fit_record(read_folder(self.state.paths.root), Options(predict=(self.to,)))
        except ValueError as error:
            return str(error)


def plan_extension(
    path: Path,
    to: float,
    *,
    top: int | None = None,
    by: str = "prediction",
    recipes: Sequence[str] = (),
    sweep_max_gpu_hours: float | None = None,
) -> Plan:
    """Choose the runs below `path` (or `path` itself) that go on to `to` GPU-hours each, and forecast them.
    Changes nothing.

    top: recipes that rank highest, with all their seeds, `by` the pass rate predicted at `to` or by their
    ceilings. recipes: by name. Neither: every run. sweep_max_gpu_hours: a new limit for the whole sweep,
    where it has one.

    Raises:
        ValueError: a chosen run cannot be extended, or none is left to extend.
        SlurmError: squeue failed.
    """
    candidates = [_Candidate(state=state, to=to) for state in states_below(path)]
    chosen, notes = _choose(candidates, top, by, recipes)
    problems, extensions = [], []
    for candidate in chosen:
        config = read_config(candidate.state.paths)
        new_budget = {"max_gpu_hours": to, "max_steps": None}
        if sweep_max_gpu_hours is not None:
            new_budget["sweep_max_gpu_hours"] = sweep_max_gpu_hours
        extended = config.model_copy(update={"budget": config.budget.model_copy(update=new_budget)})
        if done := _done(candidate, config, extended):
            notes.append(f"{candidate.state.name} is left alone: {done}")
        elif problem := _problem(candidate, config):
            problems.append(f"{candidate.state.name} {problem}")
        else:
            assert isinstance(candidate.fit, RunRecord)
            extensions.append(
                Extension(state=candidate.state, config=extended, record=candidate.fit, used=candidate.used)
            )
    if problems:
        raise ValueError(f"nothing was changed: {'; '.join(problems)}")
    if not extensions:
        raise ValueError(f"nothing to extend to {to:g} GPU-hours: {'; '.join(notes)}")
    _check_sweep_budget(candidates, extensions)
    return Plan(path=path, extensions=extensions, notes=notes + _notes(extensions, to))


def _choose(
    candidates: list[_Candidate], top: int | None, by: str, recipes: Sequence[str]
) -> tuple[list[_Candidate], list[str]]:
    """(chosen runs, notes)."""
    known = list(dict.fromkeys(candidate.recipe for candidate in candidates))
    unknown = [name for name in recipes if name not in known]
    if unknown:
        raise ValueError(f"no recipe {', '.join(unknown)}; there are {', '.join(known)}")
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
    """Recipes by the pass rate foretold at the target, mean over their seeds, best first."""
    foretold: dict[str, list[float]] = {}
    for record in records:
        value = record.predictions[-1]["predicted"]
        assert value is not None
        foretold.setdefault(record.run, []).append(value)
    return sorted(foretold, key=lambda recipe: -float(np.mean(foretold[recipe])))


def _by_ceiling(records: list[RunRecord]) -> list[str]:
    """Recipes as the report ranks them: by ceiling, within the margin by efficiency."""
    return [row.recipe for row in rank(recipes_of(records))] if records else []


def _done(candidate: _Candidate, config: RunConfig, extended: RunConfig) -> str:
    """Why a run needs nothing more, as after a launcher that died half-way; empty if it does."""
    state, limit = candidate.state.state, config.budget.max_gpu_hours
    if candidate.used >= candidate.to:
        return f"it has used {candidate.used:.4g} GPU-hours already"
    if config.budget.max_steps is None and limit is not None and limit >= candidate.to and state in ACTIVE:
        return f"it is {state} with max_gpu_hours = {limit:g} already"
    if config == extended and state == "finished":  # within a step of it
        return f"it has finished with max_gpu_hours = {limit:g}"
    return ""


def _problem(candidate: _Candidate, config: RunConfig) -> str:
    """Why a run cannot be extended, with the way out; empty if it can."""
    state, status, limit = candidate.state.state, candidate.state.status or {}, config.budget.max_gpu_hours
    if state in ACTIVE:
        return f"is {state}: wait for its end (`scalerl status`), or stop it"
    if not status:
        return "was never run: start it with `scalerl sweep` or `scalerl run`"
    if status["final"]:
        return f"has ended for good ({status['reason']}): no budget makes it go on"
    if limit is not None and candidate.to < limit:
        return f"has a budget of {limit:g} GPU-hours and used {candidate.used:.4g} of them: --to must not be below it"
    return f"has no curve to predict from ({candidate.fit})" if isinstance(candidate.fit, str) else ""


def _check_sweep_budget(candidates: list[_Candidate], extensions: list[Extension]) -> None:
    """Refuse what the budget of the whole sweep would cut short.

    Raises:
        ValueError: the runs need more than that.
    """
    limits = [
        limit
        for extension in extensions
        if (limit := extension.config.budget.sweep_max_gpu_hours) is not None
    ]
    needed = sum(candidate.used for candidate in candidates) + sum(
        extension.to_spend for extension in extensions
    )
    if limits and needed > min(limits):
        raise ValueError(
            f"nothing was changed: the sweep would use {needed:.4g} GPU-hours, and its budget.sweep_max_gpu_hours is "
            f"{min(limits):g}: raise it with --sweep-max-gpu-hours, or extend fewer runs"
        )


def _notes(extensions: list[Extension], to: float) -> list[str]:
    by_steps = [e for e in extensions if read_config(e.state.paths).budget.max_steps is not None]
    foretold = [e.state.name for e in extensions if prediction_files(e.state.paths.root)]
    failed = [e for e in extensions if e.state.state == "failed"]
    notes = [f"{e.state.name} failed ({e.state.reason}); it will try again" for e in failed]
    if by_steps:
        names = ", ".join(e.state.name for e in by_steps)
        notes.append(f"budget.max_steps is removed from {names}: only the {to:g} GPU-hours end them")
    if foretold:
        notes.append(f"predictions of an earlier extension stay as they are: {', '.join(foretold)}")
    return notes


def extend_on_slurm(
    plan: Plan, site: SiteConfig, *, throttle: int | None = None, site_file: Path | None = None
) -> list[Submission]:
    """Carry the plan out and submit its runs; returns at once. Repeated after a refused sbatch, it submits
    what is missing.

    Raises:
        ValueError: a run has become active since, or an earlier prediction cannot be read; nothing was
            submitted.
        SlurmError: sbatch refused.
    """
    with sweep_lock(plan.sweep_dir):
        resolve_submissions(plan.sweep_dir)
        _freeze_and_raise(plan)
        runs = {extension.state.name: extension.config for extension in plan.extensions}
        return submit(plan.sweep_dir, runs, site, throttle=throttle, site_file=site_file)


def extend_here(plan: Plan) -> int:
    """Carry the plan out on this machine, one run after the other; the worst exit code of the runs.

    Raises:
        ValueError: a run has become active since, or an earlier prediction cannot be read; nothing was
            started.
    """
    with sweep_lock(plan.sweep_dir):
        _freeze_and_raise(plan)
    codes = []
    for extension in plan.extensions:
        codes.append(run(extension.config, extension.state.paths))
        if codes[-1] == EXIT_INTERRUPTED:
            break
    return max(codes)


def _freeze_and_raise(plan: Plan) -> None:
    """Write the predictions that are not there yet, then the new budgets."""
    chosen = {extension.state.name for extension in plan.extensions}
    active = [state for state in states_below(plan.path) if state.name in chosen and state.state in ACTIVE]
    if active:  # another launcher was faster
        raise ValueError(
            f"nothing was changed: {', '.join(f'{state.name} is {state.state}' for state in active)} by now"
        )
    for extension in plan.extensions:
        write_prediction(extension.state.paths.root, extension.record)
    for extension in plan.extensions:
        save_config(extension.state.paths, extension.config)
