"""Statistics of an evaluation, by hand."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalerl.data.problem import Problem
from scalerl.evaluator.mean_at_k import PromptResult
from scalerl.evaluator.summary import PromptTally, pass_at_k, summarise
from scalerl.inference.completion import Completion
from scalerl.tasks.task import Verdict

REASONS = {True: "equal", False: "different", None: "no_answer"}


def completion(num_tokens, truncated=False, interrupted=False):
    return Completion(
        key=0,
        prompt_token_ids=[1],
        token_ids=[1] * num_tokens,
        logprobs=[0.0] * num_tokens,
        loss_mask=[True] * num_tokens,
        policy_versions=[0] * num_tokens,
        text="",
        truncated=truncated,
        interrupted=interrupted,
        started_s=0.0,
        finished_s=1.0,
    )


def result(prompt_id, correct, completions, task="math"):
    problem = Problem(prompt_id=prompt_id, prompt="1+1?", answer="2", task=task, source="test")
    verdicts = [Verdict(bool(right), REASONS[right]) for right in correct]
    return PromptResult(problem=problem, completions=completions, verdicts=verdicts)


def test_summary():
    results = [
        result("a", [True, True], [completion(2), completion(4)]),
        result("b", [True, False], [completion(6, interrupted=True), completion(8, truncated=True)]),
        result("c", [False, None], [completion(2), completion(2)]),
        result("d", [False, False], [completion(2), completion(6)], task="code"),
    ]
    summary = summarise([result.tally for result in results])
    # pass rates 1, .5, 0, 0: mean .375, squared deviations .390625 + .015625 + 2 * .140625 = .6875, over 3
    # and 4
    assert summary == {
        "pass_rate": 0.375,
        "standard_error": pytest.approx((0.6875 / 3 / 4) ** 0.5),
        "num_prompts": 4,
        "samples_per_prompt": 2,
        # two of four prompts have a correct one among both: squared deviations 4 * .25, over 3 and 4
        "pass_at_k": {"2": 0.5},
        "pass_at_k_standard_error": {"2": pytest.approx((1 / 3 / 4) ** 0.5)},
        "completion_tokens_mean": 4.0,
        "truncation_rate": 0.125,
        "interruption_rate": 0.125,
        "no_answer_rate": 0.125,
        "pass_rate_code": 0.0,
        "num_prompts_code": 1,
        "pass_rate_math": 0.5,
        "num_prompts_math": 3,
    }


def test_one_prompt_has_no_standard_error():
    summary = summarise([result("a", [True], [completion(2)]).tally])
    assert (summary["standard_error"], summary["pass_at_k_standard_error"]) == (None, {})


def tally(num_samples, num_correct):
    return PromptTally(
        prompt_id="a",
        task="math",
        num_samples=num_samples,
        num_correct=num_correct,
        num_tokens=1,
        num_truncated=0,
        num_interrupted=0,
        num_no_answer=0,
    )


def test_pass_at_k_by_hand():
    # of the 10 pairs of 5 samples, 3 hold none of the 2 correct ones; of the 10 triples, 1
    assert pass_at_k(5, 2, 2) == pytest.approx(0.7)
    assert pass_at_k(5, 2, 3) == pytest.approx(0.9)
    assert [pass_at_k(4, correct, 4) for correct in (0, 1, 4)] == [0, 1, 1]
    # 16 samples, 1 correct: each subset of 8 holds it with chance one half
    assert pass_at_k(16, 1, 8) == pytest.approx(0.5)
    assert pass_at_k(16, 3, 1) == pytest.approx(3 / 16)


@given(st.lists(st.booleans(), min_size=1, max_size=9), st.data())
def test_pass_at_k_counts_the_subsets_that_hold_a_correct_sample(correct, data):
    k = data.draw(st.integers(1, len(correct)))
    subsets = list(itertools.combinations(correct, k))
    assert pass_at_k(len(correct), sum(correct), k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


@given(st.integers(1, 64), st.data())
def test_pass_at_k_grows_with_k_and_begins_at_the_pass_rate(num_samples, data):
    num_correct = data.draw(st.integers(0, num_samples))
    chances = [pass_at_k(num_samples, num_correct, k) for k in range(1, num_samples + 1)]
    assert chances[0] == pytest.approx(num_correct / num_samples)
    assert chances == sorted(chances)
    assert chances[-1] == float(num_correct > 0)


@given(st.floats(0.05, 0.95), st.integers(1, 6), st.integers(0, 4))
def test_pass_at_k_is_unbiased(chance, k, more):
    """Its expectation over the number of correct ones of n samples is 1 - (1 - p)^k, for every n."""
    n = k + more
    expected = sum(
        math.comb(n, c) * chance**c * (1 - chance) ** (n - c) * pass_at_k(n, c, k) for c in range(n + 1)
    )
    assert expected == pytest.approx(1 - (1 - chance) ** k)


def test_which_k_a_summary_has():
    assert list(summarise([tally(16, 3)])["pass_at_k"]) == ["2", "4", "8", "16"]
    assert list(summarise([tally(12, 3)])["pass_at_k"]) == ["2", "4", "8", "12"]
    summary = summarise([tally(5, 2), tally(5, 0)])
    # pass@2 of the prompts .7 and 0
    assert summary["pass_at_k"] == pytest.approx({"2": 0.35, "4": 0.5, "5": 0.5})
    assert summary["pass_at_k_standard_error"]["2"] == pytest.approx(0.35)
