"""Which completions of the generator's exam the other paths score, and how far."""

import math

from scalerl.data.problem import make_problem
from scalerl.evaluator.mean_at_k import PromptResult
from scalerl.exams.samples import scored_completions
from scalerl.inference.completion import Completion


def completion(num_tokens: int) -> Completion:
    """Return a completion whose second token was forced."""
    return Completion(
        key=0,
        prompt_token_ids=[7, 8, 9],
        token_ids=list(range(num_tokens)),
        logprobs=[-1.0] * num_tokens,
        loss_mask=[index != 1 for index in range(num_tokens)],
        policy_versions=[0] * num_tokens,
        text="",
        truncated=False,
        interrupted=True,
        started_s=0.0,
        finished_s=0.0,
    )


def test_completions_of_every_length_are_scored_up_to_a_limit():
    problem = make_problem("1+1?", ["2"], source="test")
    results = [PromptResult(problem=problem, completions=[completion(size) for size in (9, 2, 5, 3, 7)])]
    scored = scored_completions(results, 3, max_tokens=8)
    assert [row.sequence.rpartition("-")[2] for row in scored] == ["1", "2", "0"]
    assert [len(row.token_ids) for row in scored] == [5, 8, 8]
    for row in scored:
        assert row.scored_from == 3 and len(row.logprobs) == len(row.token_ids) - 3
        assert math.isnan(row.logprobs[1]) and row.logprobs[0] == -1.0
