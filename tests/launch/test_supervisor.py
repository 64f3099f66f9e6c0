"""The supervisor with scripted roles in place of the engines: what it restarts, when it gives up, what it leaves behind.

The same behaviour with the real engines: tests/e2e.
"""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from scalerl.config import RunConfig
from scalerl.data.problem import make_problem, write_problems
from scalerl.files import read_json, write_json
from scalerl.launch import processes
from scalerl.launch.supervisor import run
from scalerl.metrics import read_rows
from scalerl.paths import RunPaths
from scalerl.settings import load_config

REAL_PYTHON = sys.executable
FAKE_ROLE = """
import json, os, pathlib, signal, sys, time
arguments = dict(zip(sys.argv[5::2], sys.argv[6::2]))
role, folder = sys.argv[4], pathlib.Path(arguments["--dir"])
index = int(arguments.get("--index", 0))
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
def post(kind, step, **values):
    text = json.dumps(dict(kind=kind, step=step, time_s=time.time(), **values))
    (folder / "inbox" / ".new").write_text(text)
    os.rename(folder / "inbox" / ".new", folder / "inbox" / f"{kind}-{step:08d}.json")
def end(exhausted=False):
    attempt = json.loads((folder / "attempt.json").read_text())["attempt"]
    (folder / "end.json").write_text(json.dumps(dict(attempt=attempt, step=0, exhausted=exhausted)))
    sys.exit(0)
def step_row(step, **values):
    post("step", step, reward=0.0, pass_rate=0.5, tokens=step * 10, off_policyness_mean=1.0, **values)
"""


@pytest.fixture
def paths(tmp_path):
    return RunPaths(tmp_path / "run")


