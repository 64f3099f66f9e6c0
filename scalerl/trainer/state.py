"""Where a run is: the state that decides what is trained next, apart from weights and optimizer. The same on
every rank."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from scalerl.algo.plateau import on_plateau
from scalerl.config import RunConfig
from scalerl.data.stream import MixedStream, PromptStream, make_stream
from scalerl.spool.admission import admit_until, is_generation_policy
from scalerl.spool.schema import Rollout

_SAVED = (
    "step",
    "next_group",
    "batch_prompts",
    "grown_batch_prompts",
    "learning_rate_factor",
    "pass_rates",
    "tokens",
    "flops",
    "num_skipped",
)


@dataclass(kw_only=True)
class TrainingState:
    """step: optimizer steps done, the policy version. next_group: the first group not trained. tokens, flops:
    cumulative."""

    config: RunConfig
    stream: PromptStream | MixedStream
    batch_prompts: int
    """Groups an optimizer step."""
    grown_batch_prompts: int
    """What batch_prompts becomes when the next window of groups is admitted."""
    step: int = 0
    next_group: int = 0
    admitted: dict[int, str] = field(default_factory=dict)
    """The prompt_id of every group in the admitted window."""
    learning_rate_factor: float = 1.0
    pass_rates: list[float] = field(default_factory=list)
    """Of the steps since the last plateau, at most two windows of them."""
    tokens: int = 0
    flops: float = 0.0
    num_skipped: int = 0
    """Steps skipped in a row because loss or gradient was not finite."""

    @classmethod
    def begin(
        cls, config: RunConfig, prompt_ids: Sequence[str], code_ids: Collection[str] = ()
    ) -> "TrainingState":
        """The state before the first step, with its window admitted. code_ids: those of prompt_ids that are
        code problems."""
        algo, prompts = config.algo, config.batch.prompts
        stream = make_stream(
            prompt_ids,
            code_ids,
            seed=config.seed,
            curriculum=algo.curriculum,
            drop_pass_rate=algo.curriculum_drop_pass_rate,
            code_fraction=config.data.code_fraction,
        )
        state = cls(config=config, stream=stream, batch_prompts=prompts, grown_batch_prompts=prompts)
        state._admit()
        return state

    @property
    def batch_groups(self) -> range:
        """The groups of the next optimizer step."""
        return range(self.next_group, self.next_group + self.batch_prompts)

    @property
    def epoch(self) -> float:
        """Groups trained so far, per training prompt: passes over the data, as long as no prompt is
        dropped."""
        return self.next_group / self.stream.num_prompts

    @property
    def exhausted(self) -> bool:
        """Whether the next batch cannot be filled: every prompt is mastered and was dropped."""
        return self.batch_groups[-1] not in self.admitted

    @property
    def learning_rate(self) -> float:
        """Of the next step: linear warm-up, then constant, times the factor of the plateaus so far."""
        optimizer = self.config.optimizer
        warm_up = min(1.0, (self.step + 1) / optimizer.warmup_steps) if optimizer.warmup_steps else 1.0
        return optimizer.learning_rate * warm_up * self.learning_rate_factor

    @property
    def is_generation_policy(self) -> bool:
        """Whether the policy of this moment is one that generators load."""
        return is_generation_policy(self.config.off_policy, self.step)

    def finish_step(self, groups: Sequence[Sequence[Rollout]], pass_rate: float) -> None:
        """Move on to the next batch: pass-rate history, plateau, cursor, window."""
        for group in groups:
            self.stream.record(group[0].prompt_id, sum(rollout.correct for rollout in group), len(group))
            del self.admitted[group[0].group]
        self.next_group += self.batch_prompts
        self.step += 1
        self._check_plateau(pass_rate)
        if self.is_generation_policy:
            self._admit()

    def _check_plateau(self, pass_rate: float) -> None:
        optimizer, batch = self.config.optimizer, self.config.batch
        self.pass_rates = [*self.pass_rates, pass_rate][-2 * optimizer.plateau_window_steps :]
        if on_plateau(self.pass_rates, optimizer.plateau_window_steps):
            self.pass_rates = []
            self.learning_rate_factor *= optimizer.plateau_learning_rate_factor
            self.grown_batch_prompts = min(
                2 * self.grown_batch_prompts, batch.max_prompts or self.grown_batch_prompts
            )

    def _admit(self) -> None:
        # A batch only grows together with its window, or a rollout phase of ppo_off_policy would run out of
        # groups.
        self.batch_prompts = self.grown_batch_prompts
        begin = self.next_group + len(self.admitted)
        end = admit_until(self.config.off_policy, self.step, self.next_group, self.batch_prompts)
        self.admitted.update(enumerate(self.stream.draw(end - begin), begin))

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON."""
        values = {name: getattr(self, name) for name in _SAVED}
        return values | {"admitted": list(self.admitted.items()), "stream": self.stream.state()}

    def restore(self, saved: dict[str, Any]) -> None:
        """Continue from `to_json()`."""
        for name in _SAVED:
            setattr(self, name, saved[name])
        self.admitted = {group: prompt_id for group, prompt_id in saved["admitted"]}
        self.stream.restore(saved["stream"])
