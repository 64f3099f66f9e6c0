"""Whole completions: one request each, or two with a forced interruption of the thinking in between.

With length_control="interruption" every completion draws its own thinking budget. Phase 1 samples up to that
budget. If it ended by itself, that was all. If the thinking still goes on, the interruption text is forced,
outside the loss, and phase 2 samples the answer (paper, section 2).

Whatever the length control, a solution has at most max_solution_tokens: what follows an early end of thinking
could otherwise go on with the tokens that were meant for thinking. Running completions are looked through for
think_end every few steps, and then get the limit of their solution; what was sampled beyond it is cut off.
That is exact: the first n tokens of a completion do not depend on how many may follow.
"""

import random
import time
from bisect import bisect_left
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from scalerl.config import LengthConfig
from scalerl.inference.engine import SamplingEngine, Segment

Key = TypeVar("Key", bound=Hashable)

WATCH_STEPS = 64
"""Engine steps between two looks for think_end; of a shorter solution, some tokens are sampled in vain."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion(Generic[Key]):
    """One finished completion of T tokens, the end-of-sequence token included if it was sampled."""

    key: Key
    """Name its caller gave it."""
    prompt_token_ids: Sequence[int]
    """[P] token ids of the prompt."""
    token_ids: list[int]
    """[T] token ids."""
    logprobs: list[float]
    """[T] log-probabilities in nats, under the distribution sampled from; 0 where forced."""
    loss_mask: list[bool]
    """[T] false where forced."""
    policy_versions: list[int]
    """[T] policy that sampled each token; of a forced one, the policy served when it was forced."""
    text: str
    """Decoded tokens, without the end-of-sequence token."""
    truncated: bool
    """True if it ran out of tokens."""
    interrupted: bool
    """True if its thinking was cut short by force."""
    started_s: float
    """Unix time of submission, in seconds."""
    finished_s: float
    """Unix time of the last token, in seconds."""

    @property
    def finish_reason(self) -> str:
        """Return "length" if it ran out of tokens, else "stop"."""
        return "length" if self.truncated else "stop"


@dataclass(kw_only=True, slots=True)
class _Running:
    """A completion on its way, over one or two requests; see `Completion`."""

    key: Any
    prompt_token_ids: Sequence[int]
    cache_salt: str
    started_s: float
    last_phase: bool
    solution_begin: int | None = None
    """Index of the first token after the end of thinking; None while the thinking goes on."""
    num_watched: int = 0
    """Tokens already looked through for think_end."""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    loss_mask: list[bool] = field(default_factory=list)
    policy_versions: list[int] = field(default_factory=list)
    interrupted: bool = False


class CompletionSampler(Generic[Key]):
    """Completions under the length control of a run. Keys are the caller's own names of its completions."""

    def __init__(self, engine: SamplingEngine, tokenizer: Any, length: LengthConfig, seed: int) -> None:
        """Sample with `engine`; `seed` draws the thinking budgets.

        Raises:
            ValueError: thinking budget and interruption text leave no room for an answer.
        """
        self._engine = engine
        self._tokenizer = tokenizer
        self._length = length
        self._random = random.Random(seed)
        self._running: dict[str, _Running] = {}
        self._num_requests = self._num_steps = 0
        self._forced_token_ids: list[int] = []
        if length.length_control == "interruption":
            self._forced_token_ids = tokenizer.encode(length.interruption_text, add_special_tokens=False)
            longest = length.interruption_max_tokens + len(self._forced_token_ids)
            if longest >= length.max_completion_tokens:
                raise ValueError(
                    f"length.interruption_max_tokens and the {len(self._forced_token_ids)} tokens of "
                    f"interruption_text make {longest}: no answer fits "
                    f"max_thinking_tokens + max_solution_tokens = {length.max_completion_tokens}"
                )

    @property
    def num_running(self) -> int:
        """Return how many completions were submitted and are not finished."""
        return len(self._running)

    def submit(self, key: Key, prompt_token_ids: Sequence[int]) -> None:
        """Start one completion, to be sampled with the policy served now and its successors."""
        controlled = self._length.length_control == "interruption"
        max_tokens = self._length.max_completion_tokens
        if controlled:
            max_tokens = self._random.randint(
                self._length.interruption_min_tokens, self._length.interruption_max_tokens
            )
        # The salt keeps prefixes apart that different policies computed. Without it a completion begun after
        # a reload would find the prompt's KV cache in the prefix cache, as the policy before left it: its
        # tokens would be of a mixture that no policy version names.
        running = _Running(
            key=key,
            prompt_token_ids=prompt_token_ids,
            cache_salt=self._engine.policy_name,
            started_s=time.time(),
            last_phase=not controlled,
        )
        self._request(running, max_tokens)

    def abort(self) -> None:
        """Drop every running completion."""
        self._engine.abort(list(self._running))
        self._running.clear()

    def step(self) -> list[Completion[Key]]:
        """Do one step of the engine, and return the completions that finished with it."""
        finished = []
        for segment in self._engine.step():
            running = self._running.pop(segment.request_id)
            _extend(running, segment)
            if running.solution_begin is None:
                running.solution_begin = self._find_solution(running.token_ids)
            ended = segment.stopped or running.last_phase
            if not ended:
                self._begin_last_phase(running)
            num_left = self._max_tokens(running) - len(running.token_ids)
            if ended or num_left <= 0:
                finished.append(self._finish(running, stopped=segment.stopped and num_left >= 0))
            else:
                self._request(running, num_left)
        self._num_steps += 1
        if self._num_steps % WATCH_STEPS == 0 and self._length.think_end:
            self._watch()
        return finished

    def _request(self, running: _Running, max_tokens: int) -> None:
        """Have the engine go on with a completion, for at most `max_tokens` tokens."""
        request_id = str(self._num_requests)
        self._num_requests += 1
        self._running[request_id] = running
        # Phase 2 keeps the salt of phase 1, and so continues over the KV cache that phase 1 left.
        token_ids = [*running.prompt_token_ids, *running.token_ids]
        self._engine.submit(request_id, token_ids, max_tokens=max_tokens, cache_salt=running.cache_salt)

    def _watch(self) -> None:
        """Find the running completions whose thinking has ended, and limit them to their solution."""
        # think_end may begin in tokens seen before; none of its tokens is shorter than a byte.
        overlap = len(self._length.think_end.encode())
        for request_id, running in self._running.items():
            if running.solution_begin is not None:  # so it is in all of phase 2
                continue
            begin = max(0, running.num_watched - overlap)
            recent = self._engine.sampled(request_id, begin)
            running.num_watched = begin + len(recent)
            if self._length.think_end in self._decode(recent):
                running.solution_begin = self._find_solution(self._engine.sampled(request_id))
            if running.solution_begin is not None:
                running.last_phase = True
                self._engine.limit(request_id, self._max_tokens(running))

    def _max_tokens(self, running: _Running) -> int:
        """Return how many tokens the completion may have as far as is known: those of its solution end it."""
        if running.solution_begin is None:
            return self._length.max_completion_tokens
        end = running.solution_begin + self._length.max_solution_tokens
        return min(end, self._length.max_completion_tokens)

    def _begin_last_phase(self, running: _Running) -> None:
        """Interrupt the thinking if it still goes on."""
        running.last_phase = True
        if running.solution_begin is not None:
            return
        forced = self._forced_token_ids
        # Forced tokens were not sampled: they have no log-probability and no loss; phase 2 sees them.
        running.interrupted = True
        running.token_ids += forced
        running.logprobs += [0.0] * len(forced)
        running.loss_mask += [False] * len(forced)
        running.policy_versions += [self._engine.policy_version] * len(forced)
        running.solution_begin = len(running.token_ids)

    def _find_solution(self, token_ids: list[int]) -> int | None:
        """Return the index of the first token after the end of thinking; None if the thinking goes on."""
        think_end = self._length.think_end
        if not think_end or think_end not in self._decode(token_ids):
            return None
        # think_end may be several tokens, cut in many ways: look for the shortest prefix whose text has it.
        end = bisect_left(
            range(len(token_ids)), True, key=lambda last: think_end in self._decode(token_ids[: last + 1])
        )
        return end + 1

    def _finish(self, running: _Running, stopped: bool) -> Completion[Key]:
        """Return the completion; `stopped` says whether its last token ends the sequence."""
        for values in (running.token_ids, running.logprobs, running.loss_mask, running.policy_versions):
            del values[self._max_tokens(running) :]
        text_token_ids = running.token_ids[:-1] if stopped else running.token_ids
        return Completion(
            key=running.key,
            prompt_token_ids=running.prompt_token_ids,
            token_ids=running.token_ids,
            logprobs=running.logprobs,
            loss_mask=running.loss_mask,
            policy_versions=running.policy_versions,
            text=self._decode(text_token_ids),
            truncated=not stopped,
            interrupted=running.interrupted,
            started_s=running.started_s,
            finished_s=time.time(),
        )

    def _decode(self, token_ids: list[int]) -> str:
        # Special tokens stay visible: think_end may be one.
        return self._tokenizer.decode(
            token_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )


def _extend(running: _Running, segment: Segment) -> None:
    """Add what one request sampled."""
    running.token_ids += segment.token_ids
    running.logprobs += segment.logprobs
    running.loss_mask += [True] * len(segment.token_ids)
    running.policy_versions += segment.policy_versions
