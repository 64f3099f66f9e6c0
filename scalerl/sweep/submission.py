"""Runs to Slurm: one Submitit array for all runs that need the same nodes, cut to the cluster's MaxArraySize.

Submitit writes the batch script and calls sbatch; the command of a task is our own (sweep/job.py), which
needs nothing but the record that was written before. Submitit's own command reads a pickle that is put in its
place only after sbatch has answered: a launcher that died in between would lose every task. With `exec` the
task's Python takes the place of the shell, so that it gets the warning before the time limit itself.
"""

import re
import shlex
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

from scalerl.cluster.site import JobShape, Options, SiteConfig
from scalerl.cluster.slurm import SlurmError, call, settings
from scalerl.config import RunConfig
from scalerl.paths import SweepPaths
from scalerl.sweep.submissions import (
    Submission,
    discard_submission,
    read_submissions,
    write_submission,
)

SETTLE_S = 5.0
"""How long an sbatch that outlived its launcher may take to reach Slurm; should it take longer, its tasks
find no record and end."""


def submit(
    sweep_dir: Path,
    runs: Mapping[str, RunConfig],
    site: SiteConfig,
    *,
    throttle: int | None = None,
    site_file: Path | None = None,
) -> list[Submission]:
    """Submit the run folders `runs` (name -> config) of a sweep and return at once.

    The caller holds the sweep's lock. throttle: runs at once, over all the arrays of this call; None: as many
    as Slurm starts. site_file: the file of `site`, where it was named: the jobs read it too.

    Raises:
        SlurmError: sbatch refused an array: it has no record, those before it stay submitted.
    """
    shapes: dict[JobShape, list[str]] = {}
    for name, config in runs.items():
        shapes.setdefault(site.slurm.shape(config.num_devices), []).append(name)
    max_array = max(1, int(settings().get("MaxArraySize", "1001")))
    chunks = [
        (shape, names[start : start + max_array])
        for shape, names in shapes.items()
        for start in range(0, len(names), max_array)
    ]
    # Slurm's throttle is of one array. Arrays that share ours run side by side in as many lanes as it allows,
    # each with its part of it; in a lane one array follows the other.
    lanes = min(throttle or len(chunks), len(chunks))
    submitted: list[Submission] = []
    for number, (shape, names) in enumerate(chunks):
        at_once = len(names) if throttle is None else throttle // lanes + (number % lanes < throttle % lanes)
        options = site.job_options(shape)
        if number >= lanes:
            options["dependency"] = f"afterany:{submitted[number - lanes].job_id}"
        parameters = {"setup": _setup(site, site_file), "array_parallelism": at_once}
        submitted.append(_submit_array(sweep_dir, names, options, parameters))
    return submitted


def _setup(site: SiteConfig, site_file: Path | None) -> list[str]:
    """Return the shell lines before the command of a task."""
    named = [f"export SCALERL_SITE={shlex.quote(str(site_file.absolute()))}"] if site_file else []
    # the shell ignores the warning, which would end it, until Python takes its place
    return ["trap '' USR1", *named, *site.slurm.setup]


def _submit_array(
    sweep_dir: Path, names: list[str], options: Options, parameters: dict[str, Any]
) -> Submission:
    """Write the record of an array, submit it, and write its job id into the record."""
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    earlier = read_submissions(sweep_dir)
    number = int(earlier[-1].id.partition("-")[0]) + 1 if earlier else 0
    unique = uuid4().hex[:12]
    submission = Submission(
        id=f"{number:04d}-{unique}",
        job_name=f"scalerl-{re.sub(r'[^A-Za-z0-9_.-]', '_', sweep_dir.absolute().name)}-{unique}",
        runs=names,
        submitted_s=time.time(),
    )
    write_submission(sweep_dir, submission)
    try:
        job_id = _sbatch(sweep_dir, submission, options, parameters)
    except (FailedJobError, FailedSubmissionError, SlurmError) as error:
        discard_submission(sweep_dir, submission)
        raise SlurmError(f"sbatch refused {len(names)} runs from {names[0]} on: {error}") from None
    submission = replace(submission, job_id=job_id)
    write_submission(sweep_dir, submission)
    return submission


def _sbatch(sweep_dir: Path, submission: Submission, options: Options, parameters: dict[str, Any]) -> str:
    """Write the batch script and submit it; return the job id."""
    from submitit import SlurmExecutor

    num_runs = len(submission.runs)
    folder = SweepPaths(sweep_dir.absolute()).submission_folder(submission.id)
    folder.mkdir()
    executor = SlurmExecutor(folder)
    log = f"{str(folder).replace('%', '%%')}/{'%A_%a' if num_runs > 1 else '%j'}.log"
    # every option of sbatch is ours: Submitit's own names for them would be a second list beside the site's
    executor.update_parameters(
        **parameters,
        job_name=submission.job_name,
        additional_parameters=options | {"output": log},
        use_srun=False,
        stderr_to_stdout=True,
        wckey=None,
    )
    if num_runs > 1:
        executor.parameters["map_count"] = num_runs
    record = SweepPaths(sweep_dir.absolute()).submission(submission.id)
    command = shlex.join(["exec", sys.executable, "-u", "-m", "scalerl.sweep.job", str(record)])
    return executor._submit_command(command).job_id


def resolve_submissions(sweep_dir: Path) -> None:
    """Give every record that lacks its job id that id, or delete it if Slurm knows no such job.

    The caller holds the sweep's lock.

    Raises:
        SlurmError: squeue failed.
    """
    for submission in read_submissions(sweep_dir):
        if submission.job_id is not None:
            continue
        time.sleep(min(SETTLE_S, max(0.0, submission.submitted_s + SETTLE_S - time.time())))
        job_id = _find_job(submission)
        if job_id is None:
            discard_submission(sweep_dir, submission)
        else:
            write_submission(sweep_dir, replace(submission, job_id=job_id))


def _find_job(submission: Submission) -> str | None:
    """Return the id of the job of this unique name, waiting, running or ended; None if Slurm knows none."""
    name = f"--name={submission.job_name}"
    listed = call("squeue", "--me", "--noheader", "--states=all", name, "--format=%F").split()
    if listed:
        return listed[0]
    since = datetime.fromtimestamp(submission.submitted_s) - timedelta(minutes=10)  # clocks differ
    command = ["sacct", "--noheader", "--parsable2", "--allocations", "--format=JobID", name]
    try:
        ended = call(*command, f"--starttime={since:%Y-%m-%dT%H:%M:%S}").split()
    except SlurmError:
        # no accounting: squeue has forgotten what ended long ago, and the run folders tell the rest
        return None
    return ended[0].partition("_")[0] if ended else None
