"""The endless, seeded order in which prompts are trained on.

Its state is part of the trainer's checkpoint: a run that is continued draws the prompts it would have drawn.
"""

import hashlib
import math
from collections.abc import Collection, Sequence
from fractions import Fraction
from typing import Any, Literal

import numpy as np

Curriculum = Literal["uniform", "no_positive_resampling"]


class PromptStream:
    """Prompts in epochs: each visits every prompt that is left once, in an order drawn from (seed, epoch).

    With "no_positive_resampling" a prompt whose pass rate over all its completions so far is at least
    `drop_pass_rate` is dropped for good; this is decided when an epoch reaches it, so what its own epoch
    finds out counts from the next one on (ScaleRL, arXiv 2510.13786, section on data curricula). The same
    calls give the same prompts, also after `restore`.
    """

    def __init__(
        self,
        prompt_ids: Sequence[str],
        *,
        seed: int,
        curriculum: Curriculum = "no_positive_resampling",
        drop_pass_rate: float = 0.9,
    ) -> None:
        """Begin with the first epoch.

        Raises:
            ValueError: no prompts, the same prompt twice, or a negative seed.
        """
        if not prompt_ids or len(set(prompt_ids)) < len(prompt_ids):
            raise ValueError(
                f"a stream of {len(prompt_ids)} prompts, {len(set(prompt_ids))} different; give one or more, "
                "each once"
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

    def __contains__(self, prompt_id: str) -> bool:
        return prompt_id in self._index

    @property
    def epoch(self) -> int:
        """Return the number of epochs begun before the one being drawn from."""
        return self._epoch

    @property
    def num_prompts(self) -> int:
        """Return the number of prompts at the start, dropped ones included."""
        return len(self._prompt_ids)

    @property
    def num_dropped(self) -> int:
        """Return the number of prompts dropped for good so far."""
        return int(self._dropped.sum())

    def draw(self, count: int) -> list[str]:
        """Return the next `count` prompts, which may span epochs.

        They are fewer, down to none, once every prompt has been dropped.
        """
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
        """Return everything that `restore` needs, as JSON; lists follow the order of the prompts."""
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
        # Counts are kept by position: with other prompts they would be history of the wrong ones.
        if state["fingerprint"] != self._fingerprint():
            raise ValueError(
                "the saved prompt stream has other prompts, or another order or seed, than these "
                f"{len(self._prompt_ids)} with seed {self._seed}; continue the run with the data and seed it "
                "was started with, or start a new run"
            )
        self._start_epoch(state["epoch"])
        self._position = state["position"]
        self._num_correct[:] = state["num_correct"]
        self._num_completions[:] = state["num_completions"]
        self._dropped[:] = False
        self._dropped[state["dropped"]] = True

    def _is_dropped(self, index: int) -> bool:
        # Asked only when an epoch reaches the prompt: its groups of this epoch may still be on their way, and
        # a replay from a checkpoint has to decide alike.
        if self._drops and not self._dropped[index] and self._num_completions[index]:
            pass_rate = self._num_correct[index] / self._num_completions[index]
            self._dropped[index] = pass_rate >= self._drop_pass_rate
        return bool(self._dropped[index])

    def _start_epoch(self, epoch: int) -> None:
        self._epoch = epoch
        self._position = 0
        # Seeded by the epoch, not drawn on: any epoch can be restored without those before it.
        self._order = np.random.default_rng([self._seed, epoch]).permutation(len(self._prompt_ids))

    def _fingerprint(self) -> str:
        return hashlib.sha256("\n".join([str(self._seed), *self._prompt_ids]).encode()).hexdigest()[:16]


class MixedStream:
    """Code and other prompts at a fixed ratio, each with the epochs and the history of a PromptStream.

    Of the first n prompts exactly floor(code_fraction * n) are code, spread as evenly as can be and the same
    for every seed. A stream that has run out (all its prompts were dropped) leaves its turns to the other.
    """

    def __init__(self, others: PromptStream, code: PromptStream, *, code_fraction: float) -> None:
        assert 0 < code_fraction < 1, code_fraction
        self._streams = (others, code)
        # As it was written: .2 is a fifth, not the float nearest to it.
        self._code_fraction = Fraction(str(code_fraction))
        self._turn = 0

    @property
    def num_prompts(self) -> int:
        """Return the number of prompts of all tasks at the start, dropped ones included."""
        return sum(stream.num_prompts for stream in self._streams)

    @property
    def num_dropped(self) -> int:
        """Return the number of prompts of all tasks dropped for good so far."""
        return sum(stream.num_dropped for stream in self._streams)

    def draw(self, count: int) -> list[str]:
        """Return the next `count` prompts, or fewer, down to none, once all have been dropped."""
        drawn: list[str] = []
        while len(drawn) < count:
            # Turn n is code where the number of code prompts that are due, floor(fraction * n), goes up.
            due, next_due = (math.floor(turn * self._code_fraction) for turn in (self._turn, self._turn + 1))
            is_code = next_due - due
            # A stream that is empty gives its turn away, which counts all the same: the ratio stays as it is.
            found = self._streams[is_code].draw(1) or self._streams[1 - is_code].draw(1)
            if not found:
                break
            drawn += found
            self._turn += 1
        return drawn

    def record(self, prompt_id: str, num_correct: int, num_completions: int) -> None:
        """Add a finished group's completions to the history of its prompt."""
        stream = next(stream for stream in self._streams if prompt_id in stream)
        stream.record(prompt_id, num_correct, num_completions)

    def state(self) -> dict[str, Any]:
        """Return everything that `restore` needs, as JSON."""
        return {"turn": self._turn, "streams": [stream.state() for stream in self._streams]}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue as the mixture that `state` was taken from.

        Raises:
            ValueError: that one had other prompts or another seed.
        """
        for stream, saved in zip(self._streams, state["streams"], strict=True):
            stream.restore(saved)
        self._turn = state["turn"]


def make_stream(
    prompt_ids: Sequence[str],
    code_ids: Collection[str],
    *,
    seed: int,
    curriculum: Curriculum,
    drop_pass_rate: float,
    code_fraction: float | None,
) -> PromptStream | MixedStream:
    """Return the stream of a run: all prompts in one pool, or, with a `code_fraction`, code at that ratio.

    code_ids: those of `prompt_ids` that are code problems.

    Raises:
        ValueError: as PromptStream; or a ratio of code to others, and one of these is missing.
    """

    def single(ids: Sequence[str]) -> PromptStream:
        return PromptStream(ids, seed=seed, curriculum=curriculum, drop_pass_rate=drop_pass_rate)

    if code_fraction is None:
        return single(prompt_ids)
    code = [prompt_id for prompt_id in prompt_ids if prompt_id in code_ids]
    others = [prompt_id for prompt_id in prompt_ids if prompt_id not in code_ids]
    if not code or not others:
        raise ValueError(
            f"data.code_fraction={code_fraction} mixes two tasks, and the training set has {len(code)} code "
            f"problems and {len(others)} others; prepare both into one set, or leave data.code_fraction out"
        )
    return MixedStream(single(others), single(code), code_fraction=code_fraction)
