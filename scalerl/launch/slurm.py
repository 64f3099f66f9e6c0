"""The few Slurm commands this project needs, each with a deadline and an error that says what Slurm said."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

SEPARATOR = "|"


class SlurmError(OSError):
    """A Slurm command failed; the message holds the command and its last words."""


def call(*command: str, deadline_s: float = 60) -> str:
    """The output of a Slurm command.

    Raises:
        SlurmError: there is no such command, it failed, or it did not answer within `deadline_s`.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=deadline_s)
    except FileNotFoundError:
        raise SlurmError(f"there is no `{command[0]}` here: this machine is no Slurm client") from None
    except subprocess.TimeoutExpired:
        raise SlurmError(f"`{' '.join(command)}` did not answer within {deadline_s:.0f} s; is slurmctld up?") from None
    if done.returncode:
        raise SlurmError(f"`{' '.join(command)}` failed: {(done.stderr or done.stdout).strip()[-500:]}")
    return done.stdout


def available() -> bool:
    """Whether Slurm's commands are installed here."""
    return shutil.which("squeue") is not None


@dataclass(frozen=True, kw_only=True)
class QueuedJob:
    """A job, or one task of an array, that Slurm has not forgotten yet."""

    job_id: str
    """As `<array job>_<index>` for a task of an array."""
    name: str
    state: str
    """PENDING, RUNNING, COMPLETING, REQUEUED, ...; lately ended jobs are not listed."""
    reason: str


def queue() -> dict[str, QueuedJob]:
    """The user's jobs by job_id; one entry a task of an array.

    Raises:
        SlurmError: squeue failed.
    """
    listing = call("squeue", "--me", "--noheader", "--array", f"--format=%i{SEPARATOR}%T{SEPARATOR}%r{SEPARATOR}%j")
    jobs = {}
    for line in listing.splitlines():
        job_id, state, reason, name = line.split(SEPARATOR, 3)
        jobs[job_id] = QueuedJob(job_id=job_id, name=name, state=state, reason=reason)
    return jobs


@dataclass(frozen=True, kw_only=True)
class AccountedJob:
    """One start of a job, as sacct knows it; a requeued job has several."""

    job_id: str
    state: str
    start_s: float | None
    """Unix time; None if it never started."""
    elapsed_s: float
    gpus: int

    @property
    def gpu_hours(self) -> float:
        return self.gpus * self.elapsed_s / 3600


def accounted(job_ids: Iterable[str]) -> list[AccountedJob]:
    """Every start of these jobs, oldest first.

    Raises:
        SlurmError: sacct failed, as it does where there is no accounting.
    """
    ids = ",".join(job_ids)
    if not ids:
        return []
    fields = "JobID,State,Start,ElapsedRaw,AllocTRES"
    command = ["sacct", "--duplicates", "--allocations", "--noheader", "--parsable2", f"--format={fields}", f"--jobs={ids}"]
    jobs = []
    for line in call(*command).splitlines():
        job_id, state, start, elapsed, tres = line.split(SEPARATOR, 4)
        gpus = re.search(r"gres/gpu=(\d+)", tres)
        jobs.append(
            AccountedJob(
                job_id=job_id,
                state=state.split()[0],
                start_s=parse_time(start),
                elapsed_s=float(elapsed or 0),
                gpus=int(gpus[1]) if gpus else 0,
            )
        )
    return sorted(jobs, key=lambda job: job.start_s or 0.0)


def parse_time(text: str) -> float | None:
    """Slurm's local time, such as 2026-11-21T10:00:00, as unix time; None for Unknown, None and N/A."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


def show(*what: str) -> dict[str, str]:
    """The fields of `scontrol show <what>` for one entity, such as show("job", "12").

    Raises:
        SlurmError: scontrol failed, or knows no such thing.
    """
    return dict(re.findall(r"(\S+?)=(\S*)", call("scontrol", "--oneliner", "show", *what)))


def settings() -> dict[str, str]:
    """The cluster's configuration, such as {"MaxArraySize": "1001", ...}."""
    lines = call("scontrol", "show", "config").splitlines()
    pairs = (line.split("=", 1) for line in lines if "=" in line)
    return {name.strip(): value.strip() for name, value in pairs}


def requeue(job_id: str) -> None:
    """Have Slurm stop this job and start it again later.

    Raises:
        SlurmError: Slurm refused.
    """
    call("scontrol", "requeue", job_id)


@dataclass(frozen=True, kw_only=True)
class Node:
    """What one node of this job's allocation offers to its steps."""

    name: str
    gpus: int
    cpus: int
    mem_mb: int
    het_group: int = 0


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """The job this process runs in."""

    job_id: str
    start_s: float
    end_s: float | None
    """Unix time of the time limit; None without one."""
    restarts: int
    nodes: list[Node]


def in_allocation() -> bool:
    """Whether this process runs inside a Slurm job."""
    return "SLURM_JOB_ID" in os.environ and shutil.which("srun") is not None


def job_state(job_id: str) -> str:
    """The state of a job now, such as RUNNING, CANCELLED, TIMEOUT or PREEMPTED."""
    return show("job", job_id)["JobState"]
