"""Why a run ends, what it leaves behind, and whether the same command goes on: the supervisor with scripted
roles."""

import json
import os
import signal
import subprocess
import threading

import pytest
from scripted_roles import REAL_PYTHON, processes_of, wait_until

from scalerl.common.files import read_json
from scalerl.data.problem import make_problem, write_problems
from scalerl.launch.supervisor import ROLE_STOP_S, run
from scalerl.metrics.ledger import Interval
from scalerl.metrics.rows import read_rows
from scalerl.run_folder import Alarm
from scalerl.sweep.status import status_report


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
    assert [row.step for row in read_rows(paths.metrics)] == [1, 2, 3]
    status = read_json(paths.status)
    assert (status["state"], status["step"], status["attempt"]) == ("finished", 3, 1)
    hours = status["gpu_hours"]
    assert hours["trainer"] > hours["generator"] > 0  # two ranks against one process
    assert processes_of(paths) == []
    assert "run finished: max_steps reached | step 3/3" in capsys.readouterr().out
    assert (paths.logs / "latest" / "trainer-1.log").exists()
    assert run(make_config(), paths) == 0
    assert "raise budget.*" in capsys.readouterr().out


def test_the_budget_in_gpu_hours_ends_the_run(paths, make_config, script_roles):
    script_roles(
        """
        if role == "trainer":
            step = 0
            while not (folder / "stop.json").exists():
                step += 1
                if index == 0: step_row(step)
                time.sleep(0.3)
            end()
        """
    )
    hours = 4 * 2 / 3600  # four processes for two seconds
    assert run(make_config("budget.max_steps=100000", f"budget.max_gpu_hours={hours}"), paths) == 0
    status = read_json(paths.status)
    assert "max_gpu_hours" in status["reason"]
    asked_s = paths.stop.stat().st_mtime
    intervals = [Interval(**interval) for interval in read_json(paths.compute)["intervals"]]
    hours_when_asked = sum(interval.device_s(asked_s) for interval in intervals) / 3600
    assert hours_when_asked < 2 * hours
    assert hours <= status["gpu_hours"]["total"] < hours_when_asked + 4 * ROLE_STOP_S / 3600, (
        "none had to be killed"
    )


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
    (sibling / "status.json").write_text(
        json.dumps({"state": "finished", "step": 9, "updated_s": 1.0, "gpu_hours": {"total": 2.0}})
    )
    assert run(make_config("budget.sweep_max_gpu_hours=2.0001"), paths) == 0
    status = read_json(paths.status)
    assert "sweep_max_gpu_hours = 2.0001 reached" in status["reason"]
    assert 0.0001 <= status["gpu_hours"]["total"] < 0.01
    assert run(make_config("budget.sweep_max_gpu_hours=2.0001"), paths) == 0
    assert read_json(paths.attempt)["attempt"] == 1, "nothing is left to spend"


