"""What a run is doing, from its folder, its job and Slurm: every combination that a sweep can leave
behind."""

import os
import socket
import subprocess
import time
from pathlib import Path

import pytest
from factories import make_status, write_run

from scalerl.cluster.slurm import QueuedJob
from scalerl.common.files import read_json, write_json
from scalerl.paths import RunPaths, SweepPaths
from scalerl.run_folder import write_status
from scalerl.sweep.states import run_state, sweep_states
from scalerl.sweep.submissions import Submission, write_submission

LIMITS = {"max_steps": 10, "max_gpu_hours": None}


@pytest.fixture
def run(tmp_path) -> RunPaths:
    return make_run(tmp_path / "sweep" / "run")


def make_run(folder: Path) -> RunPaths:
    return write_run(folder, "budget.max_steps=10")


def tell(run: RunPaths, state: str, *, age_s: float = 0.0, **values) -> None:
    told = {"step": 4, "updated_s": time.time() - age_s} | LIMITS
    write_status(run, make_status(state, **(told | values)))


def own(run: RunPaths, *, host: str, pid: int, age_s: float = 0.0, job_id: str | None = None) -> None:
    started = Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2].split()[19]
    owner = {"attempt": 1, "host": host, "pid": pid, "started_ticks": int(started), "job_id": job_id}
    write_json(run.attempt, owner)
    os.utime(run.attempt, (time.time() - age_s, time.time() - age_s))


def job(state: str, reason: str = "None", job_id: str = "7_0") -> dict[str, QueuedJob]:
    return {job_id: QueuedJob(job_id=job_id, name="sweep", state=state, reason=reason)}


@pytest.mark.parametrize(
    ("told", "queued", "state", "reason"),
    [
        (None, job("PENDING", "Priority"), "pending", "Priority"),
        (None, job("RUNNING"), "running", "starting"),
        ("running", job("RUNNING"), "running", ""),
        ("requeued", job("PENDING", "BeginTime"), "pending", "BeginTime; it is requeued"),
        (
            "running",
            job("PENDING", "BeginTime"),
            "pending",
            "BeginTime",
        ),  # preempted or its node died: Slurm requeued it
        ("running", job("REQUEUE_HOLD"), "pending", "REQUEUE_HOLD"),
        ("finished", job("COMPLETING"), "running", "COMPLETING"),
        ("stopped", {}, "stopped", "it is stopped"),
        ("failed", {}, "failed", "it is failed"),
        ("failed", job("PENDING", "Resources"), "pending", "Resources"),  # submitted again
        ("running", {}, "failed", "job 7_0 is not in the queue any more"),
        ("requeued", {}, "failed", "job 7_0 is not in the queue any more"),
        (None, {}, "failed", "job 7_0 is not in the queue any more"),
        (None, None, "pending", "submitted as job 7_0; there is no Slurm here to ask"),
    ],
)
def test_a_run_with_a_job(run, told, queued, state, reason):
    if told:
        tell(run, told, job_id="7_0")
    found = run_state(run, "7_0", queued)
    assert (found.name, found.state, found.reason, found.job_id) == ("run", state, reason, "7_0")


def test_what_an_earlier_job_said_does_not_count(run):
    tell(run, "failed", age_s=100)
    found = run_state(run, "8", {}, submitted_s=time.time() - 50)
    assert (found.state, found.vanished) == ("failed", True)
    assert "job 8 is not in the queue" in found.reason
    assert run_state(run, "8", {}, submitted_s=time.time() - 200).reason == "it is failed"


@pytest.mark.parametrize(
    ("told", "host", "pid", "age_s", "state"),
    [
        (None, None, 0, 0, "planned"),
        ("running", "here", os.getppid(), 1000, "running"),
        ("running", "here", 2**22 + 1, 0, "failed"),
        ("running", "elsewhere", 1, 10, "running"),
        ("running", "elsewhere", 1, 1000, "failed"),
        (None, "here", os.getppid(), 0, "running"),
        (None, "here", 2**22 + 1, 0, "failed"),
        ("stopped", "here", 2**22 + 1, 0, "stopped"),
    ],
)
def test_a_run_without_slurm(run, told, host, pid, age_s, state):
    if told:
        tell(run, told)
    if host:
        own(run, host=socket.gethostname() if host == "here" else host, pid=pid, age_s=age_s)
    assert run_state(run, None, None).state == state


@pytest.mark.parametrize(
    ("values", "budget", "state"),
    [
        ({"step": 10}, {}, "finished"),
        ({"step": 10}, {"max_steps": 20}, "stopped"),  # extended since
        ({"step": 10, "final": True}, {"max_steps": 20}, "finished"),
        ({"step": 9}, {}, "finished"),  # it stopped a step before its budget, or at the sweep's
        ({"step": 10}, {"max_steps": 8}, "finished"),
        (
            {"step": 4, "max_steps": None, "max_gpu_hours": 1.0},
            {"max_steps": None, "max_gpu_hours": 1.0},
            "finished",
        ),
        (
            {"step": 4, "max_steps": None, "max_gpu_hours": 1.0},
            {"max_steps": None, "max_gpu_hours": 5.0},
            "stopped",
        ),
    ],
)
def test_a_finished_run_whose_budget_was_raised_can_go_on(run, values, budget, state):
    saved = read_json(run.config)
    saved["config"]["budget"] |= budget
    write_json(run.config, saved)
    tell(run, "finished", **values)
    assert run_state(run, None, None).state == state