@pytest.fixture
def make_config(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    write_problems(tmp_path / "problems.parquet", [make_problem("1+1?", ["2"], source="test")])

    def make(*overrides: str) -> RunConfig:
        data = tmp_path / "problems.parquet"
        fixed = [f"model.path={tmp_path}/model", f"data.train={data}", f"data.heldout={data}", "generator.kv_cache_gb=0.1"]
        fixed += ["trainer.num_ranks=2", "generator.num=1", "budget.max_steps=3", "logging.tensorboard=false"]
        return load_config([], [*fixed, *overrides])

    return make


@pytest.fixture
def script_roles(tmp_path, monkeypatch):
    """Let every role run this Python text, which knows `role`, `index`, `folder`, `post` and `step_row`."""

    def script(text: str) -> None:
        body = tmp_path / "role.py"
        body.write_text(FAKE_ROLE + textwrap.dedent(text) + "\nwhile True: time.sleep(0.05)\n")
        executable = tmp_path / "interpreter"
        executable.write_text(f'#!/bin/bash\nexec {REAL_PYTHON} -c "$(cat {body})" "$@"\n')
        executable.chmod(0o755)
        monkeypatch.setattr(processes.sys, "executable", str(executable))

    return script


def processes_of(paths: RunPaths) -> list[str]:
    found = subprocess.run(["pgrep", "-f", str(paths.root)], capture_output=True, text=True).stdout.split()
    return [pid for pid in found if int(pid) != os.getpid()]


def test_a_run_that_ends_by_itself(paths, make_config, script_roles, capsys):
    script_roles(
        """
        if role == "trainer":
            for step in (1, 2, 3):
                if index == 0: step_row(step)
                time.sleep(0.15)
            end()
        """
    )
    assert run(make_config(), paths) == 0
    assert [row["step"] for row in read_rows(paths.metrics)] == [1, 2, 3]
    status = read_json(paths.status)
    assert (status["state"], status["step"], status["attempt"]) == ("finished", 3, 1)
    hours = status["gpu_hours"]
    assert hours["trainer"] > hours["generator"] > 0  # two ranks against one process
    assert processes_of(paths) == []
    assert "run finished: max_steps reached | step 3/3" in capsys.readouterr().out
    assert (paths.logs / "latest" / "trainer-1.log").exists()
    assert run(make_config(), paths) == 0
    assert "raise budget.*" in capsys.readouterr().out


def test_dead_roles_are_started_again(paths, make_config, script_roles):
    script_roles(
        """
        seen = folder / f"seen-{role}-{index}"
        first = not seen.exists()
        seen.touch()
        if first and (role, index) != ("trainer", 0):
            time.sleep(0.2)
            os.kill(os.getpid(), signal.SIGKILL)
        if role == "trainer" and not first:
            time.sleep(0.5)
            if index == 0: step_row(1)
            end()
        """
    )
    assert run(make_config(), paths) == 0
    assert {path.name for path in paths.root.glob("seen-*")} == {
        "seen-trainer-0", "seen-trainer-1", "seen-generator-0", "seen-evaluator-0"
    }  # fmt: skip
    intervals = read_json(paths.compute)["intervals"]
    assert sorted(interval["role"] for interval in intervals) == ["evaluator"] * 2 + ["generator"] * 2 + ["trainer"] * 4
    assert all(interval["end_s"] for interval in intervals)


def test_a_role_that_cannot_be_kept_up_ends_the_run(paths, make_config, script_roles, capsys):
    script_roles('if role == "generator": sys.exit("ValueError: no such weights")')
    assert run(make_config("launch.max_restarts=1"), paths) == 1
    reason = read_json(paths.status)["reason"]
    assert "generator-0 died with exit code 1 (ValueError: no such weights)" in reason
    assert "restarted 1 times already" in reason
    assert processes_of(paths) == []


def test_the_budget_in_gpu_hours_ends_the_run(paths, make_config, script_roles):
    script_roles(
        """
        if role == "trainer":
            step = 0
            while not (folder / "stop.json").exists():
                step += 1
                if index == 0: step_row(step)
                time.sleep(0.05)
            end()
        """
    )
    hours = 4 * 1.5 / 3600  # four processes for a second and a half
    assert run(make_config("budget.max_steps=100000", f"budget.max_gpu_hours={hours}"), paths) == 0
    status = read_json(paths.status)
    assert "max_gpu_hours" in status["reason"]
    assert hours <= status["gpu_hours"]["total"] < 2 * hours


def test_early_stopping(paths, make_config, script_roles):
    script_roles(
        """
        if role == "trainer":
            while not (folder / "stop.json").exists(): time.sleep(0.02)
            end()
        if role == "evaluator":
            for step, pass_rate in enumerate([0.2, 0.5, 0.4, 0.5]):
                post("eval", step, pass_rate=pass_rate)
                time.sleep(0.1)
        """
    )
    assert run(make_config("evaluation.early_stop_evaluations=2"), paths) == 0
    assert read_json(paths.status)["reason"] == "no better pass rate in 2 evaluations"
    assert run(make_config("evaluation.early_stop_evaluations=2", "budget.max_steps=9"), paths) == 0
    assert read_json(paths.attempt)["attempt"] == 1, "it has ended for good"


def test_ctrl_c_lets_the_trainer_checkpoint_and_the_run_continue(paths, make_config, script_roles, tmp_path):
    script_roles(
        """
        if role == "trainer":
            while not (folder / "stop.json").exists(): time.sleep(0.02)
            if index == 0: (folder / "checkpointed").touch()
            end()
        """
    )
    config = make_config()
    (tmp_path / "config.json").write_text(config.model_dump_json())
    program = f"""
import sys
from pathlib import Path
from scalerl.config import RunConfig
from scalerl.launch import processes, supervisor
from scalerl.paths import RunPaths
processes.sys.executable = {str(tmp_path / "interpreter")!r}
config = RunConfig.model_validate_json(Path({str(tmp_path / "config.json")!r}).read_text())
sys.exit(supervisor.run(config, RunPaths(Path({str(paths.root)!r}))))
"""
    supervisor = subprocess.Popen([REAL_PYTHON, "-c", program])
    end_s = time.monotonic() + 30
    while not (paths.status.exists() and len(read_json(paths.status)["pids"]) == 4):
        assert time.monotonic() < end_s, "waited 30 s for four processes"
        time.sleep(0.05)
    supervisor.send_signal(signal.SIGINT)
    assert supervisor.wait(timeout=30) == 130
    assert (paths.root / "checkpointed").exists()
    assert read_json(paths.status)["state"] == "stopped"
    assert processes_of(paths) == []
    assert json.loads(paths.attempt.read_text())["attempt"] == 1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.path=", "model.path is not set"),
        ("model.path=/nowhere", "not a Hugging Face directory"),
        ("data.train=", "data.train is not set"),
        ("data.heldout=/nowhere.parquet", "there is no problem file"),
        ("generator.kv_cache_gb=0", "on a CPU give a number"),
    ],
)
def test_bad_input_is_refused_before_anything_starts(paths, make_config, override, message):
    with pytest.raises(ValueError) as error:
        run(make_config(override), paths)
    assert message in str(error.value)
    assert not paths.root.exists()


