"""The state of every run of a sweep, from its folder, the submission records and, where it is there, Slurm.

| state | meaning |
|---|---|
| planned | the folder is there; nothing was ever started or submitted |
| pending | its job waits in the queue: not started yet, or preempted, requeued, held |
| running | its job, or a supervisor without one, is alive |
| finished | its budget allows no further step, or it ended for good |
| stopped | it ended well, but its budget allows more: interrupted, cancelled, or the budget was raised |
| failed | it ended with an error, or its job vanished |

A job in the queue decides first, then what the run itself wrote since it was submitted. Configs are read
unchecked: a table of 500 runs must not wait for 500 validations.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

from scalerl.cluster.slurm import AT_WORK, QueuedJob, SlurmError, accounted, available, queue
from scalerl.fence import supervisor_alive
from scalerl.paths import RunPaths, SweepPaths
from scalerl.run_folder import RunStatus, read_saved_config, read_status
from scalerl.sweep.submissions import Submission, last_submissions

State = Literal["planned", "pending", "running", "finished", "stopped", "failed"]

HOLDS_NODES = AT_WORK | {"COMPLETING", "STAGE_OUT"}
"""What squeue says of a job that has its nodes; a job in any other state that it lists waits for them."""


@dataclass(frozen=True, kw_only=True)
class RunState:
    """What one run is doing."""

    name: str
    paths: RunPaths
    state: State
    reason: str
    """Why the run ended, or why its job waits; may be empty."""
    job_id: str | None
    """The run's Slurm job as squeue writes it; None for a run without one."""
    status: RunStatus | None
    """What the run last wrote of itself; None before that."""
    vanished: bool = False
    """Whether Slurm no longer has the job although the run did not say that it ended: sacct may know why."""

    @property
    def used_gpu_hours(self) -> float:
        """Return the GPU-hours that the run says it has used."""
        return self.status.gpu_hours.total if self.status else 0.0


def sweep_states(sweep_dir: Path) -> list[RunState]:
    """Return the state of every run folder in `sweep_dir` (or of `sweep_dir` itself, if it is one), by name.

    Asks squeue once if any run has a job, and sacct once if a job vanished; neither where Slurm is not
    installed.

    Raises:
        ValueError: a file of a run is not JSON.
        SlurmError: squeue failed.
    """
    alone = RunPaths(sweep_dir).config.exists()
    folders = [sweep_dir] if alone else sorted(sweep_dir.iterdir())
    runs = [paths for folder in folders if (paths := RunPaths(folder)).config.exists()]
    submissions = last_submissions(sweep_dir.parent if alone else sweep_dir)
    has_jobs = bool(submissions) or any(status.job_id for paths in runs if (status := read_status(paths)))
    # the queue before the folders: a run that ends in between has said so
    queued = queue() if has_jobs and available() else None
    states = [run_state(paths, *_last_job(submissions.get(paths.root.name), paths, queued)) for paths in runs]
    if queued is not None:
        states = _ask_accounting(states)
    return [
        _with_last_words(state, submissions.get(state.name)) if state.vanished else state for state in states
    ]


def _last_job(
    submission: Submission | None, paths: RunPaths, queued: dict[str, QueuedJob] | None
) -> tuple[str | None, dict[str, QueuedJob] | None, float]:
    """Return the arguments of run_state: job id, queue, unix time of the submission.

    A record that never got its job id is looked up in the queue by its job name.
    """
    if submission is None:
        return None, queued, 0.0
    if submission.job_id is None and queued is not None:
        found = [job.job_id.partition("_")[0] for job in queued.values() if job.name == submission.job_name]
        submission = replace(submission, job_id=found[0] if found else None)
    job_id = submission.task_id(paths.root.name)
    return job_id, queued, submission.submitted_s if job_id else 0.0


def run_state(
    paths: RunPaths, job_id: str | None, queue: dict[str, QueuedJob] | None, submitted_s: float = 0.0
) -> RunState:
    """Return the state of one run.

    job_id: the job of its last submission; None without one. queue: from slurm.queue(); None where there is
    no Slurm. submitted_s: unix time of that submission; what the run wrote before was an earlier job's.

    Raises:
        ValueError: a file of the run is not JSON.
    """
    status = read_status(paths)
    told = status if status and status.updated_s >= submitted_s else None
    # a run submitted by hand, with slurm/*.sh, has no record: only its status names the job
    by_hand = told.job_id if told else None
    if by_hand and not (queue and job_id in queue):
        job_id = by_hand if job_id is None or (queue and by_hand in queue) else job_id
    state, reason, vanished = _decide(paths, job_id, queue, told)
    return RunState(
        name=paths.root.name,
        paths=paths,
        state=state,
        reason=reason,
        job_id=job_id,
        status=status,
        vanished=vanished,
    )


