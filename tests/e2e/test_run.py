"""Whole runs on the real engines: vLLM generators, ZeRO-3 trainer ranks, a vLLM evaluator, and the supervisor
above them."""

import os
import signal
import statistics

import pandas as pd
import psutil
import pytest

from scalerl.files import read_json
from scalerl.fits import fit_run
from scalerl.spool.evaluations import pending_evaluations

TWO_EACH = ("generator.num=2", "trainer.num_ranks=2", "evaluation.num=2")


def check_rows(run, num_steps: int, max_off_policyness: int) -> None:
    """What holds for every finished run, whatever happened on the way."""
    assert [row.step for row in run.steps] == list(range(1, num_steps + 1))
    hours = [row.gpu_hours for row in run.steps]
    assert hours == sorted(hours)
    for row in run.steps:
        assert row.num_groups == 8
        assert max(map(int, row.off_policyness)) <= max_off_policyness
        assert row.off_policyness_max <= max_off_policyness
    assert [row.step for row in run.evaluations] == [*range(0, num_steps + 1, 2)]
    assert run.evaluations[0].tokens == 0
    assert run.left_behind() == []


def test_two_of_each_role_and_every_role_killed_once(make_run):
    run = make_run(*TWO_EACH, "budget.max_steps=18", "checkpoint.every_steps=3").start()
    for step, name in ((2, "generator-1"), (5, "trainer-1"), (8, "evaluator-0"), (9, "trainer-0")):
        run.wait_until(lambda step=step: run.step() >= step, f"step {step}")
        run.wait_until(lambda name=name: run.pid(name) is not None, f"{name} to run")
        os.kill(run.pid(name), signal.SIGKILL)
    assert run.wait() == 0, run.report()
    check_rows(run, 18, max_off_policyness=8)
    assert sum(row.step_applied for row in run.steps) >= 10
    assert any(row.off_policyness_max > 0 for row in run.steps)
    intervals = read_json(run.paths.compute)["intervals"]
    started = {
        role: sum(interval["role"] == role for interval in intervals)
        for role in ("generator", "trainer", "evaluator")
    }
    assert started == {"generator": 3, "trainer": 6, "evaluator": 3}

    shards = sorted(run.paths.spool.glob("[0-9]*/*.parquet"))
    frame = pd.concat(pd.read_parquet(shard) for shard in shards)
    assert not frame.duplicated(["group", "completion"]).any()
    assert set(frame[frame.group < 18 * 8].group) == set(range(18 * 8))
    assert set(frame.writer) == {"generator-0", "generator-1"}
    assert (frame.group % 2 == frame.writer.str[-1].astype(int)).all()
    assert (run.paths.best / "model.safetensors").exists()
    assert not list((run.paths.spool / "quarantine").glob("*"))
    assert fit_run(run.paths.root) is not None
    assert run.paths.curve.exists()
    assert run.paths.fit.exists()


@pytest.mark.parametrize(
    ("mode", "k", "model"),
    [
        ("pipeline_rl", 1, "tied"),
        ("pipeline_rl", 2, "untied"),
        ("pipeline_rl", 8, "tied"),
        ("ppo_off_policy", 2, "untied"),
    ],
)
def test_parity_and_staleness_at_zero_learning_rate(make_run, mode, k, model):
    """With learning rate 0 every policy is the same, so each token's log-probability must agree between vLLM,
    whose weights are reloaded in flight, and the trainer, up to fp32 rounding."""
    overrides = [
        f"off_policy.mode={mode}",
        f"off_policy.k={k}",
        "optimizer.learning_rate=0",
        "optimizer.weight_decay=0",
    ]
    run = make_run(*overrides, "budget.max_steps=10", "algo.zero_variance=keep", model=model).start()
    assert run.wait() == 0, run.report()
    bound = k if mode == "pipeline_rl" else k - 1
    check_rows(run, 10, max_off_policyness=bound)
    assert max(row.log_ratio_max for row in run.steps) <= 1e-4
    if bound:
        assert max(row.off_policyness_max for row in run.steps) > 0, (
            "no token of an older policy: nothing was tested"
        )


def test_parity_on_policy_while_the_weights_change(make_run):
    """PPO-off-policy-1 samples every token with the very policy it trains: each reload must bring exactly the
    trainer's weights."""
    run = make_run(
        "off_policy.mode=ppo_off_policy",
        "off_policy.k=1",
        "optimizer.learning_rate=1e-3",
        "budget.max_steps=6",
    ).start()
    assert run.wait() == 0, run.report()
    check_rows(run, 6, max_off_policyness=0)
    assert sum(row.step_applied for row in run.steps) >= 4
    assert max(row.log_ratio_max or 0.0 for row in run.steps) <= 1e-4


def test_a_mixture_of_experts_goes_through_the_whole_pipeline(make_run, moe_base):
    """As above, with two trainer ranks. Two experts whose scores agree up to fp32 rounding may rank
    differently in the two engines, once in a long while, so not the largest difference of all steps counts
    but the median step's."""
    run = make_run(
        "off_policy.mode=ppo_off_policy",
        "off_policy.k=1",
        "optimizer.learning_rate=1e-3",
        "trainer.num_ranks=2",
        "budget.max_steps=4",
        model=moe_base,
    ).start()
    assert run.wait() == 0, run.report()
    check_rows(run, 4, max_off_policyness=0)
    applied = [row for row in run.steps if row.step_applied]
    assert len(applied) >= 3
    assert statistics.median(row.log_ratio_max for row in applied) <= 1e-4
    assert max(row.log_ratio_mean for row in applied) <= 1e-3


def test_ctrl_c_and_the_same_command_continue_one_run(make_run):
    run = make_run("budget.max_steps=8", "checkpoint.every_steps=100").start()
    run.wait_until(lambda: run.step() >= 3, "step 3")
    run.process.send_signal(signal.SIGINT)
    assert run.wait() == 130, run.report()
    stopped_at = run.step()
    assert 3 <= stopped_at < 8
    assert read_json(run.paths.status)["state"] == "stopped"
    assert run.left_behind() == []
    hours = read_json(run.paths.status)["gpu_hours"]["total"]

    assert run.start().wait() == 0, run.report()
    assert [row.step for row in run.steps] == list(range(1, 9))
    assert len({row.step for row in run.evaluations}) == len(run.evaluations)
    assert run.steps[stopped_at].gpu_hours > hours
    assert pending_evaluations(run.paths) == []
    assert (run.paths.logs / "latest").resolve().name == "0002"


def test_a_killed_supervisor_leaves_nothing_running(make_run):
    run = make_run("budget.max_steps=1000").start()
    run.wait_until(lambda: run.step() >= 1, "step 1")
    family = run.family()
    assert len(run.left_behind()) == 4, "supervisor, trainer, generator, evaluator"
    assert sum("scalerl.verify.server" in process.cmdline() for process in family) >= 2
    run.kill()
    _, alive = psutil.wait_procs(family, timeout=15)
    assert alive == []
    assert run.left_behind() == []