def test_a_folder_of_another_run_is_refused(paths, make_config, script_roles, tmp_path):
    script_roles(
        """
        if role == "trainer":
            if index == 0: step_row(3)
            end()
        """
    )
    run(make_config(), paths)
    with pytest.raises(ValueError, match=r"another run .*algo\.loss_type: 'cispo' -> 'dapo'"):
        run(make_config("algo.loss_type=dapo"), paths)
    assert run(make_config("budget.max_steps=9"), paths) == 0
    assert RunConfig.model_validate(read_json(paths.config)["config"]).budget.max_steps == 9
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(ValueError, match="not empty and is not a run folder"):
        run(make_config(), RunPaths(Path(tmp_path / "other")))


def test_an_interrupt_during_the_last_evaluation_leaves_the_run_unfinished(paths, make_config, script_roles):
    script_roles(
        """
        if role == "trainer":
            if index == 0:
                step_row(3)
                request = dict(step=3, policy_version=3, name="x", sha256="", epoch=0.1, tokens=1, flops=1.0, published_s=1.0)
                (folder / "evaluations" / "00000003.request.json").write_text(json.dumps(request))
            end()
        if role == "evaluator" and (folder / "attempt-1-ended").exists():
            (folder / "evaluations" / "00000003.request.json").unlink()
        """
    )
    signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    signal.setitimer(signal.ITIMER_REAL, 2.0)
    assert run(make_config(), paths) == 130
    assert read_json(paths.status)["state"] == "stopped"
    (paths.root / "attempt-1-ended").touch()
    assert run(make_config(), paths) == 0
    assert (read_json(paths.status)["state"], read_json(paths.attempt)["attempt"]) == ("finished", 2)


def test_a_refused_command_changes_nothing_in_a_live_run(paths, make_config, script_roles):
    script_roles(
        """
        if role == "trainer":
            if index == 0: step_row(3)
            end()
        """
    )
    assert run(make_config(), paths) == 0
    before = paths.config.read_text()
    owner = read_json(paths.attempt)
    sleeper = subprocess.Popen(["sleep", "60"])
    ticks = int(Path(f"/proc/{sleeper.pid}/stat").read_text().split()[21])
    paths.attempt.write_text(json.dumps(owner | {"pid": sleeper.pid, "started_ticks": ticks}))
    with pytest.raises(ValueError, match="is being run by process"):
        run(make_config("budget.max_steps=9"), paths)
    sleeper.kill()
    sleeper.wait()
    assert paths.config.read_text() == before


