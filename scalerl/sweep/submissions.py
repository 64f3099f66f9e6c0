"""What was submitted to Slurm: SWEEP_DIR/submissions/<id>.json, one file an array, written before sbatch is
called.
 A record without a job id is of a launcher that died, or is still at it; its unique job name finds the array
again.
"""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from scalerl.files import read_json, temporary_name, write_json

LOCK_EXPIRES_S = 900.0
"""Age at which the lock of a launcher on another host no longer counts."""
LOCK_POLL_S = 0.2


@dataclass(frozen=True, kw_only=True)
class Submission:
    """One Slurm array, or a plain job if it holds a single run."""

    id: str
    """Ascending in order of submission."""
    job_name: str
    """Of this submission and no other."""
    runs: list[str]
    """Names of run folders; array task i runs the i-th."""
    submitted_s: float
    """Unix time, taken before sbatch was called."""
    job_id: str | None = None
    """None until sbatch has answered."""

    def task_id(self, run: str) -> str | None:
        """The job id of a run, as squeue writes it; None until sbatch has answered."""
        if self.job_id is None or len(self.runs) == 1:
            return self.job_id
        return f"{self.job_id}_{self.runs.index(run)}"


def submissions_dir(sweep_dir: Path) -> Path:
    return sweep_dir / "submissions"


def record_path(sweep_dir: Path, submission: Submission) -> Path:
    return submissions_dir(sweep_dir) / f"{submission.id}.json"


def read_submissions(sweep_dir: Path) -> list[Submission]:
    """All records of a sweep, oldest first; none where nothing was submitted."""
    return [Submission(**read_json(path)) for path in sorted(submissions_dir(sweep_dir).glob("[0-9]*.json"))]


def last_submissions(sweep_dir: Path) -> dict[str, Submission]:
    """The newest submission of each run that has one, by the run's name."""
    return {run: submission for submission in read_submissions(sweep_dir) for run in submission.runs}


def write_submission(sweep_dir: Path, submission: Submission) -> None:
    write_json(record_path(sweep_dir, submission), asdict(submission))


def discard_submission(sweep_dir: Path, submission: Submission) -> None:
    """Forget it; its batch script and logs stay. A task of it that starts all the same finds no record, and
    ends."""
    record_path(sweep_dir, submission).unlink()


@contextmanager
def sweep_lock(sweep_dir: Path, deadline_s: float = 1800.0) -> Iterator[None]:
    """Hold the sweep alone, so that two launches at once do not submit a run twice.

    A lock whose process is dead on this host counts no longer, nor one of another host that is older than
    LOCK_EXPIRES_S.

    Raises:
        TimeoutError: another launcher held it for `deadline_s` seconds.
    """
    folder = submissions_dir(sweep_dir)
    folder.mkdir(parents=True, exist_ok=True)
    lock, mine = folder / "lock.json", temporary_name(folder / "lock.json")
    write_json(mine, {"host": socket.gethostname(), "pid": os.getpid()})
    try:
        end_s = time.monotonic() + deadline_s
        while not _link(mine, lock):
            _remove_stale(lock)
            if time.monotonic() > end_s:
                raise TimeoutError(
                    f"waited {deadline_s:.0f} s for {lock}: another launcher is at work; if none is, delete it"
                )
            time.sleep(LOCK_POLL_S)
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)
    finally:
        mine.unlink(missing_ok=True)


def _link(source: Path, target: Path) -> bool:
    """Give a file a second name, unless that name is taken: a rename would replace it."""
    try:
        os.link(source, target)
    except FileExistsError:
        return False
    return True


def _remove_stale(lock: Path) -> None:
    with suppress(FileNotFoundError):
        if not _is_stale(lock):
            return
        aside = temporary_name(lock)
        os.rename(lock, aside)
        if not _is_stale(aside):  # another launcher was faster, and this is its new lock
            _link(aside, lock)
        aside.unlink()


def _is_stale(lock: Path) -> bool:
    holder = read_json(lock)
    if holder["host"] == socket.gethostname():
        return not Path(f"/proc/{holder['pid']}").exists()
    return time.time() - lock.stat().st_mtime > LOCK_EXPIRES_S
