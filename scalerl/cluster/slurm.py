"""The few Slurm commands this project needs, each with a deadline and an error that says what Slurm said."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

SEPARATOR = "|"
HET_PREFIX = "SLURM_JOB_ID_HET_GROUP_"
PREEMPTING, TIMEOUT = "PREEMPTING", "TIMEOUT"
"""What `ending` returns in the grace time of a preemption (our word), and at the time limit (Slurm's)."""


AT_WORK = {"RUNNING", "CONFIGURING", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING"}
"""States of a job that has its nodes and keeps them. It is SIGNALING for the moment in which Slurm delivers a
signal, such as its warning before the time limit."""


class SlurmError(OSError):
    """A Slurm command failed; the message holds the command and its last words."""


def call(*command: str, deadline_s: float = 60) -> str:
    """Return the output of a Slurm command.

    Raises:
        SlurmError: there is no such command, it failed, or it did not answer within `deadline_s`.
    """
    # a user's own formats and filters would change what we read; times as seconds have no summer time
    mine = {key: value for key, value in os.environ.items() if not key.startswith(("SQUEUE_", "SACCT_"))}
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=deadline_s,
            env=mine | {"SLURM_TIME_FORMAT": "%s"},
        )
    except FileNotFoundError:
        raise SlurmError(f"there is no `{command[0]}` here: this machine is no Slurm client") from None
    except subprocess.TimeoutExpired:
        what = f"`{' '.join(command)}` did not answer within {deadline_s:.0f} s"
        raise SlurmError(f"{what}; is slurmctld up?") from None
    if done.returncode:
        raise SlurmError(f"`{' '.join(command)}` failed: {(done.stderr or done.stdout).strip()[-500:]}")
    return done.stdout


def available() -> bool:
    """Say whether Slurm's commands are installed here."""
    return shutil.which("squeue") is not None


@dataclass(frozen=True, kw_only=True)
class QueuedJob:
    """A job, or one task of an array, that Slurm has not forgotten yet."""

    job_id: str
    """Id of the job; `<array job>_<index>` for a task of an array."""
    name: str
    state: str
    """PENDING, RUNNING, COMPLETING, REQUEUED, ...; lately ended jobs are not listed."""
    reason: str
    """Why it waits, in Slurm's word."""


def queue() -> dict[str, QueuedJob]:
    """Return the user's jobs by job_id, with one entry for each task of an array.

    Raises:
        SlurmError: squeue failed.
    """
    fields = SEPARATOR.join(("%i", "%T", "%r", "%j"))  # the name last: it may hold the separator
    jobs = {}
    for line in call("squeue", "--me", "--noheader", "--array", f"--format={fields}").splitlines():
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
        """Return the GPU-hours of this start."""
        return self.gpus * self.elapsed_s / 3600


def accounted(job_ids: Iterable[str]) -> list[AccountedJob]:
    """Return every start of these jobs, oldest first.

    Raises:
        SlurmError: sacct failed, as it does where there is no accounting.
    """
    wanted = set(job_ids)
    if not wanted:
        return []
    command = ["sacct", "--duplicates", "--allocations", "--noheader", "--parsable2"]
    command += ["--format=JobID,JobIDRaw,State,Start,ElapsedRaw,AllocTRES"]
    jobs = []
    for line in call(*command, f"--jobs={','.join(sorted(wanted))}").splitlines():
        job_id, raw_id, state, start, elapsed, tres = line.split(SEPARATOR, 5)
        # one task of an array has the array's own id as its raw id, and sacct answers that id with all tasks
        if not wanted & {job_id, raw_id, job_id.partition("+")[0]}:
            continue
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
    """Return the unix time of what Slurm wrote, a number or 2026-11-21T10:00:00; None for Unknown."""
    if text.isdigit():
        return float(text)
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


def describe(*what: str) -> dict[str, str]:
    """Return the fields of `scontrol show <what>` for one entity, such as describe("job", "12").

    Raises:
        SlurmError: scontrol failed, or knows no such thing.
    """
    return _fields(call("scontrol", "--oneliner", "show", *what))


def describe_all(kind: str) -> list[dict[str, str]]:
    """Return the fields of every entity of a kind, such as describe_all("partition").

    Raises:
        SlurmError: scontrol failed.
    """
    return [
        _fields(line) for line in call("scontrol", "--oneliner", "show", kind).splitlines() if "=" in line
    ]


def settings() -> dict[str, str]:
    """Return the cluster's configuration, such as {"MaxArraySize": "1001", ...}."""
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
    """What one node of a job's allocation offers to its steps."""

    name: str
    gpus: int
    cpus: int
    mem_mb: int
    het_group: int = 0


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """The job this process runs in."""

    job_id: str
    """Id of the job as squeue writes it."""
    start_s: float
    """Unix time of its start."""
    end_s: float | None
    """Unix time of its time limit; None without one."""
    restarts: int
    """How often Slurm has started the job again."""
    nodes: list[Node]


def job_id_here() -> str | None:
    """Return the id of the Slurm job this process runs in, `<array job>_<index>` for a task of an array.

    None outside of Slurm. SLURM_JOB_ID would not do: the last task of an array has the array's own id there,
    and Slurm answers that id with all tasks of the array.
    """
    if shutil.which("srun") is None:
        return None
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def component_ids_here() -> list[str]:
    """Return the ids of the Slurm job this process runs in, of every component if it is heterogeneous.

    Empty outside of Slurm.
    """
    components = {value for key, value in os.environ.items() if key.startswith(HET_PREFIX)}
    job_id = job_id_here()
    return sorted(components or ({job_id} if job_id else set()))


def allocation(job_id: str) -> Allocation:
    """Return what Slurm gave to a running job; of a heterogeneous job, to all its components.

    Raises:
        SlurmError: scontrol failed.
    """
    components = call("scontrol", "--oneliner", "--details", "show", "job", job_id).splitlines()
    nodes = [node for component in components if component.strip() for node in _nodes(component)]
    fields = _fields(components[0])
    start_s = parse_time(fields["StartTime"])
    assert start_s is not None, "a running job has started"
    end_s = parse_time(fields["EndTime"])
    if "ArrayTaskId" in fields:
        job_id = f"{fields['ArrayJobId']}_{fields['ArrayTaskId']}"
    return Allocation(
        job_id=job_id, start_s=start_s, end_s=end_s, restarts=int(fields["Restarts"]), nodes=nodes
    )


def _fields(line: str) -> dict[str, str]:
    """Return the Name=value words of a line."""
    return dict(re.findall(r"(\S+?)=(\S*)", line))


def _nodes(component: str) -> list[Node]:
    """Return the nodes of one component of a job, from `scontrol --details show job`."""
    het_group = int(_fields(component).get("HetJobOffset", 0))
    nodes = []
    for names, cpus, mem_mb, gres in re.findall(r"Nodes=(\S+) CPU_IDs=(\S+) Mem=(\d+) GRES=(\S*)", component):
        gpus = sum(int(count) for count in re.findall(r"gpu(?::[^:(,]+)?:(\d+)", gres))
        for name in call("scontrol", "show", "hostnames", names).split():
            nodes.append(
                Node(name=name, gpus=gpus, cpus=_count(cpus), mem_mb=int(mem_mb), het_group=het_group)
            )
    return nodes


def _count(ranges: str) -> int:
    """Count the numbers that such as "0-3,8" holds."""
    total = 0
    for part in ranges.split(","):
        first, _, last = part.partition("-")
        total += int(last or first) - int(first) + 1
    return total


def ending(job_id: str, restarts: int) -> str | None:
    """Return why Slurm is ending a start of a job, the one after `restarts` others; None: it is not.

    The answer is CANCELLED, TIMEOUT or the like; PREEMPTING while a preempted job has its grace; REQUEUED
    when a later start is at work already.

    Raises:
        SlurmError: scontrol failed.
    """
    fields = describe("job", job_id)
    if int(fields["Restarts"]) != restarts:
        return "REQUEUED"
    if fields["JobState"] not in AT_WORK:
        # at the time limit Slurm gives the reason first, and its word for the state later
        return TIMEOUT if fields["Reason"] == "TimeLimit" else fields["JobState"]
    return PREEMPTING if parse_time(fields.get("PreemptTime", "None")) else None


def kill_step(job_ids: Iterable[str], name: str) -> None:
    """Kill the steps of this name in these jobs, wherever they run; none is fine.

    Raises:
        SlurmError: Slurm does not answer.
    """
    jobs, fields = f"--jobs={','.join(job_ids)}", f"--format=%i{SEPARATOR}%j"
    for line in call("squeue", "--noheader", "--steps", jobs, fields).splitlines():
        step_id, step_name = line.split(SEPARATOR, 1)
        if step_name == name:
            call("scancel", "--signal=KILL", step_id)
