"""Which runs are submitted, when: again, grown, retried, after a death, two at once, refused. Against fake
Slurm commands."""

import os
import re
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import patch

import pytest
from losses import NAMES, SWEEPS, command, states

from scalerl.cli import main
from scalerl.cluster.doctor import probe_command
from scalerl.cluster.site import JobShape, SlurmSite, load_site
from scalerl.cluster.slurm_checks import check_submission
from scalerl.common.files import read_json, write_json
from scalerl.paths import SweepPaths
from scalerl.sweep.job import find_run
from scalerl.sweep.states import sweep_states
from scalerl.sweep.submissions import read_submissions

ENVIRONMENT = {"PYTHONPATH": str(SWEEPS.parent)}


def end_run(folder: Path, state: str, **values) -> None:
    status = {
        "state": state,
        "reason": f"because of {state}",
        "final": False,
        "step": 3,
        "gpu_hours": {"total": 0.5},
    }
    write_json(folder / "status.json", status | {"updated_s": time.time()} | values)


def test_a_grid_becomes_one_throttled_array_and_the_launcher_returns(sweep, fake_slurm, tmp_path, capsys):
    assert sweep("--throttle", "2") == 0
    output = capsys.readouterr().out
    (script,) = fake_slurm.scripts()
    lines = script.splitlines()
    for line in (
        "--array=0-3%2",
        "--requeue",
        "--signal=B:USR1@1800",
        "--nodes=1",
        "--gpus-per-node=3",
        "--open-mode=append",
    ):
        assert f"#SBATCH {line}" in lines
    record = tmp_path / "sweep" / "submissions" / f"{read_submissions(tmp_path / 'sweep')[0].id}.json"
    assert lines[-1] == f"exec {sys.executable} -u -m scalerl.sweep.job {record}"
    assert "trap '' USR1" in lines
    assert [find_run(record, task).name for task in range(4)] == NAMES[::2]
    assert {state.name: state.job_id for state in sweep_states(tmp_path / "sweep")} == {
        name: f"1_{task}" for task, name in enumerate(NAMES[::2])
    }
    assert "submitted 4 runs as job 1" in output
    assert set(states(tmp_path).values()) == {"pending"}
    assert not list((tmp_path / "sweep").rglob("*.pkl"))


def test_the_same_command_submits_nothing_again(sweep, fake_slurm, tmp_path, capsys):
    sweep()
    fake_slurm.change("1_0", state="RUNNING")
    fake_slurm.change("1_1", state="COMPLETED")
    end_run(tmp_path / "sweep" / NAMES[2], "finished", final=True)
    capsys.readouterr()
    assert sweep() == 0
    assert len(fake_slurm.scripts()) == 1
    output = capsys.readouterr().out
    assert "1 running, 1 finished, 2 pending" in output
    assert "nothing to submit" in output


def test_a_larger_grid_adds_only_what_is_new(sweep, fake_slurm, tmp_path):
    sweep()
    assert sweep("--seeds", "2") == 0
    first, second = read_submissions(tmp_path / "sweep")
    assert (first.runs, second.runs) == (NAMES[::2], NAMES[1::2])


def test_retry_submits_only_what_failed_or_stopped_and_left_the_queue(sweep, fake_slurm, tmp_path):
    sweep()
    folder = tmp_path / "sweep"
    end_run(folder / NAMES[0], "failed")  # but its job is completing still
    fake_slurm.change("1_0", state="COMPLETING")
    end_run(folder / NAMES[2], "failed")
    end_run(folder / NAMES[4], "finished", final=True)
    for task in (1, 2):
        fake_slurm.change(f"1_{task}", state="COMPLETED")
    fake_slurm.change("1_3", state="TIMEOUT")  # it never wrote a word
    assert sweep() == 0
    assert len(read_submissions(folder)) == 1
    assert sweep("--retry") == 0
    assert read_submissions(folder)[1].runs == [NAMES[2], NAMES[6]]
    with pytest.raises(ValueError, match="was submitted again since, as job 2"):
        find_run(SweepPaths(folder).submission(read_submissions(folder)[0].id), 1)
    assert sweep("--retry") == 0
    assert len(fake_slurm.scripts()) == 2


def test_retry_of_one_run_is_a_plain_job_and_keeps_a_raised_budget(sweep, fake_slurm, tmp_path, capsys):
    sweep()
    config = tmp_path / "sweep" / NAMES[0] / "config.json"
    saved = read_json(config)
    saved["config"]["budget"]["max_steps"] = 16_000
    write_json(config, saved)
    end_run(config.parent, "failed")
    fake_slurm.change("1_0", state="FAILED")
    assert sweep("--retry", "launch.max_restarts=9") == 0
    assert "1 of them keep another budget" in capsys.readouterr().out
    assert "--array" not in fake_slurm.scripts()[1]
    assert sweep_states(tmp_path / "sweep")[0].job_id == "2"
    written = read_json(config)["config"]
    assert (written["budget"]["max_steps"], written["launch"]["max_restarts"]) == (16_000, 9)


