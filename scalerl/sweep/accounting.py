"""The run's ledger against Slurm's own accounting: the same jobs, the same GPU-hours?"""

from dataclasses import dataclass

from scalerl.cluster.slurm import accounted
from scalerl.common.files import read_json
from scalerl.metrics.ledger import Interval
from scalerl.paths import RunPaths


@dataclass(frozen=True, kw_only=True)
class Reconciliation:
    """GPU-hours of all Slurm jobs of a run, requeues included."""

    ledger_gpu_hours: float
    """GPU-hours as the run counted them; its budget is held against these."""
    accounted_gpu_hours: float
    """GPU-hours as sacct counts them; 0 where the jobs held no GPUs, or it does not track gres/gpu."""
    num_starts: int
    """How often sacct saw one of the jobs start."""

    @property
    def difference(self) -> float | None:
        """Return (ledger - sacct) / sacct; None where sacct counted no GPUs."""
        return self.ledger_gpu_hours / self.accounted_gpu_hours - 1 if self.accounted_gpu_hours else None

    def __str__(self) -> str:
        if self.difference is None:
            why = "none in the jobs, or no AccountingStorageTRES=gres/gpu"
            return f"ledger {self.ledger_gpu_hours:.4g}, sacct counted no GPUs ({why})"
        hours = f"ledger {self.ledger_gpu_hours:.4g}, sacct {self.accounted_gpu_hours:.4g} GPU-hours"
        return f"{hours}, {self.difference:+.1%} over {self.num_starts} start{'s'[: self.num_starts != 1]}"


def reconcile(paths: RunPaths) -> Reconciliation | None:
    """Compare the allocations in a run's ledger with sacct; None for a run that never had a Slurm job.

    While the job runs, the two are seconds apart: the ledger is saved once a second.

    Raises:
        SlurmError: sacct failed, as it does where there is no accounting.
    """
    if not paths.compute.exists():
        return None
    saved = read_json(paths.compute)
    intervals = [Interval(**interval) for interval in saved["intervals"]]
    allocations = [interval for interval in intervals if interval.role == "allocation"]
    if not allocations:
        return None
    starts = accounted({interval.job_id for interval in allocations if interval.job_id})
    return Reconciliation(
        ledger_gpu_hours=sum(interval.device_s(saved["saved_s"]) for interval in allocations) / 3600,
        accounted_gpu_hours=sum(start.gpu_hours for start in starts),
        num_starts=sum(start.start_s is not None for start in starts),
    )
