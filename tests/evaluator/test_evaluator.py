"""The evaluator on a real engine: requests, results, rows, and what a crash leaves behind."""

import json
import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest

from scalerl.evaluator import evaluate_model, finish, loop
from scalerl.evaluator.loop import Evaluator
from scalerl.evaluator.parts import Parts
from scalerl.files import read_json
from scalerl.spool.evaluations import pending_evaluations

SETTINGS = {"evaluation.num_prompts": 5, "evaluation.samples_per_prompt": 4}


class Stop:
    requested = False


@pytest.fixture(scope="module")
def engine_folder(tmp_path_factory, write_policy):
    folder = tmp_path_factory.mktemp("policy") / "00000000-000000000000"
    write_policy(folder, seed=0)
    return folder


@pytest.fixture(scope="module")
def engine(open_engine, engine_folder):
    with open_engine(engine_folder, max_tokens=64, max_num_seqs=16) as engine:
        yield engine


@pytest.fixture
def make_evaluator(engine):
    opened = []

    def make(trainer, index=0):
        parts = Parts(trainer.paths, index=index, num=trainer.config.evaluation.num, attempt=1)
        opened.append(Evaluator(trainer.config, parts, engine, seed=0, stop=Stop()))
        return opened[-1]

    yield make
    for evaluator in opened:
        evaluator.close()


def test_requests_are_answered_in_order(make_run, make_evaluator):
    trainer = make_run(**SETTINGS)
    evaluator = make_evaluator(trainer)
    second, first = trainer.request(30), trainer.request(10)
    evaluator.advance()
    assert [request.step for request in pending_evaluations(trainer.paths)] == [30]
    evaluator.advance()
    assert pending_evaluations(trainer.paths) == []
    evaluator.advance()  # idle
    for request in (first, second):
        result = read_json(trainer.paths.evaluations / f"{request.step:08d}.json")
        assert result["name"] == request.name
        assert result["prompt_ids"] == [problem.prompt_id for problem in trainer.problems[:5]]
        assert all(0 <= correct <= 4 for correct in result["num_correct"])
        assert result["pass_rate"] == pytest.approx(sum(result["num_correct"]) / 20)
        row = read_json(trainer.paths.inbox / f"eval-{request.step:08d}-1.json")
        assert row.pop("kind") == "eval"
        assert row.pop("time_s") == request.published_s
        assert row.pop("attempt") == 1
        assert row == {
            key: value for key, value in result.items() if key not in ("name", "prompt_ids", "num_correct")
        }
        assert (row["policy_version"], row["tokens"], row["flops"]) == (
            request.step,
            request.tokens,
            request.flops,
        )
        assert (row["num_prompts"], row["samples_per_prompt"]) == (5, 4)
    assert (trainer.paths.best / "model.safetensors").exists()
    assert (trainer.paths.best / "tokenizer.json").exists()
    assert len(list(trainer.paths.evaluations.iterdir())) == 2, "no part stays"


@pytest.mark.parametrize("crash_at", ["post_row", "keep_if_best", "answer_evaluation"])
def test_a_crash_loses_nothing_and_repeats_no_sampling(make_run, make_evaluator, monkeypatch, crash_at):
    trainer = make_run(**SETTINGS)
    request = trainer.request(3)

    def crash(*arguments):
        raise KeyboardInterrupt

    evaluator = make_evaluator(trainer)
    with monkeypatch.context() as patch:
        patch.setattr(finish, crash_at, crash)
        with pytest.raises(KeyboardInterrupt):
            evaluator.advance()
    assert [pending.name for pending in pending_evaluations(trainer.paths)] == [request.name]
    (tally,) = [read_json(path)["tallies"] for path in trainer.paths.evaluations.glob("*.part-0-of-1.json")]
    measured = [prompt["num_correct"] for prompt in tally]

    monkeypatch.setattr(loop, "sample_and_grade", crash)
    make_evaluator(trainer).advance()
    assert pending_evaluations(trainer.paths) == []
    result = read_json(trainer.paths.evaluations / "00000003.json")
    assert result["num_correct"] == measured
    assert result["pass_rate"] == pytest.approx(sum(measured) / 20)
    assert read_json(trainer.paths.inbox / "eval-00000003-1.json")["pass_rate"] == result["pass_rate"]
    assert read_json(trainer.paths.best / "evaluation.json") == result


