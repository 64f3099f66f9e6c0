"""Parts of an evaluation: put together as one evaluator would have it, kept over a death, by hand."""

from dataclasses import asdict

import pytest
from factories import make_request

from scalerl.common.files import read_json, write_json
from scalerl.evaluator import finish
from scalerl.evaluator.finish import evaluation_result, finish_oldest
from scalerl.evaluator.parts import Part, Parts, interleave
from scalerl.evaluator.summary import PromptTally, summarise
from scalerl.fence import StaleAttempt, claim_attempt, release_attempt
from scalerl.spool.best import read_test, request_test
from scalerl.spool.evaluations import EvaluationRequest, pending_evaluations, request_evaluation

# of four completions each: pass rates 1, .5, 0, .25, .75
CORRECT = [4, 2, 0, 1, 3]
TALLIES = [
    PromptTally(
        prompt_id=f"p{number}",
        task="code" if number == 3 else "math",
        num_samples=4,
        num_correct=correct,
        num_tokens=10 * (number + 1),
        num_truncated=int(number == 2),
        num_interrupted=2 * int(number == 4),
        num_no_answer=int(number == 0),
    )
    for number, correct in enumerate(CORRECT)
]


@pytest.fixture(autouse=True)
def _claimed(run_folder, paths) -> None:
    assert claim_attempt(paths) == 1
    paths.config.write_text("{}")


def ask(paths, step, name="policy") -> EvaluationRequest:
    """Ask for an evaluation of weights that exist."""
    folder = paths.weights / f"{step:08d}-{name}"
    folder.mkdir()
    (folder / "model.safetensors").write_text(name)
    request = make_request(step, name=folder.name)
    request_evaluation(paths, request)
    return request


def evaluators(paths, num, attempt=1) -> list[Parts]:
    return [Parts(paths, index=index, num=num, attempt=attempt) for index in range(num)]


def do_part(parts: Parts, request: EvaluationRequest, evaluation_s: float = 1.0) -> None:
    parts.write(request, TALLIES[parts.index :: parts.num], evaluation_s)


def names(paths) -> list[str]:
    return sorted(path.name for path in paths.evaluations.iterdir())


@pytest.mark.parametrize("num", [1, 2, 3, 5])
def test_parts_make_what_one_evaluator_would_have_found(paths, num):
    request = ask(paths, 20)
    for parts in reversed(evaluators(paths, num)):
        assert parts.next_request() == request
        do_part(parts, request, evaluation_s=10.0 + parts.index)
        assert parts.next_request() is None
    finish_oldest(Parts(paths, index=0, num=num, attempt=1))
    result = read_json(paths.evaluations / "00000020.json")
    assert result == {
        "step": 20,
        "policy_version": 20,
        **summarise(TALLIES),
        "epoch": 0.5,
        "generated_tokens": 9,
        "trained_tokens": 7,
        "flops": 8.0,
        "evaluation_s": 10.0 + num - 1,
        "name": request.name,
        "sha256": "",
        "test_set": "",
        "prompt_ids": ["p0", "p1", "p2", "p3", "p4"],
        "num_correct": CORRECT,
    }
    # 10 of 20; 150 tokens; the deviations .5, 0, .5, .25, .25 from .5 have .625 as their sum of squares
    assert (result["pass_rate"], result["completion_tokens_mean"]) == (0.5, 7.5)
    assert result["standard_error"] == pytest.approx((0.625 / 4 / 5) ** 0.5)
    assert [result[f"{name}_rate"] for name in ("truncation", "interruption", "no_answer")] == [
        0.05,
        0.1,
        0.05,
    ]
    assert (result["pass_rate_math"], result["pass_rate_code"]) == (pytest.approx(9 / 16), 0.25)
    row = read_json(next(paths.inbox.iterdir()))
    assert (row["kind"], row["time_s"], row["attempt"], row["evaluation_s"]) == (
        "eval",
        100.0,
        1,
        result["evaluation_s"],
    )
    assert not {"name", "sha256", "test_set", "prompt_ids", "num_correct"} & row.keys()
    assert (read_json(paths.best / "evaluation.json"), names(paths)) == (result, ["00000020.json"])


def test_the_test_of_the_best_policy_has_a_record_and_no_row(paths, capsys):
    request = ask(paths, 20)
    first, second = evaluators(paths, 2)
    for parts in (first, second):
        do_part(parts, request)
    finish_oldest(first)
    for file in paths.inbox.iterdir():
        file.unlink()
    request_test(paths, "test.parquet")
    (request,) = pending_evaluations(paths)
    assert (first.next_request(), second.next_request()) == (request, request)
    do_part(first, request)
    finish_oldest(first)
    assert read_test(paths) is None
    do_part(second, request)
    finish_oldest(first)
    assert capsys.readouterr().out.splitlines()[1:] == [
        "evaluator-0: the test of step 20 waits for the parts of evaluator-1",
        "evaluator-0: the test of step 20, pass rate 0.5000",
    ]
    assert list(paths.inbox.iterdir()) == [], "the curve is of held-out prompts alone"
    tested = read_test(paths)
    assert (tested.step, tested.pass_rate, tested.num_prompts) == (20, 0.5, 5)
    assert tested.test_set == "test.parquet"
    # two of four samples: the prompts' chances of one correct are 1, 5/6, 0, 1/2, 1
    assert tested.extra["pass_at_k"] == {"2": pytest.approx(2 / 3), "4": 0.8}
    assert names(paths) == ["00000020-test.json", "00000020.json"]
    assert pending_evaluations(paths) == []


