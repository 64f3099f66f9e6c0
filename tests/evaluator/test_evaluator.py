"""The evaluator on a real engine: requests, results, rows, and what a crash leaves behind."""

import os
import signal
import threading
import time

import pytest

from scalerl.common.files import read_json
from scalerl.evaluator import finish, loop
from scalerl.evaluator.loop import Evaluator, run_evaluator
from scalerl.evaluator.parts import Parts
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
    with open_engine(engine_folder) as engine:
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
        assert row == {key: value for key, value in result.items() if key not in finish.NOT_IN_ROW}
        assert row["policy_version"] == request.step
        totals = ("generated_tokens", "trained_tokens", "flops")
        assert [row[name] for name in totals] == [getattr(request, name) for name in totals]
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


def test_from_the_first_request_to_sigterm(make_run, engine, monkeypatch):
    """A whole evaluator here, with the engine that is open; the end-to-end tests run it as a process."""
    trainer = make_run(**SETTINGS)
    trainer.publish(0, range(0, 4))
    trainer.publish_weights(5)
    closed = []

    def serve(folder, policy_version, options):
        engine.reload(folder, policy_version)
        return engine

    def ask_twice_and_end():
        for step in (0, 5):
            trainer.request(step)
            end_s = time.monotonic() + 120
            while pending_evaluations(trainer.paths):
                assert time.monotonic() < end_s
                time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop, "SamplingEngine", serve)
    monkeypatch.setattr(engine, "shutdown", lambda: closed.append(engine))
    asking = threading.Thread(target=ask_twice_and_end, daemon=True)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        asking.start()
        run_evaluator(trainer.paths.root, index=0, attempt=1)
    finally:
        signal.signal(signal.SIGTERM, handler)
    asking.join()
    assert closed == [engine]
    results = [read_json(trainer.paths.evaluations / f"{step:08d}.json") for step in (0, 5)]
    assert [result["policy_version"] for result in results] == [0, 5]