@pytest.mark.parametrize(
    ("throttle", "arrays"),
    [
        ([], [("0-2%3", ""), ("0-2%3", ""), ("0-1%2", "")]),
        (["--throttle", "4"], [("0-2%2", ""), ("0-2%1", ""), ("0-1%1", "")]),
        (["--throttle", "2"], [("0-2%1", ""), ("0-2%1", ""), ("0-1%1", "afterany:1")]),
    ],
)
def test_arrays_are_cut_to_the_cluster_and_share_the_throttle(sweep, fake_slurm, tmp_path, throttle, arrays):
    fake_slurm.set(max_array_size=3)
    assert sweep("--seeds", "2", *throttle) == 0
    found = []
    for script in fake_slurm.scripts():
        dependency = re.search(r"--dependency=(\S+)", script)
        found.append((re.search(r"--array=(\S+)", script)[1], dependency[1] if dependency else ""))
    assert found == arrays
    assert [name for record in read_submissions(tmp_path / "sweep") for name in record.runs] == NAMES


def test_a_refused_array_leaves_nothing_that_looks_submitted(sweep, fake_slurm, tmp_path, capsys):
    fake_slurm.set(max_submissions=1, max_array_size=3)
    assert sweep() == 2
    error = capsys.readouterr().err
    assert "accounting/QOS policy" in error
    assert "Submitted: 3 of 4" in error
    assert states(tmp_path) == dict(zip(NAMES[::2], ["pending"] * 3 + ["planned"], strict=True))
    fake_slurm.set()
    assert sweep() == 0
    assert set(states(tmp_path).values()) == {"pending"}
    assert len(fake_slurm.jobs) == 4


def test_runs_that_need_other_nodes_are_arrays_of_their_own(sweep, fake_slurm, tmp_path):
    axis = tmp_path / "ranks.toml"
    axis.write_text('key = "trainer.num_ranks"\nvalues = [1, 2, 16]')
    (tmp_path / "base.toml").touch()
    (tmp_path / "scale").mkdir()
    (tmp_path / "scale" / "demo.toml").write_text((SWEEPS / "scale" / "demo.toml").read_text())
    assert sweep(axis=axis) == 0
    shapes = [
        re.findall(r"--(?:nodes|gpus-per-node|cpus-per-task)=(\d+)", script)
        for script in fake_slurm.scripts()
    ]
    assert shapes == [["24", "3", "1"], ["32", "4", "1"], ["64", "8", "3"]]  # of 8 GPUs and 64 CPUs a node


SITE = """
[slurm]
partition = "batch"
account = "science"
qos = "long"
gpus_per_node = 3
gpu_type = "h100"
cpus_per_node = 24
mem_gb_per_node = 100.5
time_limit_min = 90
sbatch = { constraint = "nvlink", exclusive = "user" }

[steps]
warning_s = 600
"""
OF_ONE_ARRAY = ("--array", "--job-name", "--open-mode", "--output")


def test_doctor_tests_what_a_sweep_submits(sweep, fake_slurm, tmp_path, monkeypatch):
    """A run of the demo takes a whole node of this site, as doctor's job does."""
    (tmp_path / "site.toml").write_text(SITE)
    site = load_site(tmp_path / "site.toml")
    assert sweep("--site", str(tmp_path / "site.toml")) == 0
    (script,) = fake_slurm.scripts()
    submitted = {
        flag for flag in re.findall("^#SBATCH (.+)", script, re.M) if not flag.startswith(OF_ONE_ARRAY)
    }
    asked = []
    monkeypatch.setattr("scalerl.cluster.slurm.call", lambda *command, **_: asked.extend(command))
    assert check_submission(site).level == "ok"
    assert asked[:2] == ["sbatch", "--test-only"] and asked[-1] == "--wrap=true"
    where = {"--partition=batch", "--account=science", "--qos=long", "--constraint=nvlink"}
    what = {
        "--gpus-per-node=h100:3",
        "--cpus-per-task=24",
        "--mem=102912M",
        "--nodes=1",
        "--ntasks-per-node=1",
    }
    ends = {"--time=90", "--requeue", "--signal=B:USR1@600"}
    assert set(asked[2:-1]) == submitted == where | what | ends | {"--exclusive=user"}
    probe = set(probe_command(site, tmp_path, "doctor"))
    assert where | {"--exclusive=user", "--gpus-per-node=h100:1", "--nodes=2", "--time=5"} < probe


def test_the_shape_of_a_job_is_a_share_of_a_node_or_whole_nodes():
    site = SlurmSite(gpus_per_node=4, cpus_per_node=10, mem_gb_per_node=100.0)
    assert site.shape(3) == JobShape(nodes=1, gpus_per_node=3, cpus_per_node=8, mem_gb_per_node=75.0)
    assert site.shape(9) == JobShape(nodes=3, gpus_per_node=4, cpus_per_node=10, mem_gb_per_node=100.0)
    site = SlurmSite(gpus_per_node=0, cpus_per_node=2)
    assert site.shape(3) == JobShape(nodes=2, gpus_per_node=0, cpus_per_node=2, mem_gb_per_node=0.0)
    assert (site.options(site.shape(3))["mem"], "gpus-per-node" in site.options(site.shape(3))) == (
        "0",
        False,
    )


