"""What a run owes in evaluations: its price, whether it grows, whom it waits for. Hand-worked numbers."""

from pathlib import Path

import pytest
from factories import make_request

from scalerl.common.files import read_json, write_json
from scalerl.data.problem import make_problem, write_problems
from scalerl.launch import supervisor as supervisor_module
from scalerl.launch.backlog import Backlog
from scalerl.launch.processes import RoleProcess
from scalerl.launch.supervisor import Supervisor, run
from scalerl.metrics.ledger import Interval
from scalerl.metrics.rows import EvalRow, Rows, StepRow


def ask(paths, *steps: int) -> None:
    for step in steps:
        request = {
            "step": step,
            "policy_version": step,
            "name": f"p{step}",
            "sha256": "",
            "epoch": 0.1,
            "generated_tokens": 1,
            "trained_tokens": 1,
            "flops": 1.0,
        }
        write_json(paths.evaluations / f"{step:08d}.request.json", request | {"published_s": 1.0})


def eval_row(step: int, evaluation_s: float = 90.0) -> EvalRow:
    return EvalRow(step=step, pass_rate=0.5, evaluation_s=evaluation_s)


def test_every_evaluation_that_waits_and_the_last_one_are_set_aside(paths):
    paths.evaluations.mkdir(parents=True)
    backlog = Backlog(paths, print)
    assert backlog.gpu_hours(Rows([StepRow(step=1)]), 80) == 0.0, "nobody knows yet what one takes"
    rows = Rows([eval_row(0, 999.0), eval_row(50, 90.0), StepRow(step=51)])
    assert backlog.gpu_hours(rows, 80) == 2.0  # 90 s of 80 GPUs
    ask(paths, 100, 150)
    assert backlog.gpu_hours(rows, 80) == 6.0


def test_a_job_with_two_evaluations_to_do_stops_in_time_for_three(
    paths, make_config, script_roles, monkeypatch
):
    """Three evaluations of 100 s on 10 GPUs take .83 GPU-hours."""
    script_roles(
        """
        if role == "trainer":
            for step in (1, 2):
                request = dict(step=step, policy_version=step, name="x", sha256="")
                request |= dict(epoch=0.1, generated_tokens=1, trained_tokens=1, flops=1.0, published_s=1.0)
                write(folder / "evaluations" / f"{step:08d}.request.json", json.dumps(request))
            post("eval", 0, pass_rate=0.5, evaluation_s=100.0)
            while not (folder / "stop.json").exists(): time.sleep(0.02)
            end()
        while role == "evaluator":
            for request in (folder / "evaluations").glob("*.request.json"):
                if (folder / "end.json").exists(): request.unlink()
            time.sleep(0.05)
        """
    )
    totals = []
    check = supervisor_module.Stopping.check

    def spy(self, books, trainer_running):
        totals.append(books.budgeted_gpu_hours())
        check(self, books, trainer_running)

    monkeypatch.setattr(supervisor_module.Stopping, "check", spy)
    config = make_config(
        "trainer.num_ranks=1",
        "budget.max_steps=9",
        "budget.max_gpu_hours=0.8",
        "launch.evaluation_deadline_s=20",
    )
    supervisor = Supervisor(config, paths)
    supervisor.books.allocation = Interval(role="allocation", devices=10, start_s=0.0)  # as in a Slurm job
    assert supervisor.run() == 0
    assert "max_gpu_hours = 0.8 reached" in read_json(paths.status)["reason"]
    assert max(totals) >= 3 * 100 * 10 / 3600
    assert read_json(paths.status)["gpu_hours"]["total"] < 0.1, "long before its own hours reach the budget"


def test_evaluations_that_pile_up_are_said_once(paths):
    paths.evaluations.mkdir(parents=True)
    said = []
    backlog = Backlog(paths, said.append)
    ask(paths, 50, 100)
    backlog.evaluated(eval_row(50))  # its own request may still be there
    assert said == []
    ask(paths, 150, 200)
    backlog.evaluated(eval_row(50))
    assert said == [], "once may be a slow start"
    backlog.evaluated(eval_row(100, 3400.0))
    assert len(said) == 1
    assert said[0].startswith(
        "evaluations pile up: 2 wait, and one takes 3400 s; stop and continue with a larger evaluation.num"
    )
    ask(paths, 250, 300)
    for step in (150, 200):
        backlog.evaluated(eval_row(step))
    assert len(said) == 1