def test_a_supervisor_that_is_fenced_off_writes_nothing_more(paths, make_config, script_roles):
    script_roles(
        """
        if role == "trainer":
            for step in range(1, 1000):
                step_row(step)
                time.sleep(0.1)
        """
    )

    def take_over() -> None:
        wait_until(lambda: len(read_rows(paths.metrics)) >= 3, "three rows")
        write_json(paths.attempt, read_json(paths.attempt) | {"attempt": 7})
        time.sleep(0.5)  # whoever claims a folder reads much before writing
        paths.metrics.write_text("theirs")
        paths.status.write_text("theirs")

    other = threading.Thread(target=take_over)
    other.start()
    assert run(make_config("trainer.num_ranks=1", "budget.max_steps=1000"), paths) == 1
    other.join()
    time.sleep(0.5)
    assert (paths.metrics.read_text(), paths.status.read_text()) == ("theirs", "theirs")
    assert read_json(paths.attempt)["attempt"] == 7
    assert processes_of(paths) == []


def wait_until(condition, what: str, deadline_s: float = 30.0) -> None:
    end_s = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end_s, f"waited {deadline_s} s for {what}"
        time.sleep(0.02)


def test_a_sweep_budget_counts_the_runs_beside_this_one(paths, make_config, script_roles):
    script_roles(
        """
        if role == "trainer":
            while not (folder / "stop.json").exists(): time.sleep(0.02)
            end()
        """
    )
    sibling = paths.root.parent / "sibling"
    sibling.mkdir()
    (sibling / "status.json").write_text(json.dumps({"gpu_hours": {"total": 2.0}}))
    assert run(make_config("budget.sweep_max_gpu_hours=2.0001"), paths) == 0
    status = read_json(paths.status)
    assert "sweep_max_gpu_hours = 2.0001 reached" in status["reason"]
    assert 0.0001 <= status["gpu_hours"]["total"] < 0.01
    assert run(make_config("budget.sweep_max_gpu_hours=2.0001"), paths) == 0
    assert read_json(paths.attempt)["attempt"] == 1, "nothing is left to spend"


def test_an_exit_code_of_zero_is_no_proof_that_the_trainer_has_finished(paths, make_config, script_roles):
    script_roles(
        """
        if role == "trainer":
            if not (folder / "lost").exists():
                (folder / "lost").touch()
                sys.exit(0)  # as srun does for a step that it lost with its node
            step_row(3)
            end()
        """
    )
    assert run(make_config("trainer.num_ranks=1"), paths) == 0
    assert "trainer-0 died with exit code 0" in read_json(paths.status)["last_error"]
    assert read_json(paths.status)["reason"] == "max_steps reached"


def test_a_run_stops_on_an_alarm_and_goes_on_without(paths, make_config, script_roles, capsys):
    script_roles(
        """
        if role == "trainer":
            for step in range(1, 31):
                if index == 0:
                    step_row(step, truncation_rate=0.5)
                time.sleep(0.05)
                if (folder / "stop.json").exists(): break
            end()
        """
    )
    config = make_config("budget.max_steps=30", 'launch.stop_on_alarm=["truncation"]')
    assert run(config, paths) == 0
    status = read_json(paths.status)
    assert (status["state"], status["final"]) == ("finished", False)
    assert status["reason"] == "alarm: truncation 0.5 above 0.1 since step 20 (launch.stop_on_alarm)"
    assert 20 <= status["step"] < 30
    (alarm,) = status["alarms"]
    assert (alarm["kind"], alarm["step"], alarm["last_step"]) == ("truncation", 20, status["step"])
    assert "alarm: truncation 0.5 above 0.1 since step 20; raise length.max_solution_tokens" in capsys.readouterr().out

    assert run(config, paths) == 0
    assert "has finished (alarm: truncation" in capsys.readouterr().out
    assert run(make_config("budget.max_steps=30"), paths) == 0
    assert "ALARM truncation" in capsys.readouterr().out
    status = read_json(paths.status)
    assert (status["reason"], status["step"]) == ("max_steps reached", 30)
