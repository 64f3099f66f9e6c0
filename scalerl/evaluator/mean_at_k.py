"""Measure mean@k: k completions of every prompt by the policy served now, graded, and their statistics."""

import statistics
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from scalerl.data.problem import Problem
from scalerl.inference.completion import Completion, CompletionSampler
from scalerl.inference.prompts import PromptEncoder
from scalerl.tasks.task import Verdict
from scalerl.verify.pool import VerifierPool


@dataclass(frozen=True, kw_only=True)
class PromptTally:
    """What the statistics of an evaluation need to know of one prompt: sums over its completions."""

    prompt_id: str
    task: str
    num_samples: int
    """Completions sampled: k."""
    num_correct: int
    num_tokens: int
    """Completion tokens, of all k together."""
    num_truncated: int
    """Completions that ran out of tokens."""
    num_interrupted: int
    """Completions whose thinking was cut short by force."""

    @property
    def pass_rate(self) -> float:
        """Return the share of correct completions."""
        return self.num_correct / self.num_samples


@dataclass(kw_only=True)
class PromptResult:
    """k completions of one problem and the verdicts on them, in the same order."""

    problem: Problem
    completions: list[Completion] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)

    @property
    def tally(self) -> PromptTally:
        """Return the sums over the completions."""
        return PromptTally(
            prompt_id=self.problem.prompt_id,
            task=self.problem.task,
            num_samples=len(self.completions),
            num_correct=sum(verdict.correct for verdict in self.verdicts),
            num_tokens=sum(len(completion.token_ids) for completion in self.completions),
            num_truncated=sum(completion.truncated for completion in self.completions),
            num_interrupted=sum(completion.interrupted for completion in self.completions),
        )


def sample_and_grade(
    problems: Sequence[Problem],
    samples_per_prompt: int,
    *,
    sampler: CompletionSampler,
    prompts: PromptEncoder,
    pool: VerifierPool,
    max_num_seqs: int,
    stop_requested: Callable[[], bool] = lambda: False,
) -> list[PromptResult] | None:
    """Return one PromptResult a problem, in order, or None if `stop_requested` turned true before the end.

    sampler: its keys are the numbers of the problems.
    max_num_seqs: completions to keep in the engine at once.
    """
    waiting = deque(range(len(problems)))
    grading: list[tuple[Completion, Future[Verdict]]] = []
    # The engine is kept full over the borders of prompts: waiting for a prompt's slowest completion would
    # leave it idle. Verdicts are awaited only at the end, so that grading runs beside sampling.
    while waiting or sampler.num_running:
        if stop_requested():
            return None
        while waiting and sampler.num_running < max_num_seqs:
            number = waiting.popleft()
            problem = problems[number]
            token_ids = prompts.encode(problem.prompt_id, problem.prompt, problem.task)
            for _ in range(samples_per_prompt):
                sampler.submit(number, token_ids)
        for completion in sampler.step():
            problem = problems[completion.key]
            grading.append((completion, pool.submit(completion.text, problem.answer, problem.task)))
    results = [PromptResult(problem=problem) for problem in problems]
    for completion, verdict in grading:
        results[completion.key].completions.append(completion)
        results[completion.key].verdicts.append(verdict.result())
    return results


def policy_versions(results: Sequence[PromptResult]) -> set[int]:
    """Return the policy versions that any token of the completions was sampled with."""
    completions = [completion for result in results for completion in result.completions]
    return {version for completion in completions for version in completion.policy_versions}


def summarise(tallies: Sequence[PromptTally]) -> dict[str, Any]:
    """Return the statistics of an evaluation: the fields of `metrics.rows.EvalRow` that describe its samples.

    standard_error is that of the mean of the prompts' pass rates, over prompts; None for a single prompt.
    pass_rate_<task>, num_prompts_<task> come for each task.
    """
    # Over prompts, not over completions: those of one prompt share its difficulty and are not independent.
    rates = [tally.pass_rate for tally in tallies]
    num_samples = sum(tally.num_samples for tally in tallies)
    summary = {
        "pass_rate": statistics.fmean(rates),
        "standard_error": statistics.stdev(rates) / len(rates) ** 0.5 if len(rates) > 1 else None,
        "num_prompts": len(tallies),
        "samples_per_prompt": tallies[0].num_samples,
        "completion_tokens_mean": sum(tally.num_tokens for tally in tallies) / num_samples,
        "truncation_rate": sum(tally.num_truncated for tally in tallies) / num_samples,
        "interruption_rate": sum(tally.num_interrupted for tally in tallies) / num_samples,
    }
    for task in sorted({tally.task for tally in tallies}):
        of_task = [tally.pass_rate for tally in tallies if tally.task == task]
        summary |= {f"pass_rate_{task}": statistics.fmean(of_task), f"num_prompts_{task}": len(of_task)}
    return summary
