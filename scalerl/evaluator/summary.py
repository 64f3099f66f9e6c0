"""The statistics of an evaluation: mean@k and pass@k, with standard errors over prompts."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class PromptTally:
    """What the statistics of an evaluation need to know of one prompt: sums over its completions."""

    prompt_id: str
    task: str
    num_samples: int
    """Completions sampled."""
    num_correct: int
    num_tokens: int
    """Completion tokens, of all samples together."""
    num_truncated: int
    """Completions that ran out of tokens."""
    num_interrupted: int
    """Completions whose thinking was cut short by force."""
    num_no_answer: int
    """Completions without a final answer."""

    @property
    def pass_rate(self) -> float:
        """Return the share of correct completions."""
        return self.num_correct / self.num_samples


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Return the unbiased estimate of the chance that at least one of k samples of a prompt is correct.

    It is the share of all subsets of k of the `num_samples` that hold a correct one (Chen et al. 2021, arXiv
    2107.03374): 1 - C(n - c, k) / C(n, k).
    """
    assert 1 <= k <= num_samples and 0 <= num_correct <= num_samples, (num_samples, num_correct, k)
    return 1 - math.comb(num_samples - num_correct, k) / math.comb(num_samples, k)


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean and its standard error; None for a single value."""
    mean = statistics.fmean(values)
    return mean, statistics.stdev(values, mean) / len(values) ** 0.5 if len(values) > 1 else None


def summarise(tallies: Sequence[PromptTally]) -> dict[str, Any]:
    """Return the statistics of an evaluation: the fields of `metrics.rows.EvalRow` that describe its samples.

    pass_rate is mean@k with k = samples_per_prompt; pass_at_k is of 2, 4, 8, ... and of all samples. Standard
    errors are those of a mean over prompts; there is none of a single prompt. pass_rate_<task>,
    num_prompts_<task> come for each task.
    """
    # Over prompts, not over completions: those of one prompt share its difficulty and are not independent.
    pass_rate, standard_error = mean_and_error([tally.pass_rate for tally in tallies])
    num_samples = sum(tally.num_samples for tally in tallies)
    summary = {
        "pass_rate": pass_rate,
        "standard_error": standard_error,
        "num_prompts": len(tallies),
        "samples_per_prompt": tallies[0].num_samples,
        **_pass_at_k(tallies),
        "completion_tokens_mean": sum(tally.num_tokens for tally in tallies) / num_samples,
        "truncation_rate": sum(tally.num_truncated for tally in tallies) / num_samples,
        "interruption_rate": sum(tally.num_interrupted for tally in tallies) / num_samples,
        "no_answer_rate": sum(tally.num_no_answer for tally in tallies) / num_samples,
    }
    for task in sorted({tally.task for tally in tallies}):
        of_task = [tally.pass_rate for tally in tallies if tally.task == task]
        summary |= {f"pass_rate_{task}": statistics.fmean(of_task), f"num_prompts_{task}": len(of_task)}
    return summary


def _pass_at_k(tallies: Sequence[PromptTally]) -> dict[str, dict[str, float]]:
    num_samples = tallies[0].num_samples
    powers = [2**power for power in range(1, num_samples.bit_length()) if 2**power < num_samples]
    found = {
        str(k): mean_and_error([pass_at_k(num_samples, tally.num_correct, k) for tally in tallies])
        for k in [*powers, num_samples]
    }
    return {
        "pass_at_k": {k: mean for k, (mean, _) in found.items()},
        "pass_at_k_standard_error": {k: error for k, (_, error) in found.items() if error is not None},
    }