def submitted(
    sweep_dir, *runs: str, number: int = 0, job_id: str | None = "7", age_s: float = 100.0
) -> Submission:
    SweepPaths(sweep_dir).submissions.mkdir(exist_ok=True)
    record = Submission(
        id=f"{number:04d}-x",
        job_name=f"unique{number}",
        runs=list(runs),
        submitted_s=time.time() - age_s,
        job_id=job_id,
    )
    write_submission(sweep_dir, record)
    return record


def test_a_sweep_is_read_with_one_question_to_each_of_squeue_and_sacct(tmp_path, fake_slurm):
    sweep_dir = tmp_path / "sweep"
    runs = [make_run(sweep_dir / f"run{number}") for number in range(6)]
    submitted(sweep_dir, *(f"run{number}" for number in range(5)))
    states = ["PENDING", "RUNNING", "TIMEOUT", "CANCELLED", "COMPLETED"]  # the fourth before it started
    jobs = {
        f"7_{task}": {"name": "unique0", "state": state, "reason": "Resources"}
        for task, state in enumerate(states)
    }
    write_json(fake_slurm.folder / "jobs.json", jobs)
    tell(runs[1], "running", job_id="7_1")
    tell(runs[2], "running", job_id="7_2")
    tell(runs[4], "finished", step=10, job_id="7_4")
    found = sweep_states(sweep_dir)
    assert [state.name for state in found] == [f"run{number}" for number in range(6)]
    assert [state.state for state in found] == [
        "pending",
        "running",
        "failed",
        "failed",
        "finished",
        "planned",
    ]
    assert [state.reason for state in found[2:4]] == [
        "job 7_2: TIMEOUT before the run could say why it ended",
        "job 7_3: CANCELLED before the run could say why it ended",
    ]
    assert found[1].status.step == 4
    assert len(fake_slurm.calls("squeue")) == len(fake_slurm.calls("sacct")) == 1


def test_the_newest_submission_of_a_run_counts(tmp_path, fake_slurm):
    make_run(tmp_path / "sweep" / "a")
    make_run(tmp_path / "sweep" / "b")
    submitted(tmp_path / "sweep", "a", "b")
    submitted(tmp_path / "sweep", "b", number=1, job_id="9")
    write_json(
        fake_slurm.folder / "jobs.json", {"9": {"name": "unique1", "state": "PENDING", "reason": "Priority"}}
    )
    a, b = sweep_states(tmp_path / "sweep")
    assert (a.state, b.state, b.job_id) == ("failed", "pending", "9")
    (alone,) = sweep_states(tmp_path / "sweep" / "b")
    assert (alone.name, alone.state, alone.job_id) == ("b", "pending", "9")


def test_another_users_jobs_are_known_to_sacct_only(tmp_path, fake_slurm):
    make_run(tmp_path / "sweep" / "a")
    submitted(tmp_path / "sweep", "a")
    write_json(
        fake_slurm.folder / "jobs.json",
        {"7": {"name": "unique0", "state": "RUNNING", "reason": "", "forgotten": True}},
    )
    assert sweep_states(tmp_path / "sweep")[0].state == "running"


def test_without_accounting_a_vanished_job_is_still_a_failure(tmp_path, fake_slurm):
    fake_slurm.set(accounting=False)
    make_run(tmp_path / "sweep" / "a")
    submitted(tmp_path / "sweep", "a")
    (state,) = sweep_states(tmp_path / "sweep")
    assert (state.state, state.reason) == ("failed", "job 7 is not in the queue any more")


def test_a_job_submitted_by_hand_is_found_by_what_the_run_says(tmp_path, fake_slurm):
    run = make_run(tmp_path / "sweep" / "a")
    tell(run, "running", job_id="12")
    write_json(fake_slurm.folder / "jobs.json", {"12": {"name": "any", "state": "RUNNING", "reason": ""}})
    (state,) = sweep_states(tmp_path / "sweep")
    assert (state.state, state.job_id) == ("running", "12")
    # submitted again by hand after an array had run it
    submitted(tmp_path / "sweep", "a")
    assert [(state.state, state.job_id) for state in sweep_states(tmp_path / "sweep")] == [("running", "12")]


def test_a_plain_directory_of_runs_asks_no_slurm(tmp_path, fake_slurm):
    tell(make_run(tmp_path / "sweep" / "a"), "stopped")
    assert [state.state for state in sweep_states(tmp_path / "sweep")] == ["stopped"]
    assert fake_slurm.calls("squeue") == []


def test_a_slurm_that_does_not_answer_is_an_error(tmp_path, fake_slurm):
    make_run(tmp_path / "sweep" / "a")
    submitted(tmp_path / "sweep", "a")
    (fake_slurm.folder / "bin" / "squeue").write_text("#!/bin/sh\necho slurm_load_jobs error >&2\nexit 1\n")
    with pytest.raises(OSError, match="slurm_load_jobs error"):
        sweep_states(tmp_path / "sweep")


def test_a_dead_process_id_of_this_host(run):
    dead = subprocess.Popen(["true"])
    dead.wait()
    own(run, host=socket.gethostname(), pid=dead.pid)
    tell(run, "running")
    found = run_state(run, None, None)
    assert found.state == "failed"
    assert "no sign of life" in found.reason
