"""Where a run is at work: on this machine, or in a Slurm job that ends, is preempted and comes back."""

import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from scalerl.cluster import slurm
from scalerl.cluster.site import load_site
from scalerl.config import RunConfig
from scalerl.fence import HEARTBEAT_EXPIRES_S, claim_attempt
from scalerl.launch.local import local_layout, visible_gpus
from scalerl.launch.processes import Layout
from scalerl.launch.srun import step_layout
from scalerl.metrics.ledger import ComputeLedger, Interval
from scalerl.paths import RunPaths

REQUEUE_DEADLINE_S = 120.0
REQUEUE_EVERY_S = 5.0


class Place(Protocol):
    """What the supervisor asks of its surroundings."""

    @property
    def job_id(self) -> str | None:
        """Return the Slurm job; None outside Slurm."""

    @property
    def restarts(self) -> int:
        """Return how often Slurm has started the job again."""

    @property
    def on_cpu(self) -> bool:
        """Say whether there is no GPU to compute on."""

    def layout(self, config: RunConfig) -> Layout:
        """Lay out the processes of the run. Raises ValueError if they do not fit."""

    def open_ledger(self, config: RunConfig, ledger: ComputeLedger) -> Interval | None:
        """Start the clock of what is paid for beyond the roles' own time."""

    def remaining_s(self) -> float | None:
        """Return the seconds until the run must stop to be continued later; None: no such limit."""

    def ending(self) -> str | None:
        """Say why this place is being taken away, as slurm.ending does; None: it is not."""

    def requeue(self) -> None:
        """Have the run started again later. Raises SlurmError."""


@dataclass
class LocalMachine:
    """Processes of this machine, for as long as they like."""

    gpus: list[str] = field(default_factory=visible_gpus)
    job_id: str | None = None
    restarts: int = 0

    @property
    def on_cpu(self) -> bool:
        """Say whether there is no GPU."""
        return not self.gpus

    def layout(self, config: RunConfig) -> Layout:
        """Lay out the processes of the run. Raises ValueError if they do not fit."""
        return local_layout(config, self.gpus)

    def open_ledger(self, config: RunConfig, ledger: ComputeLedger) -> None:
        """Start no clock: the roles' own time is all that counts."""

    def remaining_s(self) -> None:
        """Return None: there is no limit."""

    def ending(self) -> None:
        """Return None: nobody takes the machine away."""

    def requeue(self) -> None:
        """Do not call: nothing here asks for a later start."""
        raise AssertionError("this machine has no time limit")


class SlurmJob:
    """The job this process runs in."""

    def __init__(self, number: str) -> None:
        """Look up what Slurm gave to the job.

        Raises:
            ValueError: its time limit leaves no time to work.
            SlurmError: Slurm does not answer.
        """
        self._site = load_site().steps
        self._allocation = slurm.allocation(number)
        end_s, start_s = self._allocation.end_s, self._allocation.start_s
        if end_s is not None and end_s - start_s <= self._site.warning_s:
            raise ValueError(
                f"the job's time limit of {end_s - start_s:.0f} s leaves nothing to work in: "
                f"steps.warning_s = {self._site.warning_s:.0f} s before it the run stops to checkpoint. "
                f"Raise --time, or lower warning_s in the site file"
            )

    @property
    def job_id(self) -> str:
        """Return the job as squeue writes it."""
        return self._allocation.job_id

    @property
    def restarts(self) -> int:
        """Return how often Slurm has started the job again."""
        return self._allocation.restarts

    @property
    def on_cpu(self) -> bool:
        """Say whether the job has no GPU, or none to compute on."""
        return self._num_gpus == 0 or not self._site.cuda

    @property
    def _num_gpus(self) -> int:
        return sum(node.gpus for node in self._allocation.nodes)

    def layout(self, config: RunConfig) -> Layout:
        """Lay out the steps of the run. Raises ValueError if they do not fit."""
        return step_layout(config, self._allocation, self._site)

    def open_ledger(self, config: RunConfig, ledger: ComputeLedger) -> Interval:
        """Start the clock of all the job's GPUs at the job's start; without GPUs, its processes count."""
        return ledger.open(
            "allocation", self._num_gpus or config.num_devices, start_s=self._allocation.start_s
        )

    def remaining_s(self) -> float | None:
        """Return the seconds until steps.warning_s before the time limit; None without a limit.

        By our own clock, because Slurm's warning may come a minute early or never.
        """
        if self._allocation.end_s is None:
            return None
        remaining_s = self._allocation.end_s - self._site.warning_s - time.time()
        if remaining_s <= 0:
            # an operator may have prolonged it
            with suppress(slurm.SlurmError):
                self._allocation = slurm.allocation(self.job_id)
            remaining_s = (self._allocation.end_s or float("inf")) - self._site.warning_s - time.time()
        return remaining_s

    def ending(self) -> str | None:
        """Say why Slurm takes the job away; None if it does not, or if it does not answer: a job goes on."""
        try:
            return slurm.ending(self.job_id, self._allocation.restarts)
        except slurm.SlurmError:
            return None

    def requeue(self) -> None:
        """Try for as long as a restart of slurmctld may take."""
        end_s = time.monotonic() + REQUEUE_DEADLINE_S
        while True:
            try:
                return slurm.requeue(self.job_id)
            except slurm.SlurmError:
                if time.monotonic() > end_s:
                    raise
                time.sleep(REQUEUE_EVERY_S)


def open_place() -> Place:
    """Return the Slurm job this process runs in, else this machine.

    Raises:
        SlurmError: inside a job, but Slurm does not answer.
    """
    job_id = slurm.job_id_here()
    return SlurmJob(job_id) if job_id else LocalMachine()


def claim(paths: RunPaths, place: Place) -> int:
    """Claim the folder. In a Slurm job, first wait until the heartbeat of a supervisor that died on another
    node has expired.

    Raises:
        ValueError: another supervisor is alive in the folder.
    """
    # outside Slurm the user is told at once; a job that comes back must not fail for a heartbeat of its past
    end_s = time.monotonic() + (HEARTBEAT_EXPIRES_S + 10 if place.job_id else 0)
    while True:
        try:
            return claim_attempt(paths, place.job_id, place.restarts)
        except ValueError as error:
            if time.monotonic() > end_s:
                raise
            print(f"{error}; waiting for its heartbeat to expire", flush=True)
            time.sleep(5)
