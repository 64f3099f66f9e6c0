"""`scalerl sweep`: which runs of a grid are missing, what they will take, and their start.

The run folders, the submission records and Slurm say what is there; the launcher remembers nothing, may die
at any point, and may be called again or twice at once: a run is started by one of the calls.
"""

import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from scalerl.cluster.site import SiteConfig
from scalerl.cluster.slurm import SlurmError, available
from scalerl.config import RunConfig
from scalerl.paths import RunPaths
from scalerl.preflight.inputs import check_inputs_of_all
from scalerl.run_folder import check_run_folder, read_config, read_saved_config, read_status, save_config
from scalerl.sweep.forecast import Forecast, forecast_sweep, measured_rates
from scalerl.sweep.states import RunState, sweep_states
from scalerl.sweep.submission import resolve_submissions, submit
from scalerl.sweep.submissions import last_submissions, read_submissions, sweep_lock


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A grid of runs and how it is to be launched."""

    dir: Path
    runs: Mapping[str, RunConfig]
    """The configs by the names of their folders in `dir`."""
    site: SiteConfig
    site_file: Path | None = None
    """The file of `site`, where it was named."""
    on_slurm: bool = True
    """Whether runs are submitted to Slurm; else they go one after the other on this machine."""
    throttle: int | None = None
    """Runs at once; None: as many as Slurm starts."""
    retry: bool = False
    """Whether to start also what failed or was stopped."""

    def paths(self, name: str) -> RunPaths:
        """Return the files of one run."""
        return RunPaths(self.dir / name)


def use_slurm(cluster: str | None) -> bool:
    """Say whether to submit: as the user says, else wherever Slurm is installed.

    Raises:
        ValueError: the user wants Slurm where it is not installed.
    """
    if cluster == "slurm" and not available():
        raise ValueError(
            "--cluster slurm: there is no `squeue` on this machine; use a login node, or --cluster local"
        )
    return cluster == "slurm" or (cluster is None and available())


def launch(sweep: Sweep, *, confirm_above_gpu_hours: float, yes: bool, dry_run: bool) -> int:
    """Print the grid and its forecast, ask if it is large, start what is missing; return the exit code.

    Raises:
        ValueError: a folder belongs to another run, an input is missing, or nobody is there to confirm;
            nothing was started.
        SlurmError: Slurm does not answer, or refused an array.
    """
    if sweep.on_slurm and not dry_run:
        _adopt(sweep)
    states = plan(sweep)
    names = missing(sweep, states)
    forecast = _forecast(sweep, states, names)
    _print_plan(sweep, states, names, forecast)
    if dry_run or not names:
        return 0
    check_inputs_of_all(sweep.runs[name] for name in names)
    confirm(forecast.gpu_hours.value, confirm_above_gpu_hours, yes)
    return _submit(sweep, names) if sweep.on_slurm else _run_here(sweep, names)


def _adopt(sweep: Sweep) -> None:
    """Find the jobs of a launcher that died, or wait for one that is at work."""
    if any(submission.job_id is None for submission in read_submissions(sweep.dir)):
        with sweep_lock(sweep.dir):
            resolve_submissions(sweep.dir)


def plan(sweep: Sweep) -> dict[str, RunState]:
    """Return the state of every run of the grid that has a folder.

    Raises:
        ValueError: a folder belongs to a run with another signature, or to none.
    """
    for name, config in sweep.runs.items():
        paths = sweep.paths(name)
        if not paths.config.exists() or read_saved_config(paths).signature != config.signature():
            check_run_folder(paths, config)
    if not sweep.dir.exists():
        return {}
    return {state.name: state for state in sweep_states(sweep.dir) if state.name in sweep.runs}


def missing(sweep: Sweep, states: Mapping[str, RunState]) -> list[str]:
    """Return the runs to start, in the order of the grid.

    On this machine everything goes on that can, as in `scalerl run`.
    """
    if not sweep.on_slurm:
        return [name for name, config in sweep.runs.items() if _can_go_on(config, states.get(name))]
    startable = {"planned"} | ({"stopped", "failed"} if sweep.retry else set())
    return [name for name in sweep.runs if name not in states or states[name].state in startable]


def _can_go_on(config: RunConfig, state: RunState | None) -> bool:
    from scalerl.launch.supervisor import budget_used_up

    return state is None or (
        state.state not in ("pending", "running") and not budget_used_up(config, state.paths)
    )


def _forecast(sweep: Sweep, states: Mapping[str, RunState], names: list[str]) -> Forecast:
    runs = {name: sweep.runs[name] for name in names}
    spent = {name: state.used_gpu_hours for name, state in states.items()}
    runs_dir = Path(sweep.site.runs_dir)
    folders = {*sweep.dir.glob("*"), *runs_dir.glob("*"), *runs_dir.glob("sweeps/*/*")} if runs else set()
    devices = max((_devices(config, sweep) for config in runs.values()), default=1)
    at_once = (sweep.throttle or max(1, len(runs))) if sweep.on_slurm else 1
    return forecast_sweep(runs, spent, devices, at_once, measured_rates(sorted(folders)))


def _devices(config: RunConfig, sweep: Sweep) -> int:
    """Return the number of devices that a run holds, idle ones included."""
    if not sweep.on_slurm:
        return config.num_devices
    shape = sweep.site.slurm.shape(config.num_devices)
    return shape.nodes * (shape.gpus_per_node or shape.cpus_per_node)


def _print_plan(sweep: Sweep, states: Mapping[str, RunState], names: list[str], forecast: Forecast) -> None:
    for name, config in sweep.runs.items():
        state = states[name].state if name in states else "planned"
        print(f"{config.signature()}  {state:<8}  {sweep.dir / name}")
    counts = Counter(states[name].state if name in states else "planned" for name in sweep.runs)
    print(f"{len(sweep.runs)} runs: {', '.join(f'{count} {state}' for state, count in counts.items())}")
    other_budget = sum(_has_other_budget(sweep, name) for name, state in states.items() if state.status)
    if other_budget and sweep.on_slurm:
        keep = f"{other_budget} of them keep another budget, with which they were started"
        print(f"{keep}; `scalerl extend` raises it")
    here = ("run", "on this machine, one after the other")
    verb, where = ("submit", "to Slurm") if sweep.on_slurm else here
    if not names:
        failed = counts["failed"] + counts["stopped"]
        again = f"; --retry submits the {failed} that failed or were stopped" if failed else ""
        print(f"nothing to {verb}{again}")
        return
    print(f"forecast of the {len(names)} to {verb} {where}:")
    print("\n".join(forecast.lines()))


def _has_other_budget(sweep: Sweep, name: str) -> bool:
    return read_saved_config(sweep.paths(name)).config["budget"] != sweep.runs[name].budget.model_dump(
        mode="json"
    )


def confirm(gpu_hours: float | None, above: float, yes: bool) -> None:
    """Ask the user before more than `above` GPU-hours are spent.

    Raises:
        ValueError: the answer is no, or there is nobody to ask.
    """
    if yes or (gpu_hours is not None and gpu_hours <= above):
        return
    what = "an unknown number of GPU-hours"
    if gpu_hours is not None:
        what = f"{gpu_hours:,.0f} GPU-hours, more than {above:,.0f}"
    if not sys.stdin.isatty():
        nobody = "there is no terminal to ask: add --yes to go ahead"
        raise ValueError(f"this would take {what} (--confirm-above), and {nobody}")
    if input(f"this takes {what}. Go ahead? [y/N] ").strip().lower() not in ("y", "yes"):
        raise ValueError("not confirmed; nothing was started")


def _submit(sweep: Sweep, names: list[str]) -> int:
    """Submit those of the runs that no other launcher has submitted since they were planned."""
    with sweep_lock(sweep.dir):
        resolve_submissions(sweep.dir)
        # planned again under the lock: another launcher may have been faster
        still_missing = missing(sweep, plan(sweep))
        configs = {name: _write_folder(sweep, name) for name in names if name in still_missing}
        if not configs:
            print("another launcher has submitted them meanwhile")
            return 0
        try:
            submit(sweep.dir, configs, sweep.site, throttle=sweep.throttle, site_file=sweep.site_file)
        except SlurmError as error:
            have_jobs = [name for name in configs if name in last_submissions(sweep.dir)]
            raise SlurmError(
                f"{error}. Submitted: {len(have_jobs)} of {len(configs)}; the same command submits the rest"
            ) from None
        last = last_submissions(sweep.dir)
    jobs = sorted({last[name].job_id or "" for name in configs})
    print(f"submitted {len(configs)} runs as job {', '.join(jobs)}; `scalerl status {sweep.dir}` shows them")
    return 0


def _write_folder(sweep: Sweep, name: str) -> RunConfig:
    """Save the config that the job will read, and return it.

    A run that was started keeps its budget, which `scalerl extend` may have raised; the sweep's own budget is
    the one that was given last.
    """
    paths, config = sweep.paths(name), sweep.runs[name]
    if read_status(paths) is not None:
        budget, limit = read_config(paths).budget, config.budget.sweep_max_gpu_hours
        budget = budget.model_copy(update={"sweep_max_gpu_hours": limit or budget.sweep_max_gpu_hours})
        config = config.model_copy(update={"budget": budget})
    paths.root.mkdir(parents=True, exist_ok=True)
    save_config(paths, config)
    return config


def _run_here(sweep: Sweep, names: list[str]) -> int:
    """Run one after the other; return the worst exit code. An interrupt ends them all."""
    from scalerl.launch.supervisor import EXIT_INTERRUPTED, run

    codes = [0]
    for name in names:
        codes.append(run(sweep.runs[name], sweep.paths(name)))
        if codes[-1] == EXIT_INTERRUPTED:
            break
    return max(codes)
