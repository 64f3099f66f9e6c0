"""The ledger of compute: device time of every process and Slurm job of a run, over all its attempts."""

import time
from dataclasses import asdict, dataclass
from typing import Literal

from scalerl.common.files import read_json, write_json
from scalerl.metrics.rows import posted_rows, read_rows
from scalerl.paths import RunPaths
from scalerl.run_folder import GpuHours

Role = Literal["generator", "trainer", "evaluator"]
ROLES: tuple[Role, ...] = ("generator", "trainer", "evaluator")


@dataclass(kw_only=True)
class Interval:
    """Wall time of one process, or of a whole Slurm job ("allocation"), and the devices it holds."""

    role: Role | Literal["allocation"]
    devices: int
    start_s: float
    """Unix time, s."""
    end_s: float | None = None
    """Unix time, s; None while it runs."""
    job_id: str | None = None
    """Slurm job it belongs to; None outside Slurm."""

    def device_s(self, until_s: float) -> float:
        """Return its device-seconds up to a unix time."""
        end_s = until_s if self.end_s is None else min(self.end_s, until_s)
        return self.devices * max(0.0, end_s - self.start_s)


class ComputeLedger:
    """Device time of a run over all its attempts: devices x wall time, a CPU process counting as one device.

    A Slurm job costs all its devices from its start to its end, whoever uses them: what no role held is
    "idle".
    """

    def __init__(self, paths: RunPaths, job_id: str | None = None) -> None:
        """Read the ledger of earlier attempts.

        A process that was never closed ran until its attempt's last sign of life: the last save of the
        ledger, or a row after that.
        """
        self._path = paths.compute
        self._job_id = job_id
        self._intervals: list[Interval] = []
        if self._path.exists():
            saved = read_json(self._path)
            self._intervals = [Interval(**interval) for interval in saved["intervals"]]
            # rows count, too: the trainer may have gone on while its supervisor hung or was dead, and a later
            # row must not have cost less than an earlier one
            rows = [*read_rows(paths.metrics), *posted_rows(paths).values()]
            alive_s = max([saved["saved_s"], *(row.time_s for row in rows)])
            for interval in self._intervals:
                if interval.end_s is None:
                    interval.end_s = max(alive_s, interval.start_s)

    def open(
        self, role: Role | Literal["allocation"], devices: int, start_s: float | None = None
    ) -> Interval:
        """Start the clock of one process, or of this job; close it by setting `end_s`."""
        start_s = time.time() if start_s is None else start_s
        interval = Interval(role=role, devices=devices, start_s=start_s, job_id=self._job_id)
        self._intervals.append(interval)
        self.save()
        return interval

    def save(self) -> None:
        """Write compute.json; its time is a sign of life."""
        write_json(
            self._path,
            {"saved_s": time.time(), "intervals": [asdict(interval) for interval in self._intervals]},
        )

    def num_jobs_since(self, time_s: float) -> int:
        """Count the Slurm jobs, or starts of one, that began after a unix time."""
        return sum(
            interval.role == "allocation" and interval.start_s > time_s for interval in self._intervals
        )

    def gpu_hours(self, until_s: float | None = None) -> GpuHours:
        """Return the GPU-hours up to a unix time (default: now)."""
        until_s = time.time() if until_s is None else until_s
        hours: dict[str, float] = dict.fromkeys((*ROLES, "allocation"), 0.0)
        in_jobs = 0.0
        for interval in self._intervals:
            interval_hours = interval.device_s(until_s) / 3600
            hours[interval.role] += interval_hours
            # what a role holds of a job is in the job's own interval already
            if interval.job_id is not None and interval.role != "allocation":
                in_jobs += interval_hours
        idle = max(0.0, hours.pop("allocation") - in_jobs)
        return GpuHours(
            generator=hours["generator"],
            trainer=hours["trainer"],
            evaluator=hours["evaluator"],
            idle=idle,
            total=sum(hours.values()) + idle,
        )
