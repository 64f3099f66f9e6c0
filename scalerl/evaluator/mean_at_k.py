"""Sample k completions of every prompt by the policy served now, and grade them."""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from scalerl.data.problem import Problem
from scalerl.evaluator.summary import PromptTally
from scalerl.inference.completion import Completion, CompletionSampler
from scalerl.inference.prompts import PromptEncoder
from scalerl.tasks.task import Verdict
from scalerl.verify.pool import VerifierPool


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
            num_no_answer=sum(verdict.reason == "no_answer" for verdict in self.verdicts),
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
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[PromptResult] | None:
    """Return one PromptResult a problem, in order, or None if `stop_requested` turned true before the end.

    sampler: its keys are the numbers of the problems.
    max_num_seqs: completions to keep in the engine at once.
    progress: takes how many completions of how many are done, after every engine step.
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
        progress(len(grading), len(problems) * samples_per_prompt)
    results = [PromptResult(problem=problem) for problem in problems]
    for completion, verdict in grading:
        results[completion.key].completions.append(completion)
        results[completion.key].verdicts.append(verdict.result())
    return results


def policy_versions(results: Sequence[PromptResult]) -> set[int]:
    """Return the policy versions that any token of the completions was sampled with."""
    completions = [completion for result in results for completion in result.completions]
    return {version for completion in completions for version in completion.policy_versions}
