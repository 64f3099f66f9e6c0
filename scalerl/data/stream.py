"""The endless prompt stream of a run, and the pass-rate history that no-positive-resampling drops prompts by."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

Curriculum = Literal["uniform", "no_positive_resampling"]


class PromptStream:
    """Prompts epoch after epoch, each epoch a fresh permutation seeded by (seed, epoch).

    With no_positive_resampling, a prompt whose historical pass rate reaches `drop_pass_rate` is left out of every later epoch
    (paper, section 2); it is looked at when the epoch reaches it.
    """

    def __init__(
        self, prompt_ids: Sequence[str], *, seed: int, curriculum: Curriculum, drop_pass_rate: float = 0.9
    ) -> None:
        self._prompt_ids = list(prompt_ids)
        self._index = {prompt_id: index for index, prompt_id in enumerate(self._prompt_ids)}
        self._seed = seed
        self._drops = curriculum == "no_positive_resampling"
        self._drop_pass_rate = drop_pass_rate
        self._correct = np.zeros(len(self._prompt_ids), dtype=np.int64)
        self._completions = np.zeros(len(self._prompt_ids), dtype=np.int64)
        self._dropped = np.zeros(len(self._prompt_ids), dtype=bool)
        self._begin_epoch(0, 0)

    def _begin_epoch(self, epoch: int, position: int) -> None:
        self._epoch, self._position = epoch, position
        self._order = np.random.default_rng([self._seed, epoch]).permutation(len(self._prompt_ids))

    @property
    def num_dropped(self) -> int:
        return int(self._dropped.sum())

    def draw(self, count: int) -> list[str]:
        """The next `count` prompt ids.

        Raises:
            ValueError: every prompt has been dropped.
        """
        drawn: list[str] = []
        while len(drawn) < count:
            if self._dropped.all():
                raise ValueError(
                    f"all {len(self._prompt_ids)} prompts have a pass rate of {self._drop_pass_rate} or more and were dropped: the "
                    f"model has mastered the data; end the run here, add harder prompts, or set algo.curriculum=uniform"
                )
            if self._position == len(self._order):
                self._begin_epoch(self._epoch + 1, 0)
            index = int(self._order[self._position])
            self._position += 1
            if self._keep(index):
                drawn.append(self._prompt_ids[index])
        return drawn

    def _keep(self, index: int) -> bool:
        mastered = self._completions[index] and self._correct[index] >= self._drop_pass_rate * self._completions[index]
        if self._drops and self._epoch > 0 and mastered:
            self._dropped[index] = True
        return not self._dropped[index]

    def record(self, prompt_id: str, num_correct: int, num_completions: int) -> None:
        """Add the outcome of one trained group to the history."""
        index = self._index[prompt_id]
        self._correct[index] += num_correct
        self._completions[index] += num_completions

    def state(self) -> dict[str, Any]:
        """All of it as JSON; prompts without a history are left out."""
        seen = np.flatnonzero(self._completions)
        history = {self._prompt_ids[i]: [int(self._correct[i]), int(self._completions[i])] for i in seen}
        dropped = [self._prompt_ids[i] for i in np.flatnonzero(self._dropped)]
        return {"epoch": self._epoch, "position": self._position, "history": history, "dropped": dropped}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a `state` of a stream over the same prompts.

        Raises:
            ValueError: the state speaks of a prompt that this stream does not have.
        """
        unknown = [prompt_id for prompt_id in (*state["history"], *state["dropped"]) if prompt_id not in self._index]
        if unknown:
            raise ValueError(f"the prompt history names {unknown[0]}, which is not in data.train: the data changed since the run began")
        for prompt_id, (num_correct, num_completions) in state["history"].items():
            self.record(prompt_id, num_correct, num_completions)
        self._dropped[[self._index[prompt_id] for prompt_id in state["dropped"]]] = True
        self._begin_epoch(state["epoch"], state["position"])
