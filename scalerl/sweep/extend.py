"""`scalerl extend`: finished runs go on to a larger budget, and first the fits' predictions are written down.

First everything is checked, then the predictions are frozen, then the budgets in the config.json files are
raised; the same runs continue from their checkpoints in their folders.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scalerl.cluster.site import SiteConfig
from scalerl.common.table import format_table
from scalerl.config import RunConfig
from scalerl.fits.predictions import prediction_files, write_prediction
from scalerl.fits.records import RunRecord
from scalerl.launch.supervisor import EXIT_INTERRUPTED, run
from scalerl.run_folder import read_config, save_config
from scalerl.sweep.candidates import ACTIVE, Candidate, already_extended, choose, obstacle
from scalerl.sweep.states import RunState
from scalerl.sweep.status import states_below
from scalerl.sweep.submission import resolve_submissions, submit
from scalerl.sweep.submissions import Submission, sweep_lock


@dataclass(frozen=True, kw_only=True)
class Extension:
    """One run that goes on."""

    state: RunState
    config: RunConfig
    """The run's config with the new budget."""
    record: RunRecord
    """The fit of what has been run, with its prediction at the target."""
    used: float
    """GPU-hours so far."""

    def row(self) -> dict[str, object]:
        """Return the run's line of the forecast."""
        prediction = self.record.predictions[-1]
        ceiling = f"A {self.record.curve['a']:.3f}" if self.record.identified else "not yet identified"
        return {
            "run": self.state.name,
            "GPU-hours": self.used,
            "pass rate": self.record.points["pass_rate"][-1],
            "predicted": prediction["predicted"],
            "lo90": prediction["lo90"],
            "hi90": prediction["hi90"],
            "ceiling": ceiling,
            "to spend": self.to_spend,
        }

    @property
    def to_spend(self) -> float:
        """Return the GPU-hours that the extension costs."""
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
        """Return the folder that holds the run folders."""
        return self.extensions[0].state.paths.root.parent

    @property
    def to_spend(self) -> float:
        """Return the GPU-hours that all runs cost together."""
        return sum(extension.to_spend for extension in self.extensions)

    def __str__(self) -> str:
        """Return the forecast: a table, the notes, the sum."""
        rows = [extension.row() for extension in self.extensions]
        total = f"{len(rows)} run{'s'[: len(rows) != 1]}, {self.to_spend:.4g} GPU-hours to spend"
        table = format_table([list(row.values()) for row in rows], list(rows[0]))
        return "\n".join([table, *self.notes, total])


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

    Changes nothing. top: choose so many recipes, with all their seeds, that rank highest `by` the pass rate
    predicted at `to` ("prediction") or by their ceilings ("ceiling"). recipes: choose these. Neither: choose
    every run. sweep_max_gpu_hours: a new limit for the whole sweep, where it has one.

    Raises:
        ValueError: a chosen run cannot be extended, or none is left to extend.
        SlurmError: squeue failed.
    """
    candidates = [Candidate(state=state, to=to) for state in states_below(path)]
    chosen, notes = choose(candidates, top, by, recipes)
    problems, extensions = [], []
    for candidate in chosen:
        config = read_config(candidate.state.paths)
        extended = _with_budget(config, to, sweep_max_gpu_hours)
        if done := already_extended(candidate, config, extended):
            notes.append(f"{candidate.state.name} is left alone: {done}")
        elif problem := obstacle(candidate, config):
            problems.append(f"{candidate.state.name} {problem}")
        else:
            assert isinstance(candidate.fit, RunRecord)
            extensions.append(
                Extension(
                    state=candidate.state,
                    config=extended,
                    record=candidate.fit,
                    used=candidate.state.used_gpu_hours,
                )
            )
    if problems:
        raise ValueError(f"nothing was changed: {'; '.join(problems)}")
    if not extensions:
        raise ValueError(f"nothing to extend to {to:g} GPU-hours: {'; '.join(notes)}")
    _check_sweep_budget(candidates, extensions)
    return Plan(path=path, extensions=extensions, notes=notes + _notes(extensions, to))


def _with_budget(config: RunConfig, to: float, sweep_max_gpu_hours: float | None) -> RunConfig:
    """Return the config with a budget of `to` GPU-hours instead of steps, and with a new one of the sweep."""
    budget = {"max_gpu_hours": to, "max_steps": None}
    if sweep_max_gpu_hours is not None:
        budget["sweep_max_gpu_hours"] = sweep_max_gpu_hours
    return config.model_copy(update={"budget": config.budget.model_copy(update=budget)})


def _check_sweep_budget(candidates: list[Candidate], extensions: list[Extension]) -> None:
    """Refuse what the budget of the whole sweep would cut short.

    Raises:
        ValueError: the runs need more than that.
    """
    limits = [extension.config.budget.sweep_max_gpu_hours for extension in extensions]
    limit = min((limit for limit in limits if limit is not None), default=math.inf)
    needed = sum(candidate.state.used_gpu_hours for candidate in candidates)
    needed += sum(extension.to_spend for extension in extensions)
    if needed > limit:
        raise ValueError(
            f"nothing was changed: the sweep would use {needed:.4g} GPU-hours, and its "
            f"budget.sweep_max_gpu_hours is {limit:g}: raise it with --sweep-max-gpu-hours, or extend fewer"
        )


def _notes(extensions: list[Extension], to: float) -> list[str]:
    """Say what of the extension may surprise its user."""
    by_steps = [e for e in extensions if read_config(e.state.paths).budget.max_steps is not None]
    predicted = [e.state.name for e in extensions if prediction_files(e.state.paths.root)]
    failed = [e for e in extensions if e.state.state == "failed"]
    notes = [f"{e.state.name} failed ({e.state.reason}); it will try again" for e in failed]
    if by_steps:
        names = ", ".join(e.state.name for e in by_steps)
        notes.append(f"budget.max_steps is removed from {names}: only the {to:g} GPU-hours end them")
    if predicted:
        notes.append(f"predictions of an earlier extension stay as they are: {', '.join(predicted)}")
    return notes


def extend_on_slurm(
    plan: Plan, site: SiteConfig, *, throttle: int | None = None, site_file: Path | None = None
) -> list[Submission]:
    """Carry the plan out, submit its runs and return at once.

    Repeated after a refused sbatch, it submits what is missing.

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
    """Carry the plan out on this machine, one run after the other; return the worst exit code of the runs.

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
        names = ", ".join(f"{state.name} is {state.state}" for state in active)
        raise ValueError(f"nothing was changed: {names} by now")
    # all predictions before the first budget: whoever dies in between, no run is extended without one
    for extension in plan.extensions:
        write_prediction(extension.state.paths.root, extension.record)
    for extension in plan.extensions:
        save_config(extension.state.paths, extension.config)
