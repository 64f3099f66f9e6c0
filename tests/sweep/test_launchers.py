"""Launchers that die at any point, and two of them at once: every run is submitted once."""

import os
import re
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from losses import NAMES, SWEEPS, command, states

import scalerl.sweep.submission as submission_module
from scalerl.cli import main
from scalerl.common.files import temporary_name
from scalerl.paths import SweepPaths
from scalerl.sweep.job import find_run
from scalerl.sweep.submissions import read_submissions

ENVIRONMENT = {"PYTHONPATH": str(SWEEPS.parent)}


def fork(command: Callable[[], int]) -> int:
    """Start a command in a process of its own, without the start of a Python; return its id."""
    process = os.fork()
    if process == 0:
        try:
            os._exit(command())
        finally:
            os._exit(99)
    return process


def wait_for(process: int) -> int:
    """Return the exit code of a forked process."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def launch_and_die(tmp_path, launch_inputs, *, after_sbatch: bool) -> None:
    """Start a launcher that loses its life after sbatch has answered, or between its record and sbatch."""

    def launch() -> int:
        write = submission_module.write_submission

        def write_and_die(sweep_dir, record):
            if after_sbatch and record.job_id:
                os._exit(9)
            write(sweep_dir, record)
            if not after_sbatch:
                os._exit(9)

        submission_module.write_submission = write_and_die
        return main([*command(tmp_path), *launch_inputs])

    assert wait_for(fork(launch)) == 9


@pytest.mark.parametrize("known_to", ["squeue", "squeue, ended", "sacct"])
def test_a_launcher_that_died_after_sbatch_is_taken_over(
    sweep, fake_slurm, launch_inputs, tmp_path, known_to
):
    launch_and_die(tmp_path, launch_inputs, after_sbatch=True)
    assert len(fake_slurm.scripts()) == 1
    assert read_submissions(tmp_path / "sweep")[0].job_id is None
    assert set(states(tmp_path).values()) == {"pending"}
    fake_slurm.set(accounting=known_to == "sacct")
    if known_to != "squeue":
        for job_id in fake_slurm.jobs:
            fake_slurm.change(job_id, state="FAILED", forgotten=known_to == "sacct")
    assert sweep() == 0
    assert len(fake_slurm.scripts()) == 1
    assert read_submissions(tmp_path / "sweep")[0].job_id == "1"
    assert set(states(tmp_path).values()) == {"pending" if known_to == "squeue" else "failed"}


def test_a_launcher_that_died_before_sbatch_leaves_everything_to_the_next(
    sweep, fake_slurm, launch_inputs, tmp_path
):
    launch_and_die(tmp_path, launch_inputs, after_sbatch=False)
    fake_slurm.set(accounting=False)
    (dead,) = read_submissions(tmp_path / "sweep")
    assert set(states(tmp_path).values()) == {"planned"}
    assert sweep() == 0
    (record,) = read_submissions(tmp_path / "sweep")
    assert record.id != dead.id
    assert len(fake_slurm.scripts()) == 1
    with pytest.raises(ValueError, match="is gone"):  # should that sbatch have gone through all the same
        find_run(SweepPaths(tmp_path / "sweep").submission(dead.id), 0)


def test_two_launches_at_once_submit_every_run_once(sweep, fake_slurm, launch_inputs, tmp_path):
    fake_slurm.set(sbatch_s=0.5)

    def launch(output: Path) -> Callable[[], int]:
        def call() -> int:
            with output.open("w") as file, redirect_stdout(file):
                return main([*command(tmp_path), "--seeds", "2", *launch_inputs])

        return call

    files = [tmp_path / "first.out", tmp_path / "second.out"]
    processes = [fork(launch(file)) for file in files]
    assert [wait_for(process) for process in processes] == [0, 0]
    outputs = sorted(file.read_text().splitlines()[-1] for file in files)
    assert len(fake_slurm.jobs) == 8
    assert re.match("(another launcher|nothing to submit)", outputs[0])
    assert outputs[1].startswith("submitted 8 runs")


def test_a_folder_whose_config_is_just_being_written_belongs_to_nobody_else(sweep, fake_slurm, tmp_path):
    """Another launcher is at it, or died there."""
    run_dir = tmp_path / "sweep" / NAMES[0]
    run_dir.mkdir(parents=True)
    temporary_name(run_dir / "config.json").touch()
    assert sweep() == 0
    assert read_submissions(tmp_path / "sweep")[0].runs == NAMES[::2]