def test_a_run_stops_on_an_alarm_and_goes_on_without(paths, make_config, script_roles, capsys):
    script_roles(
        """
        if role == "trainer":
            for step in range(1, 31):
                if index == 0:
                    step_row(step, truncation_rate=0.5)
                time.sleep(0.05 if step < 20 else 0.3)
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
    assert (
        "alarm: truncation 0.5 above 0.1 since step 20; raise length.max_solution_tokens"
        in capsys.readouterr().out
    )

    assert run(config, paths) == 0
    assert "has finished (alarm: truncation" in capsys.readouterr().out
    assert run(make_config("budget.max_steps=30"), paths) == 0
    assert "ALARM truncation" in capsys.readouterr().out
    status = read_json(paths.status)
    assert (status["reason"], status["step"]) == ("max_steps reached", 30)


@pytest.mark.parametrize(
    ("kind", "measured", "text"),
    [
        ("no_reward", "pass_rate=0.0", "no_reward 6 above 5 since step 6"),
        ("no_answer", "verdicts=dict(no_answer=3, equal=1)", "no_answer 0.75 above 0.5 since step 20"),
        ("zero_variance", "num_groups=4, zero_variance_groups=4", "zero_variance 1 above 0.8 since step 20"),
    ],
)
def test_a_run_that_teaches_nothing_can_be_stopped(paths, make_config, script_roles, kind, measured, text):
    script_roles(
        f"""
        if role == "trainer":
            for step in range(1, {text.split()[-1]} + 1):
                if index == 0: step_row(step, {measured})
            while not (folder / "stop.json").exists(): time.sleep(0.02)
            end()
        """
    )
    assert run(make_config("budget.max_steps=30", f'launch.stop_on_alarm=["{kind}"]'), paths) == 0
    status = read_json(paths.status)
    assert status["state"] == "finished" and status["reason"].startswith(f"alarm: {kind} ")
    assert [str(Alarm.from_json(alarm, "alarm")) for alarm in status["alarms"]] == [text]


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
    wait_until(lambda: paths.status.exists() and len(read_json(paths.status)["pids"]) == 4, "four processes")
    supervisor.send_signal(signal.SIGINT)
    assert supervisor.wait(timeout=30) == 130
    assert (paths.root / "checkpointed").exists()
    assert read_json(paths.status)["state"] == "stopped"
    assert processes_of(paths) == []
    assert json.loads(paths.attempt.read_text())["attempt"] == 1


def test_an_interrupt_during_the_last_evaluation_leaves_the_run_unfinished(paths, make_config, script_roles):
    script_roles(
        """
        if role == "trainer":
            if index == 0:
                step_row(3)
                request = dict(step=3, policy_version=3, name="x", sha256="")
                request |= dict(epoch=0.1, generated_tokens=1, trained_tokens=1, flops=1.0, published_s=1.0)
                (folder / "evaluations" / "00000003.request.json").write_text(json.dumps(request))
            end()
        while role == "evaluator" and (folder / "attempt-1-ended").exists():
            (folder / "evaluations" / "00000003.request.json").unlink(missing_ok=True)
            time.sleep(0.05)
        """
    )

    def interrupt() -> None:
        def alone() -> bool:  # the trainer has ended, and the generator was ended
            return paths.status.exists() and list(read_json(paths.status)["pids"]) == ["evaluator-0"]

        wait_until(alone, "the last evaluation")
        os.kill(os.getpid(), signal.SIGINT)

    user = threading.Thread(target=interrupt)
    user.start()
    assert run(make_config(), paths) == 130
    user.join()
    status = read_json(paths.status)
    assert status["state"] == "stopped"
    assert status["reason"].startswith("interrupted before the last evaluation (max_steps reached)")
    (paths.root / "attempt-1-ended").touch()
    assert run(make_config(), paths) == 0
    assert (read_json(paths.status)["state"], read_json(paths.attempt)["attempt"]) == ("finished", 2)


def test_an_alarm_that_the_last_evaluation_ends_does_not_stay(paths, make_config, script_roles):
    script_roles(
        """
        if role == "trainer":
            post("eval", 0, pass_rate=0.6)
            step_row(1)
            post("eval", 1, pass_rate=0.3)
            while '"kind": "pass_rate"' not in (folder / "status.json").read_text(): time.sleep(0.02)
            step_row(2)
            while '"step": 2' not in (folder / "status.json").read_text(): time.sleep(0.02)
            post("eval", 2, pass_rate=0.6)
            end()
        """
    )
    assert run(make_config("trainer.num_ranks=1", "budget.max_steps=2"), paths) == 0
    status = read_json(paths.status)
    assert (status["state"], status["step"], status["alarms"]) == ("finished", 2, [])
    lines = paths.training_log.read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["step", "0", "1", "2"]


ENDS_WITH_A_BEST_POLICY = """
request = folder / "evaluations" / "00000002-test.request.json"
if role == "trainer":
    assert not request.exists(), "the best policy may still change"
    if index == 0:
        step_row(3)
        weights = folder / "best" / "model.safetensors"
        weights.parent.mkdir(exist_ok=True)
        weights.touch()
        best = dict(step=2, policy_version=2, name="00000002-a", sha256="", epoch=0.1, pass_rate=0.75)
        best |= dict(generated_tokens=1, trained_tokens=1, flops=1.0)
        write(folder / "best" / "evaluation.json", json.dumps(best))
    end()
while role == "evaluator":
    ended, may_answer = (folder / "end.json").exists(), (folder / "evaluators-answer").exists()
    if request.exists() and ended and may_answer:
        asked = json.loads(request.read_text())
        assert (folder / "weights" / asked["name"] / "model.safetensors").exists()
        test = dict(step=2, pass_rate=0.5, standard_error=0.125, num_prompts=16, samples_per_prompt=4)
        test |= dict(heldout_pass_rate=0.75, test_set=asked["test_set"])
        write(folder / "best" / "test.json", json.dumps(test))
        request.unlink()
    time.sleep(0.05)
"""


@pytest.fixture
def with_test_set(make_config, tmp_path):
    """make_config with a test set of one problem."""
    write_problems(tmp_path / "test.parquet", [make_problem("3+3?", ["6"], source="test")])
    return lambda *overrides: make_config(f"data.test={tmp_path}/test.parquet", *overrides)


def test_the_best_policy_is_tested_at_the_end(paths, make_config, with_test_set, script_roles, capsys):
    script_roles(ENDS_WITH_A_BEST_POLICY)
    assert run(make_config(), paths) == 0
    assert "test 0." not in capsys.readouterr().out
    (paths.root / "evaluators-answer").touch()
    assert run(with_test_set(), paths) == 0, "a test set that comes later is all that is missing"
    said = "best policy (step 2): test 0.500 ± 0.125 (16 prompts), held-out 0.750"
    assert f"{said} | GPU-hours" in capsys.readouterr().out
    status = read_json(paths.status)
    assert (status["state"], status["attempt"]) == ("finished", 2)
    assert f"test       {said}; {with_test_set().data.test}" in status_report(paths.root)
    assert run(with_test_set(), paths) == 0
    assert read_json(paths.attempt)["attempt"] == 2, "it is not tested twice"


def test_a_test_cut_short_is_done_again_by_the_same_command(paths, with_test_set, script_roles):
    script_roles(ENDS_WITH_A_BEST_POLICY)

    def interrupt() -> None:
        wait_until((paths.evaluations / "00000002-test.request.json").exists, "the test to be asked for")
        os.kill(os.getpid(), signal.SIGINT)

    user = threading.Thread(target=interrupt)
    user.start()
    assert run(with_test_set(), paths) == 130
    user.join()
    status = read_json(paths.status)
    assert (status["state"], status["reason"].partition(" (")[0]) == (
        "stopped",
        "interrupted before the last evaluation",
    )
    (paths.root / "evaluators-answer").touch()
    assert run(with_test_set(), paths) == 0
    assert read_json(paths.status)["state"] == "finished"
    assert read_json(paths.best_test)["pass_rate"] == 0.5


def test_a_test_that_never_ends_has_a_deadline(paths, with_test_set, script_roles):
    script_roles(ENDS_WITH_A_BEST_POLICY)
    assert run(with_test_set("launch.evaluation_deadline_s=1"), paths) == 1
    assert read_json(paths.status)["reason"].startswith(
        "waited 1 s for the last evaluations (launch.evaluation_deadline_s): the test of step 2 lacks the "
        "part of evaluator-0"
    )
