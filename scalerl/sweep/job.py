"""What a task of a sweep's array runs: `python -m scalerl.sweep.job SWEEP_DIR/submissions/<id>.json`.

The record says which run is the task's. A task whose record was deleted (its launcher died, and the next one
did not find it in Slurm yet) or whose run was submitted again since has no run, and ends: so no run is ever
in two jobs.
"""

import os
import sys
from pathlib import Path

from scalerl.paths import RunPaths
from scalerl.run_folder import read_config
from scalerl.sweep.submissions import last_submissions, read_submissions


def run_job(run_dir: Path) -> int:
    """Run or continue the run in `run_dir`; return the exit code of `scalerl run`."""
    from scalerl.launch.supervisor import run

    paths = RunPaths(run_dir)
    return run(read_config(paths), paths)


def find_run(record: Path, task: int) -> Path:
    """Return the folder of the run that task number `task` of the submission `record` is to run.

    Raises:
        ValueError: the record is gone, or the run belongs to a newer submission.
    """
    sweep_dir = record.parent.parent
    mine = next(
        (submission for submission in read_submissions(sweep_dir) if submission.id == record.stem), None
    )
    if mine is None:
        raise ValueError(f"{record} is gone: its launcher died, and the next one submitted its runs anew")
    run = mine.runs[task] if len(mine.runs) > 1 else mine.runs[0]
    newest = last_submissions(sweep_dir)[run]
    if newest.id != mine.id:
        raise ValueError(
            f"{run} was submitted again since, as job {newest.job_id}: there is nothing to run here"
        )
    return sweep_dir / run


def main() -> int:
    """Run the run of this task; return its exit code."""
    run_dir = find_run(Path(sys.argv[1]), int(os.environ.get("SLURM_ARRAY_TASK_ID", "0")))
    print(f"run folder: {run_dir}", flush=True)
    return run_job(run_dir)


if __name__ == "__main__":
    sys.exit(main())
