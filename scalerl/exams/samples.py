"""What the samples of the generator's exam say of a run, and those of them that the other paths score."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from scalerl.config import RunConfig
from scalerl.evaluator.mean_at_k import PromptResult
from scalerl.inference.completion import Completion
from scalerl.preflight.exam import ScoredSequence

NUM_EXAMPLES = 3
MAX_EXAMPLE_CHARACTERS = 600


def scored_completions(results: Sequence[PromptResult], number: int, max_tokens: int) -> list[ScoredSequence]:
    """Return `number` of the completions, from the shortest to the longest at even distances.

    max_tokens: where a sequence is cut, prompt included.
    """
    named = [
        (f"{result.problem.prompt_id}-{index}", completion)
        for result in results
        for index, completion in enumerate(result.completions)
    ]
    named.sort(key=lambda pair: len(pair[1].token_ids))
    chosen = np.unique(np.linspace(0, len(named) - 1, number).round().astype(int))
    return [_scored(name, completion, max_tokens) for name, completion in (named[index] for index in chosen)]


def _scored(name: str, completion: Completion, max_tokens: int) -> ScoredSequence:
    num_prompt = len(completion.prompt_token_ids)
    num_scored = max(1, max_tokens - num_prompt)
    logprobs = list(zip(completion.logprobs, completion.loss_mask, strict=True))[:num_scored]
    return ScoredSequence(
        sequence=name,
        token_ids=[*completion.prompt_token_ids, *completion.token_ids[:num_scored]],
        scored_from=num_prompt,
        logprobs=[logprob if sampled else float("nan") for logprob, sampled in logprobs],
    )


def sample_figures(results: Sequence[PromptResult], config: RunConfig, sampling_s: float) -> dict[str, Any]:
    """Return the figures of all completions; shares are of completions, lengths in tokens."""
    completions = [completion for result in results for completion in result.completions]
    num_tokens = np.array([len(completion.token_ids) for completion in completions])
    reasons = Counter(verdict.reason for result in results for verdict in result.verdicts)
    think_end = config.length.think_end
    own_end = [think_end in completion.text and not completion.interrupted for completion in completions]
    return {
        "num_completions": len(completions),
        "samples_per_prompt": len(results[0].completions),
        "num_correct": [result.tally.num_correct for result in results],
        "num_distinct": [len({completion.text for completion in result.completions}) for result in results],
        "verdicts": dict(reasons.most_common()),
        "truncated": float(np.mean([completion.truncated for completion in completions])),
        "interrupted": float(np.mean([completion.interrupted for completion in completions])),
        "think_end_seen": float(np.mean(own_end)) if think_end else None,
        "completion_tokens_mean": float(num_tokens.mean()),
        "completion_tokens_p90": float(np.quantile(num_tokens, 0.9)),
        "completion_tokens_max": int(num_tokens.max()),
        "prompt_tokens_mean": float(
            np.mean([len(completion.prompt_token_ids) for completion in completions])
        ),
        "sampling_s": sampling_s,
        "tokens_per_s": float(num_tokens.sum() / sampling_s),
        "examples": [_example(result) for result in results[:NUM_EXAMPLES]],
    }


def _example(result: PromptResult) -> dict[str, str]:
    return {
        "problem": result.problem.prompt[:MAX_EXAMPLE_CHARACTERS],
        "response": result.completions[0].text[:MAX_EXAMPLE_CHARACTERS],
        "answer": result.problem.answer[:MAX_EXAMPLE_CHARACTERS],
        "verdict": result.verdicts[0].reason,
    }