def test_two_evaluators_share_the_prompts(make_run, make_evaluator):
    trainer = make_run(**SETTINGS, **{"evaluation.num": 2})
    request = trainer.request(3)
    first, second = make_evaluator(trainer, 0), make_evaluator(trainer, 1)
    first.advance()
    first.advance()  # its part is done, the other's is not
    assert pending_evaluations(trainer.paths) == [request]
    second.advance()
    first.advance()
    assert pending_evaluations(trainer.paths) == []
    result = read_json(trainer.paths.evaluations / "00000003.json")
    assert result["prompt_ids"] == ["p0", "p1", "p2", "p3", "p4"]
    assert (result["num_prompts"], result["samples_per_prompt"]) == (5, 4)
    assert [path.name for path in trainer.paths.evaluations.iterdir()] == ["00000003.json"]


def test_asked_to_stop_it_leaves_the_request_open(make_run, make_evaluator, monkeypatch):
    trainer = make_run(**SETTINGS)
    trainer.request(3)
    evaluator = make_evaluator(trainer)
    monkeypatch.setattr(Stop, "requested", True)
    evaluator.advance()
    assert len(pending_evaluations(trainer.paths)) == 1
    assert not list(trainer.paths.inbox.iterdir())


@pytest.mark.engine
def test_as_a_process(make_run):
    trainer = make_run(**SETTINGS)
    trainer.publish(0, range(0, 4))
    trainer.request(0)
    start = "from pathlib import Path; import sys; from scalerl.evaluator import run_evaluator; "
    start += "run_evaluator(Path(sys.argv[1]), index=0, attempt=1)"
    log = (trainer.paths.logs / "evaluator.log").open("w")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", start, str(trainer.paths.root)], env=environment, stdout=log, stderr=log
    )
    try:
        for request in (None, trainer.request(5)):
            end_s = time.monotonic() + 120
            while pending_evaluations(trainer.paths):
                assert process.poll() is None, (trainer.paths.logs / "evaluator.log").read_text()
                assert time.monotonic() < end_s
                time.sleep(0.05)
            assert request is None or (trainer.paths.evaluations / "00000005.json").exists()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.engine
@pytest.mark.parametrize("suffix", [".parquet", ".json"])
def test_evaluate_a_model_outside_a_run(make_run, tmp_path, suffix):
    trainer = make_run()
    output = tmp_path / f"answers{suffix}"
    summary = evaluate_model(
        tmp_path / "base", trainer.paths.root / "train.parquet", output, trainer.config, 3
    )
    rows = pd.read_parquet(output) if suffix == ".parquet" else pd.DataFrame(json.loads(output.read_text()))
    assert list(rows["prompt_id"]) == [problem.prompt_id for problem in trainer.problems]
    assert all(
        len(row) == 3 for name in ("responses", "correct", "verdicts", "num_tokens") for row in rows[name]
    )
    assert rows["pass_rate"].mean() == pytest.approx(summary["pass_rate"])
    assert (summary["num_prompts"], summary["samples_per_prompt"]) == (7, 3)


def test_an_output_of_unknown_format_is_refused_before_anything_starts(make_run, tmp_path):
    trainer = make_run()
    with pytest.raises(ValueError, match=r"must end with one of \.parquet, \.json"):
        evaluate_model(
            tmp_path / "base", trainer.paths.root / "train.parquet", tmp_path / "a.csv", trainer.config, 3
        )