def test_while_a_part_is_missing_the_evaluation_waits_and_says_for_whom(paths, capsys):
    request = ask(paths, 20)
    first, second, third = evaluators(paths, 3)
    do_part(first, request)
    do_part(third, request)
    finish_oldest(first)
    finish_oldest(first)
    assert capsys.readouterr().out == "evaluator-0: step 20 waits for the parts of evaluator-1\n"
    assert pending_evaluations(paths) == [request]
    do_part(second, request)
    finish_oldest(third)
    assert pending_evaluations(paths) == [request], "evaluator 0 answers, nobody else"
    finish_oldest(first)
    assert pending_evaluations(paths) == []


def test_evaluations_are_answered_oldest_first(paths):
    late, early = ask(paths, 40), ask(paths, 20)
    first, second = evaluators(paths, 2)
    assert first.next_request() == early
    for parts in (first, second):
        do_part(parts, late)
    finish_oldest(first)
    assert (pending_evaluations(paths), first.next_request()) == ([early, late], early)
    for parts in (first, second):
        do_part(parts, early)
    finish_oldest(first)
    assert (pending_evaluations(paths), first.next_request()) == ([late], None)
    finish_oldest(first)
    assert names(paths) == ["00000020.json", "00000040.json"]


def test_a_later_attempt_goes_on_with_the_parts_that_are_there(paths):
    request = ask(paths, 20)
    first, second = evaluators(paths, 2)
    do_part(second, request, evaluation_s=33.0)
    release_attempt(paths, 1)
    assert claim_attempt(paths) == 2
    with pytest.raises(StaleAttempt):
        do_part(first, request)
    first, second = evaluators(paths, 2, attempt=2)
    assert (first.next_request(), second.next_request()) == (request, None)
    do_part(first, request)
    finish_oldest(first)
    assert read_json(paths.evaluations / "00000020.json")["evaluation_s"] == 33.0
    assert read_json(next(paths.inbox.iterdir()))["attempt"] == 2


def test_the_part_of_other_weights_does_not_count(paths):
    lost = ask(paths, 20, "lost")
    first, second = evaluators(paths, 2)
    for parts in (first, second):
        do_part(parts, lost)
    replayed = ask(paths, 20, "replayed")  # before anyone answered
    assert first.next_request() == second.next_request() == replayed
    do_part(second, replayed, evaluation_s=5.0)
    finish_oldest(first)
    assert pending_evaluations(paths) == [replayed]
    do_part(first, replayed)
    finish_oldest(first)
    result = read_json(paths.evaluations / "00000020.json")
    assert (result["name"], result["evaluation_s"]) == (replayed.name, 5.0)


def test_with_another_number_of_evaluators_an_evaluation_begins_anew(paths):
    request = ask(paths, 20)
    do_part(Parts(paths, index=0, num=2, attempt=1), request)
    three = evaluators(paths, 3)
    assert [parts.next_request() for parts in three] == [request] * 3
    for parts in three:
        do_part(parts, request)
    finish_oldest(three[0])
    assert read_json(paths.evaluations / "00000020.json")["num_correct"] == CORRECT
    assert names(paths) == ["00000020.json"]


def test_an_answer_between_two_looks_gives_no_work(paths, monkeypatch):
    """The request is listed, then evaluator 0 answers it and deletes the parts."""
    request = ask(paths, 20)
    first, second = evaluators(paths, 2)
    for parts in (first, second):
        do_part(parts, request)
    read = Parts._read

    def answered_meanwhile(self, request, index):
        monkeypatch.undo()
        finish_oldest(first)
        return read(self, request, index)

    monkeypatch.setattr(Parts, "_read", answered_meanwhile)
    assert second.next_request() is None
    assert names(paths) == ["00000020.json"]


def test_an_answer_cut_short_is_given_again_from_the_parts(paths, monkeypatch):
    request = ask(paths, 20)
    first, second = evaluators(paths, 2)
    for parts in (first, second):
        do_part(parts, request)

    def crash(*arguments):
        raise KeyboardInterrupt

    for step in ("post_row", "keep_if_best", "answer_evaluation"):
        monkeypatch.setattr(finish, step, crash)
        with pytest.raises(KeyboardInterrupt):
            finish_oldest(first)
        monkeypatch.undo()
        assert second.next_request() is None, "nothing is sampled again"
    finish_oldest(first)
    result = read_json(paths.evaluations / "00000020.json")
    assert result == evaluation_result(request, [Part(name=request.name, evaluation_s=1.0, tallies=TALLIES)])
    assert len(list(paths.inbox.iterdir())) == 1


def test_a_share_that_does_not_fit_the_others_is_an_error(paths):
    parts = [
        Part(name="x", evaluation_s=1.0, tallies=TALLIES[:1]),
        Part(name="x", evaluation_s=1.0, tallies=TALLIES[:3]),
    ]
    with pytest.raises(KeyError):
        interleave([part.tallies for part in parts])


def test_a_part_survives_its_file(paths):
    request = ask(paths, 20)
    (parts,) = evaluators(paths, 1)
    do_part(parts, request, 2.5)
    path = paths.evaluations / "00000020.part-0-of-1.json"
    assert read_json(path) == {
        "name": request.name,
        "evaluation_s": 2.5,
        "tallies": [asdict(tally) for tally in TALLIES],
    }
    assert parts.collect(request) == [Part(name=request.name, evaluation_s=2.5, tallies=TALLIES)]
    write_json(path, read_json(path) | {"name": "another"})
    assert parts.collect(request) is None