def _decide(
    paths: RunPaths, job_id: str | None, queued: dict[str, QueuedJob] | None, told: RunStatus | None
) -> tuple[State, str, bool]:
    """Return (state, reason, vanished); told: status.json, if it was written since the job was submitted."""
    job = queued.get(job_id) if queued and job_id else None
    if job is not None:
        return ("running" if job.state in HOLDS_NODES else "pending"), _job_reason(job, told), False
    if told and told.state in ("finished", "stopped", "failed"):
        return *_ended(paths, told), False
    slurm_knows = queued is not None and job_id is not None
    if not slurm_knows and supervisor_alive(paths):
        return "running", "", False
    if slurm_knows:
        return "failed", f"job {job_id} is not in the queue any more", True
    if told:
        return "failed", f"no sign of life since its supervisor's last one at step {told.step}", False
    if job_id is not None:
        return "pending", f"submitted as job {job_id}; there is no Slurm here to ask", False
    if paths.attempt.exists():
        return "failed", "its supervisor died before it said anything", False
    return "planned", "", False


def _job_reason(job: QueuedJob, told: RunStatus | None) -> str:
    """Say why a job in the queue waits, or that its run has not spoken yet."""
    if job.state == "RUNNING":
        return "" if told and told.state == "running" else "starting"
    again = f"; {told.reason}" if told and told.state == "requeued" else ""
    return (job.reason if job.state == "PENDING" else job.state) + again


def _ended(paths: RunPaths, status: RunStatus) -> tuple[State, str]:
    """Return the run's own word on its end, (state, reason).

    A finished run whose budget was raised since can go on, so it is stopped.
    """
    if status.state != "finished" or status.final:
        return cast(State, status.state), status.reason
    budget = read_saved_config(paths).config["budget"]
    spent = {"max_steps": status.step, "max_gpu_hours": status.gpu_hours.total}
    used_up = any(budget[limit] is not None and spent[limit] >= budget[limit] for limit in spent)
    # a run stops within a step of its budget or at the sweep's: not being there yet means nothing while the
    # limits are the same
    changed = [limit for limit in budget if limit in status.limits and status.limits[limit] != budget[limit]]
    if used_up or not changed:
        return "finished", status.reason
    raised = ", ".join(f"budget.{limit} is {budget[limit]} now" for limit in changed)
    return "stopped", f"{status.reason}; {raised}"


def _ask_accounting(states: list[RunState]) -> list[RunState]:
    """Add what sacct knows of vanished jobs; nothing where there is no accounting."""
    tasks = {state.job_id for state in states if state.vanished and state.job_id}
    try:
        # tasks of an array that never started are one row, under the array's own id
        jobs = accounted(tasks | {task.partition("_")[0] for task in tasks})
    except SlurmError:
        return states
    known = {task: job.state for job in jobs for task in _task_ids(job.job_id)}
    return [_explained(state, known.get(state.job_id or "")) if state.vanished else state for state in states]


def _task_ids(job_id: str) -> list[str]:
    """Return the tasks of "16_[1-3,7%2]": 16_1, 16_2, 16_3, 16_7. Another id is its own."""
    match = re.fullmatch(r"(\d+)_\[([\d,-]+)(?:%\d+)?\]", job_id)
    if match is None:
        return [job_id]
    ranges = [part.partition("-") for part in match[2].split(",")]
    return [
        f"{match[1]}_{task}"
        for first, _, last in ranges
        for task in range(int(first), int(last or first) + 1)
    ]


def _with_last_words(state: RunState, submission: Submission | None) -> RunState:
    """Add the last line of the job's log: a run that never started has no other place to say why."""
    if submission is None:
        return state
    log = SweepPaths(state.paths.root.parent).job_log(submission.id, str(state.job_id))
    lines = log.read_text(errors="replace").split("\n") if log.exists() else []
    last = next((line.strip() for line in reversed(lines) if line.strip()), None)
    return replace(state, reason=f"{state.reason} ({last}; log: {log})") if last else state


def _explained(state: RunState, accounted_state: str | None) -> RunState:
    """Return the state of a vanished job as sacct explains it; None: it does not."""
    if accounted_state is None:
        return state
    if accounted_state in HOLDS_NODES:  # another user's: squeue listed only one's own
        return replace(state, state="running", reason="", vanished=False)
    if accounted_state in ("PENDING", "REQUEUED"):
        return replace(state, state="pending", reason="", vanished=False)
    return replace(
        state, reason=f"job {state.job_id}: {accounted_state} before the run could say why it ended"
    )
