"""mean@k: k completions of every prompt by the policy served now, graded, and their statistics."""

import statistics
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from scalerl.data.problem import Problem
from scalerl.inference.completion import Completion, CompletionSampler
from scalerl.inference.prompts import PromptEncoder
from scalerl.verify.answers import Verdict
from scalerl.verify.pool import VerifierPool


@dataclass(kw_only=True)
class PromptResult:
    """k completions of one problem and the verdicts on them, in the same order."""

    problem: Problem
    completions: list[Completion] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)

    @property
    def num_correct(self) -> int:
        return sum(verdict.correct for verdict in self.verdicts)

    @property
    def pass_rate(self) -> float:
        return self.num_correct / len(self.verdicts)


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
    """One PromptResult a problem, in order; None if `stop_requested` turned true before the end.

    max_num_seqs: completions to keep in the engine at once.
    """
    results = [PromptResult(problem=problem) for problem in problems]
    waiting = deque(range(len(problems)))
    grading: list[tuple[int, Completion, Future[Verdict]]] = []
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
            verdict = pool.submit(completion.text, problem.answer, problem.task)
            grading.append((completion.key, completion, verdict))
    for number, completion, verdict in grading:
        results[number].completions.append(completion)
        results[number].verdicts.append(verdict.result())
    return results


def summarise(results: Sequence[PromptResult]) -> dict[str, Any]:
    """The statistics of an evaluation.

    standard_error is over prompts, of the mean of their pass rates; None for a single prompt. With several tasks there is also
    one `pass_rate_<task>` each.
    """
    rates = [result.pass_rate for result in results]
    completions = [completion for result in results for completion in result.completions]
    summary = {
        "pass_rate": statistics.fmean(rates),
        "standard_error": statistics.stdev(rates) / len(rates) ** 0.5 if len(rates) > 1 else None,
        "num_prompts": len(results),
        "samples_per_prompt": len(results[0].completions),
        "completion_tokens_mean": statistics.fmean(len(completion.token_ids) for completion in completions),
        "truncation_rate": statistics.fmean(completion.truncated for completion in completions),
        "interruption_rate": statistics.fmean(completion.interrupted for completion in completions),
    }
    tasks = sorted({result.problem.task for result in results})
    if len(tasks) > 1:
        for task in tasks:
            summary[f"pass_rate_{task}"] = statistics.fmean(result.pass_rate for result in results if result.problem.task == task)
    return summary