def test_a_folder_of_another_run_stops_everything_before_anything_is_submitted(sweep, fake_slurm, capsys):
    sweep()
    assert sweep("--seeds", "2", "algo.temperature=0.7") == 2
    assert "algo.temperature: 1.0 -> 0.7" in capsys.readouterr().err
    assert len(fake_slurm.scripts()) == 1


def test_a_missing_input_stops_everything_before_anything_is_submitted(
    sweep, fake_slurm, tmp_path, launch_inputs, capsys
):
    assert main([*command(tmp_path), *launch_inputs, f"model.path={tmp_path}/nowhere"]) == 2
    assert "no config.json there" in capsys.readouterr().err
    assert fake_slurm.scripts() == []
    assert not (tmp_path / "sweep").exists()


def test_every_point_of_an_axis_is_checked_before_anything_is_submitted(
    sweep, fake_slurm, tmp_path, launch_inputs, capsys
):
    """The second point does not fit the context of the model, though all three read the same files."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"max_position_embeddings": 512}')
    axis = shutil.copytree(SWEEPS, tmp_path / "sweeps") / "solution.toml"
    axis.write_text('key = "length.max_solution_tokens"\nvalues = [4, 500, 8]')
    assert main([*command(tmp_path, axis), *launch_inputs, f"model.path={tmp_path}/model"]) == 2
    assert "max_solution_tokens (500) add up to" in capsys.readouterr().err
    assert fake_slurm.scripts() == []


def test_many_gpu_hours_need_a_yes(sweep, fake_slurm, capsys):
    hours = "budget.max_gpu_hours=300"
    assert sweep(hours, "budget.max_steps=100000000") == 2
    assert "1,200 GPU-hours, more than 1,000 (--confirm-above)" in capsys.readouterr().err
    assert fake_slurm.scripts() == []
    assert sweep(hours, "budget.max_steps=100000000", "--yes") == 0
    # only what is about to be submitted counts
    assert sweep(hours, "budget.max_steps=100000000", "--seeds", "2", "--confirm-above", "1201") == 0
    assert len(fake_slurm.scripts()) == 2


def test_the_budget_of_the_sweep_reaches_every_run_and_the_newest_one_counts(sweep, fake_slurm, tmp_path):
    assert sweep("--max-gpu-hours", "5") == 0
    configs = [tmp_path / "sweep" / name / "config.json" for name in NAMES[::2]]
    assert {read_json(path)["config"]["budget"]["sweep_max_gpu_hours"] for path in configs} == {5.0}
    end_run(configs[0].parent, "failed")
    fake_slurm.change("1_0", state="FAILED")
    assert sweep("--retry", "--max-gpu-hours", "8") == 0
    assert [read_json(path)["config"]["budget"]["sweep_max_gpu_hours"] for path in configs] == [
        8.0,
        5.0,
        5.0,
        5.0,
    ]


def test_a_dry_run_writes_nothing_and_asks_no_slurm(sweep, fake_slurm, tmp_path, capsys):
    assert sweep("--dry-run", "budget.max_gpu_hours=9999") == 0
    assert not (tmp_path / "sweep").exists()
    assert (fake_slurm.folder / "calls").read_text() == ""
    assert "forecast of the 4 to submit" in capsys.readouterr().out


def test_a_job_that_vanished_says_why(sweep, fake_slurm, tmp_path):
    sweep()
    fake_slurm.change("1_0", state="OUT_OF_MEMORY")
    (record,) = read_submissions(tmp_path / "sweep")
    (SweepPaths(tmp_path / "sweep").job_log(record.id, "1_0")).write_text(
        "run folder: x\nValueError: no such thing\n"
    )
    (first, *_) = sweep_states(tmp_path / "sweep")
    assert first.state == "failed"
    assert "OUT_OF_MEMORY" in first.reason
    assert "ValueError: no such thing" in first.reason


def test_five_hundred_runs_are_planned_in_seconds(sweep, launch_inputs, tmp_path):
    """As a process of its own, with the start of Python, as tools/bench_sweep.py does; a core's time, as
    others may be busy."""
    with patch("os.fsync"):  # flushing 500 folders takes longer than all the rest
        assert sweep("--seeds", "125") == 0
    plan = [
        sys.executable,
        "-m",
        "scalerl",
        *command(tmp_path),
        "--seeds",
        "125",
        "--dry-run",
        *launch_inputs,
    ]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(plan, env=os.environ | ENVIRONMENT, capture_output=True, text=True, timeout=120)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2
    assert "500 runs: 500 pending" in done.stdout, done.stderr
