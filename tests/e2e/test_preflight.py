"""Preflight on the real engines: what a run does with it from the first start on."""

import json
import signal

from scalerl.common.files import read_json
from scalerl.run_folder import read_status

LARGEST_FP32_DIFFERENCE = 1e-4


def test_a_run_is_certified_once_though_its_preflight_is_killed(make_run):
    run = make_run("launch.preflight=short", "budget.max_steps=1", "batch.prompts=4").start()
    run.wait_until(lambda: run.pid("generator-0-exam") is not None, "the exams")
    run.process.send_signal(signal.SIGKILL)
    run.process.wait()
    assert not run.paths.certificate.exists()
    assert run.start().wait() == 0, run.report()
    assert run.step() == 1 and run.paths.certificate.exists() and run.left_behind() == []
    report = read_json(run.paths.preflight_report)
    assert report["verdict"] in ("pass", "warn"), report["reasons"]
    differences = report["max_logprob_difference"]
    assert len(differences) >= 4 and max(differences.values()) < LARGEST_FP32_DIFFERENCE, differences
    assert report["figures"]["samples"]["completions"] >= 64
    assert not run.paths.examined_policy.exists()
    attempt = read_status(run.paths).attempt
    assert sorted(log.name for log in run.paths.log(attempt, "").parent.glob("*-exam.log")) == [
        "generator-0-exam.log",
        "reference-exam.log",
        "trainer-0-exam.log",
    ]


def test_a_run_that_could_earn_nothing_ends_before_its_first_step(make_run):
    never = ["length.think_end=</think>", "length.interruption_text=</think>"]
    never += ["length.max_solution_tokens=16"]  # the tokenizer has a token a character
    run = make_run("launch.preflight=short", *never).start()
    assert run.wait() == 1
    assert "preflight refuses the run: none of 256 completions holds length.think_end" in run.report()
    assert run.step() == 0 and not (run.paths.spool / "0000000").exists()
    assert json.loads(run.paths.preflight_report.read_text())["verdict"] == "refuse"
