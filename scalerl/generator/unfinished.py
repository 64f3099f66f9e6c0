"""A prompt group on its way: completions come in, are graded beside the engine, become rollouts."""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from scalerl.data.problem import Problem
from scalerl.inference.completion import Completion
from scalerl.spool.schema import Rollout
from scalerl.tasks.task import Verdict


@dataclass(kw_only=True)
class UnfinishedGroup:
    """A group some of whose completions are still sampled or graded."""

    group: int
    """Index of the group in the run."""
    problem: Problem
    num_completions: int
    """Completions the group will have."""
    completions: dict[int, Completion] = field(default_factory=dict)
    """Finished completions by their index in the group."""
    verdicts: dict[int, Future[Verdict]] = field(default_factory=dict)
    """Verdicts on them, or to come, by the same index."""

    def add(self, index: int, completion: Completion, verdict: Future[Verdict]) -> None:
        """Note a completion that has finished."""
        self.completions[index] = completion
        self.verdicts[index] = verdict

    @property
    def sampled(self) -> bool:
        """Say whether every completion has finished."""
        return len(self.completions) == self.num_completions

    @property
    def graded(self) -> bool:
        """Say whether every completion has finished and has its verdict."""
        return self.sampled and all(verdict.done() for verdict in self.verdicts.values())

    def rollouts(self, reward: Callable[[bool, int], float], writer: str, attempt: int) -> list[Rollout]:
        """Return the rows of the group's shard; the group must be graded.

        reward: called with (correct, num_tokens) of each completion.
        """
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
