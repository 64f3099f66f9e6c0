"""What was submitted to Slurm: SWEEP_DIR/submissions/<id>.json, one file for each array.

A record is written before sbatch is called. One without a job id is that of a launcher that died, or is still
at it; its unique job name finds the array again.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from scalerl.common.files import read_json, write_json
from scalerl.common.locks import lock
from scalerl.paths import SweepPaths

LOCK_EXPIRES_S = 900.0
"""Age at which the lock of a launcher on another host no longer counts."""


@dataclass(frozen=True, kw_only=True)
class Submission:
    """One Slurm array, or a plain job if it holds a single run."""

    id: str
    """Ascending in order of submission."""
    job_name: str
    """The name of its Slurm job: of this submission and no other."""
    runs: list[str]
    """Names of run folders; array task i runs the i-th."""
    submitted_s: float
    """Unix time, taken before sbatch was called."""
    job_id: str | None = None
    """None until sbatch has answered."""

    def task_id(self, run: str) -> str | None:
        """Return the job id of a run, as squeue writes it; None until sbatch has answered."""
        if self.job_id is None or len(self.runs) == 1:
            return self.job_id
        return f"{self.job_id}_{self.runs.index(run)}"


def read_submissions(sweep_dir: Path) -> list[Submission]:
    """Read all records of a sweep, oldest first; none where nothing was submitted."""
    return [Submission(**read_json(path)) for path in SweepPaths(sweep_dir).submission_records()]


def last_submissions(sweep_dir: Path) -> dict[str, Submission]:
    """Return the newest submission of each run that has one, by the run's name."""
    return {run: submission for submission in read_submissions(sweep_dir) for run in submission.runs}


def write_submission(sweep_dir: Path, submission: Submission) -> None:
    """Write or replace a record."""
    write_json(SweepPaths(sweep_dir).submission(submission.id), asdict(submission))


def discard_submission(sweep_dir: Path, submission: Submission) -> None:
    """Forget a submission; its batch script and logs stay.

    A task of it that starts all the same finds no record, and ends.
    """
    SweepPaths(sweep_dir).submission(submission.id).unlink()


@contextmanager
def sweep_lock(sweep_dir: Path, deadline_s: float = 1800.0) -> Iterator[None]:
    """Hold the sweep alone, so that two launches at once do not submit a run twice.

    A lock whose process is dead on this host no longer counts, nor does one of another host that is older
    than LOCK_EXPIRES_S.

    Raises:
        TimeoutError: another launcher held it for `deadline_s` seconds.
    """
    paths = SweepPaths(sweep_dir)
    paths.submissions.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        try:
            held.enter_context(lock(paths.lock, deadline_s=deadline_s, expires_s=LOCK_EXPIRES_S))
        except TimeoutError as error:
            raise TimeoutError(f"{error}: another launcher is at work; if none is, delete it") from None
        yield
