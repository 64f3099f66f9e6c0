"""Statistics of an evaluation, by hand."""

import pytest

from scalerl.data.problem import Problem
from scalerl.evaluator.mean_at_k import PromptResult, summarise
from scalerl.inference.completion import Completion
from scalerl.tasks.task import Verdict


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
    verdicts = [Verdict(right, "equal" if right else "different") for right in correct]
    return PromptResult(problem=problem, completions=completions, verdicts=verdicts)


def test_summary():
    results = [
        result("a", [True, True], [completion(2), completion(4)]),
        result("b", [True, False], [completion(6, interrupted=True), completion(8, truncated=True)]),
        result("c", [False, False], [completion(2), completion(2)]),
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
        "completion_tokens_mean": 4.0,
        "truncation_rate": 0.125,
        "interruption_rate": 0.125,
        "pass_rate_code": 0.0,
        "num_prompts_code": 1,
        "pass_rate_math": 0.5,
        "num_prompts_math": 3,
    }


def test_one_prompt_has_no_standard_error():
    assert summarise([result("a", [True], [completion(2)]).tally])["standard_error"] is None