def test_a_backlog_that_goes_away_is_not_said(paths):
    paths.evaluations.mkdir(parents=True)
    said = []
    backlog = Backlog(paths, said.append)
    for asked, done in (((50, 100, 150), 50), ((), 100), ((200,), 150), ((250, 300, 350), 200)):
        ask(paths, *asked)
        backlog.evaluated(eval_row(done))
    assert said == []


def test_whose_part_is_missing(paths):
    paths.evaluations.mkdir(parents=True)
    evaluators = [
        RoleProcess(name=f"evaluator-{i}", arguments=["evaluator"], log=Path(f"{i}.log")) for i in range(3)
    ]
    backlog = Backlog(paths, print)
    paths.evaluation_part("00000020", 1, 3).touch()
    assert (
        backlog.lacking(make_request(20), evaluators)
        == "step 20 lacks the part of evaluator-0 (log: 0.log), evaluator-2 (log: 2.log)"
    )
    for index in (0, 2):
        paths.evaluation_part("00000020", index, 3).touch()
    assert (
        backlog.lacking(make_request(20), evaluators) == "step 20 lacks the part of evaluator-0 (log: 0.log)"
    ), "it puts them together"


PARTS = """
if role == "trainer":
    if index == 0:
        step_row(3)
        request = dict(step=3, policy_version=3, name="x", sha256="")
        request |= dict(epoch=0.1, generated_tokens=1, trained_tokens=1, flops=1.0, published_s=1.0)
        (folder / "evaluations" / "00000003.request.json").write_text(json.dumps(request))
    time.sleep(0.5)
    end()
if role == "evaluator":
    with (folder / f"starts-{index}").open("a") as starts: starts.write("x")
    if index == 1 and (not NEVER) and (folder / "starts-1").read_text() == "x":
        os.kill(os.getpid(), signal.SIGKILL)
    while NEVER and index == 1: time.sleep(0.05)
    (folder / "evaluations" / f"00000003.part-{index}-of-3.json").touch()
    while index == 0:
        if len(list((folder / "evaluations").glob("*.part-*"))) == 3:
            (folder / "evaluations" / "00000003.request.json").unlink(missing_ok=True)
        time.sleep(0.05)
"""


def shared_data(tmp_path) -> str:
    problems = [make_problem(f"{number}+5?", [str(number + 5)], source="test") for number in range(3)]
    write_problems(tmp_path / "three.parquet", problems)
    return f"data.heldout={tmp_path / 'three.parquet'}"


def test_a_dead_evaluator_is_started_again_alone(paths, make_config, script_roles, tmp_path, capsys):
    script_roles(f"NEVER = False\n{PARTS}")
    assert run(make_config("evaluation.num=3", shared_data(tmp_path)), paths) == 0
    assert [(paths.root / f"starts-{index}").read_text() for index in range(3)] == ["x", "xx", "x"]
    roles = [interval["role"] for interval in read_json(paths.compute)["intervals"]]
    assert sorted(roles) == ["evaluator"] * 4 + ["generator"] + ["trainer"] * 2
    assert "evaluator-1 died with exit code -9" in capsys.readouterr().out


def test_a_part_that_never_comes_ends_the_run_at_its_deadline(paths, make_config, script_roles, tmp_path):
    script_roles(f"NEVER = True\n{PARTS}")
    config = make_config("evaluation.num=3", shared_data(tmp_path), "launch.evaluation_deadline_s=1.5")
    assert run(config, paths) == 1
    reason = read_json(paths.status)["reason"]
    assert reason.startswith(
        "waited 2 s for the last evaluations (launch.evaluation_deadline_s): "
        "step 3 lacks the part of evaluator-1 "
    )
    assert reason.endswith("evaluator-1.log)")


def test_more_evaluators_than_prompts_are_refused(paths, make_config):
    with pytest.raises(
        ValueError, match=r"evaluation\.num = 2 evaluators cannot share 1 held-out prompts: lower it"
    ):
        run(make_config("evaluation.num=2"), paths)
