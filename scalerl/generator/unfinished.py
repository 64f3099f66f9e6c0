"""One prompt group on its way: completions come in, are graded beside the engine, and become rollouts when
all are there."""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from scalerl.data.problem import Problem
from scalerl.inference.completion import Completion
from scalerl.spool.schema import Rollout
from scalerl.tasks.task import Verdict


@dataclass(kw_only=True)
class UnfinishedGroup:
    """`completions` and `verdicts` are by index in the group; the index is filled when the completion
    finished."""

    group: int
    problem: Problem
    num_completions: int
    completions: dict[int, Completion] = field(default_factory=dict)
    verdicts: dict[int, Future[Verdict]] = field(default_factory=dict)

    def add(self, index: int, completion: Completion, verdict: Future[Verdict]) -> None:
        self.completions[index] = completion
        self.verdicts[index] = verdict

    @property
    def sampled(self) -> bool:
        """Whether every completion has finished."""
        return len(self.completions) == self.num_completions

    @property
    def graded(self) -> bool:
        """Whether every completion has finished and has its verdict."""
        return self.sampled and all(verdict.done() for verdict in self.verdicts.values())

    def rollouts(self, reward: Callable[[bool, int], float], writer: str, attempt: int) -> list[Rollout]:
        """The rows of the group's shard; `reward(correct, num_tokens)`. Only when graded."""
        return [self._rollout(index, reward, writer, attempt) for index in range(self.num_completions)]

    def _rollout(
        self, index: int, reward: Callable[[bool, int], float], writer: str, attempt: int
    ) -> Rollout:
        completion, verdict = self.completions[index], self.verdicts[index].result()
        return Rollout(
            group=self.group,
            completion=index,
            prompt_id=self.problem.prompt_id,
            task=self.problem.task,
            prompt_token_ids=completion.prompt_token_ids,
            completion_token_ids=completion.token_ids,
            logprobs=completion.logprobs,
            loss_mask=completion.loss_mask,
            policy_versions=completion.policy_versions,
            response=completion.text,
            reward=reward(verdict.correct, len(completion.token_ids)),
            correct=verdict.correct,
            verdict=verdict.reason,
            finish_reason=completion.finish_reason,
            truncated=completion.truncated,
            interrupted=completion.interrupted,
            started_s=completion.started_s,
            finished_s=completion.finished_s,
            writer=writer,
            attempt=attempt,
        )
