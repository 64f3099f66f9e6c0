"""Whole runs on the real engines: vLLM generators, ZeRO-3 trainer ranks, a vLLM evaluator, and the supervisor
above them."""

import json
import os
import signal
import statistics
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pandas as pd
import psutil
import pytest

from scalerl.common.files import read_json
from scalerl.fits import fit_run
from scalerl.run_folder import read_config
from scalerl.spool.best import read_test
from scalerl.spool.evaluations import pending_evaluations

TWO_EACH = ("generator.num=2", "trainer.num_ranks=2", "evaluation.num=2")


def check_finished(run, num_steps: int, max_off_policyness: int) -> None:
    """What holds for every finished run, whatever happened on the way."""
    check_rows(run, num_steps, max_off_policyness)
    assert [row.step for row in run.evaluations] == [*range(0, num_steps + 1, 2)]
    best = max(run.evaluations, key=lambda row: (row.pass_rate, -row.step))
    tested = read_test(run.paths)
    assert (tested.step, tested.heldout_pass_rate) == (best.step, best.pass_rate)
    assert (tested.num_prompts, tested.samples_per_prompt) == (16, 2)
    chosen_by, tested_on = (
        set(read_json(run.paths.evaluation(f"{tested.step:08d}{suffix}"))["prompt_ids"])
        for suffix in ("", "-test")
    )
    assert not chosen_by & tested_on
    assert f"{tested} | GPU-hours" in Path(run.output.name).read_text().splitlines()[-1]


def check_rows(run, num_steps: int, max_off_policyness: int) -> None:
    assert [row.step for row in run.steps] == list(range(1, num_steps + 1))
    hours = [row.gpu_hours for row in run.steps]
    assert hours == sorted(hours)
    keeps = read_config(run.paths).algo.zero_variance == "keep"
    for row in run.steps:
        assert row.num_groups == 8
        assert max(map(int, row.off_policyness)) <= max_off_policyness
        assert row.off_policyness_max <= max_off_policyness
        # about one step in seventy has eight groups of equal rewards each: it alone changes no weights, where
        # such groups are dropped
        assert row.step_applied == (keeps or row.zero_variance_groups < 8)
        assert sum(row.verdicts.values()) == 64
    generated = [0, *(row.generated_tokens for row in run.steps)]
    for row, (before, after) in zip(run.steps, pairwise(generated), strict=True):
        assert after - before == pytest.approx(64 * row.completion_tokens_mean)
        assert row.trained_tokens <= row.generated_tokens
    assert run.evaluations[0].generated_tokens == 0
    assert run.left_behind() == []


def test_two_of_each_role_and_every_role_killed_once(make_run):
    run = make_run(*TWO_EACH, "budget.max_steps=18", "checkpoint.every_steps=3").start()
    for step, name in ((2, "generator-1"), (5, "trainer-1"), (8, "evaluator-0"), (9, "trainer-0")):
        run.wait_until(lambda step=step: run.step() >= step, f"step {step}")
        run.wait_until(lambda name=name: run.pid(name) is not None, f"{name} to run")
        os.kill(run.pid(name), signal.SIGKILL)
    assert run.wait() == 0, run.report()
    check_finished(run, 18, max_off_policyness=8)
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


def test_parity_of_what_is_sampled_while_policies_come_and_go(make_run):
    """With learning rate 0 every policy is the same, so each token's log-probability must agree between vLLM,
    whose weights are reloaded in flight, and the trainer, up to fp32 rounding."""
    still = ("optimizer.learning_rate=0", "optimizer.weight_decay=0", "algo.zero_variance=keep")
    run = make_run("off_policy.mode=pipeline_rl", "off_policy.k=1", *still, "budget.max_steps=10").start()
    assert run.wait() == 0, run.report()
    check_finished(run, 10, max_off_policyness=1)
    assert max(row.log_ratio_max for row in run.steps) <= 1e-4
    assert max(row.off_policyness_max for row in run.steps) == 1, (
        "no token of an older policy: nothing tested"
    )


def test_parity_on_policy_while_the_weights_change(make_run, chat_base):
    """The first step of each phase of PPO-off-policy-2 trains the very policy that sampled its tokens: each
    reload must bring exactly the trainer's weights. The second step of a phase is one policy further, and its
    log-probabilities are not those of the generator."""
    run = make_run(
        "off_policy.mode=ppo_off_policy",
        "off_policy.k=2",
        "optimizer.learning_rate=1e-3",
        "budget.max_steps=10",
        model=chat_base,
    ).start()
    assert run.wait() == 0, run.report()
    check_finished(run, 10, max_off_policyness=1)
    first, second = run.steps[0::2], run.steps[1::2]
    assert {row.off_policyness_max for row in first} == {0}
    assert {row.off_policyness_max for row in second} == {1}
    assert any(row.step_applied for row in first[1:]), "on policy after the weights have changed"
    assert max(row.log_ratio_max or 0.0 for row in first) <= 1e-4
    assert max(row.log_ratio_max or 0.0 for row in second) > 1e-3
    check_loads_elsewhere(run.paths.best)


def check_loads_elsewhere(best: Path) -> None:
    """What others make of best/, chat template included, with nothing but the folder."""
    command = [sys.executable, "-I", str(Path(__file__).with_name("load_elsewhere.py")), str(best), "7*3-4?"]
    result = subprocess.run(command, cwd=best, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["prompt"]["vllm"] == found["prompt"]["transformers"]
    assert found["logprobs"]["vllm"] == pytest.approx(found["logprobs"]["transformers"], abs=1e-3)
    assert not found["scalerl"]


def test_a_mixture_of_experts_until_its_supervisor_is_killed(make_run, moe_base):
    """Parity on policy as above, with two trainer ranks; then nothing is left running.

    Two experts whose scores agree up to fp32 rounding may rank differently in the two engines, once in a long
    while, so not the largest difference of all steps counts but the median step's.
    """
    run = make_run(
        "off_policy.mode=ppo_off_policy",
        "off_policy.k=1",
        "optimizer.learning_rate=1e-3",
        "trainer.num_ranks=2",
        "budget.max_steps=1000",
        model=moe_base,
    ).start()
    run.wait_until(lambda: run.step() >= 4 and len(run.evaluations) >= 2, "step 4 and two evaluations")
    family = run.family()
    assert len(run.left_behind()) == 5, "supervisor, two trainer ranks, generator, evaluator"
    assert sum("scalerl.verify.server" in process.cmdline() for process in family) >= 2
    run.kill()
    _, alive = psutil.wait_procs(family, timeout=15)
    assert alive == []
    check_rows(run, run.step(), max_off_policyness=0)
    applied = [row for row in run.steps[:4] if row.step_applied]
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
