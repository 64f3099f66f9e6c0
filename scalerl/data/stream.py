"""The endless, seeded order in which prompts are trained on; its state is part of the trainer's checkpoint."""

import hashlib
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

Curriculum = Literal["uniform", "no_positive_resampling"]


class PromptStream:
    """Every epoch visits each prompt that is left exactly once, in an order of its own drawn from (seed, epoch).

    With "no_positive_resampling" a prompt whose pass rate over all its completions so far is at least `drop_pass_rate` is
    dropped for good; this is decided when an epoch reaches it, so what its own epoch finds out counts from the next one on
    (ScaleRL, arXiv 2510.13786, section on data curricula). The same calls give the same prompts, also after `restore`.
    """

    def __init__(
        self,
        prompt_ids: Sequence[str],
        *,
        seed: int,
        curriculum: Curriculum = "no_positive_resampling",
        drop_pass_rate: float = 0.9,
    ) -> None:
        """
        Raises:
            ValueError: no prompts, the same prompt twice, or a negative seed.
        """
        if not prompt_ids or len(set(prompt_ids)) < len(prompt_ids):
            raise ValueError(
                f"a stream of {len(prompt_ids)} prompts, {len(set(prompt_ids))} different; give one or more, each once"
            )
        if seed < 0:
            raise ValueError(f"seed={seed}; it must be 0 or more")
        self._prompt_ids = list(prompt_ids)
        self._index = {prompt_id: index for index, prompt_id in enumerate(self._prompt_ids)}
        self._seed = seed
        self._drops = curriculum == "no_positive_resampling"
        self._drop_pass_rate = drop_pass_rate
        self._num_correct = np.zeros(len(prompt_ids), np.int64)
        self._num_completions = np.zeros(len(prompt_ids), np.int64)
        self._dropped = np.zeros(len(prompt_ids), bool)
        self._start_epoch(0)

    @property
    def epoch(self) -> int:
        """Number of epochs begun before the one being drawn from."""
        return self._epoch

    @property
    def num_prompts(self) -> int:
        """Prompts at the start, dropped ones included."""
        return len(self._prompt_ids)

    @property
    def num_dropped(self) -> int:
        """Prompts dropped for good so far."""
        return int(self._dropped.sum())

    def draw(self, count: int) -> list[str]:
        """The next `count` prompts; they may span epochs. Fewer, down to none, once every prompt has been dropped."""
        drawn: list[str] = []
        while len(drawn) < count and not self._dropped.all():
            if self._position == len(self._order):
                self._start_epoch(self._epoch + 1)
            index = int(self._order[self._position])
            self._position += 1
            if not self._is_dropped(index):
                drawn.append(self._prompt_ids[index])
        return drawn

    def record(self, prompt_id: str, num_correct: int, num_completions: int) -> None:
        """Add a finished group's completions to the history of its prompt."""
        assert 0 <= num_correct <= num_completions, f"{num_correct} correct of {num_completions}"
        index = self._index[prompt_id]
        self._num_correct[index] += num_correct
        self._num_completions[index] += num_completions

    def state(self) -> dict[str, Any]:
        """Everything `restore` needs, as JSON; lists follow the order of the prompts."""
        return {
            "fingerprint": self._fingerprint(),
            "epoch": self._epoch,
            "position": self._position,
            "num_correct": self._num_correct.tolist(),
            "num_completions": self._num_completions.tolist(),
            "dropped": np.flatnonzero(self._dropped).tolist(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue as the stream that `state` was taken from.

        Raises:
            ValueError: that stream had other prompts or another seed.
        """
        if state["fingerprint"] != self._fingerprint():
            raise ValueError(
                f"the saved prompt stream has other prompts, or another order or seed, than these {len(self._prompt_ids)} with "
                f"seed {self._seed}; continue the run with the data and seed it was started with, or start a new run"
            )
        self._start_epoch(state["epoch"])
        self._position = state["position"]
        self._num_correct[:] = state["num_correct"]
        self._num_completions[:] = state["num_completions"]
        self._dropped[:] = False
        self._dropped[state["dropped"]] = True

    def _is_dropped(self, index: int) -> bool:
        if self._drops and not self._dropped[index] and self._num_completions[index]:
            pass_rate = self._num_correct[index] / self._num_completions[index]
            self._dropped[index] = pass_rate >= self._drop_pass_rate
        return bool(self._dropped[index])

    def _start_epoch(self, epoch: int) -> None:
        self._epoch = epoch
        self._position = 0
        self._order = np.random.default_rng([self._seed, epoch]).permutation(len(self._prompt_ids))

    def _fingerprint(self) -> str:
        return hashlib.sha256("\n".join([str(self._seed), *self._prompt_ids]).encode()).hexdigest()[:16]
