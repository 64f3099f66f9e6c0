"""The training state: what decides which groups are trained next, apart from weights and optimizer.

It makes the trainer a function of the spool, on GPUs up to the rounding of its weights. Which groups a step
trains, which prompts are admitted next and with which learning rate follows from this state, the rollouts and
the plateaus on record (scalerl/spool/plateau.py), never from the order in which they arrived. So a trainer
that goes back to a checkpoint does the same steps again with the same shards, and no prompt is skipped or
trained twice. Every rank keeps a copy and moves it on by itself.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from scalerl.config import RunConfig
from scalerl.data.stream import MixedStream, PromptStream, make_stream
from scalerl.spool.admission import admit_until, is_generation_policy
from scalerl.spool.schema import Group

_SAVED = (
    "step",
    "next_group",
    "batch_prompts",
    "grown_batch_prompts",
    "learning_rate_factor",
    "plateau_step",
    "generated_tokens",
    "trained_tokens",
    "flops",
    "num_skipped",
)


@dataclass(kw_only=True)
class TrainingState:
    """The place of a run in its groups and steps."""

    config: RunConfig
    stream: PromptStream | MixedStream
    """Order in which prompts come, with their pass-rate history."""
    batch_prompts: int
    """Groups an optimizer step trains."""
    grown_batch_prompts: int
    """Groups an optimizer step will train from the next admitted window on."""
    step: int = 0
    """Optimizer steps done: the policy version."""
    next_group: int = 0
    """First group not trained yet."""
    admitted: dict[int, str] = field(default_factory=dict)
    """prompt_id of every group in the admitted window, by group, in order."""
    learning_rate_factor: float = 1.0
    """Product of the factors of the plateaus so far."""
    plateau_step: int = -1
    """Step of the last plateau; -1: there was none."""
    generated_tokens: int = 0
    """Completion tokens of all groups taken so far, whether or not they had a loss."""
    trained_tokens: int = 0
    """Those of them that had a loss."""
    flops: float = 0.0
    """FLOPs of generation and training so far."""
    num_skipped: int = 0
    """Steps skipped in a row because loss or gradient was not finite."""

    @classmethod
    def begin(
        cls, config: RunConfig, prompt_ids: Sequence[str], code_ids: Collection[str] = ()
    ) -> "TrainingState":
        """Return the state before the first step, with its window admitted.

        code_ids: those of prompt_ids that are code problems.
        """
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
        """Return the groups of the next optimizer step."""
        return range(self.next_group, self.next_group + self.batch_prompts)

    @property
    def epoch(self) -> float:
        """Return the groups trained so far per training prompt.

        As long as no prompt is dropped these are the passes over the data.
        """
        return self.next_group / self.stream.num_prompts

    @property
    def exhausted(self) -> bool:
        """Say whether the next batch cannot be filled, because every prompt is mastered and was dropped."""
        return self.batch_groups[-1] not in self.admitted

    @property
    def learning_rate(self) -> float:
        """Return that of the next step: linear warm-up, then constant, times the factor of the plateaus."""
        optimizer = self.config.optimizer
        # Counted from 1: a warm-up from 0 would waste the first step.
        warm_up = min(1.0, (self.step + 1) / optimizer.warmup_steps) if optimizer.warmup_steps else 1.0
        return optimizer.learning_rate * warm_up * self.learning_rate_factor

    @property
    def is_generation_policy(self) -> bool:
        """Say whether the policy of this moment is one that generators load."""
        return is_generation_policy(self.config.off_policy, self.step)

    def finish_step(self, groups: Sequence[Group], plateau: bool = False) -> None:
        """Move on to the next batch: update pass-rate history, cursor and window.

        plateau: whether the held-out pass rate has stopped rising.
        """
        # In the order of the groups, not of their arrival: the stream's history decides what it draws next.
        for group in groups:
            self.stream.record(group[0].prompt_id, sum(rollout.correct for rollout in group), len(group))
            del self.admitted[group[0].group]
        self.next_group += self.batch_prompts
        # The version advances even if the step was skipped: published names and the window depend on it.
        self.step += 1
        if plateau:
            self._reach_plateau()
        if self.is_generation_policy:
            self._admit()

    def _reach_plateau(self) -> None:
        """Lower the learning rate, to its floor at most, and double the batch, as configured."""
        optimizer, batch = self.config.optimizer, self.config.batch
        self.plateau_step = self.step
        factor = self.learning_rate_factor * optimizer.plateau_learning_rate_factor
        self.learning_rate_factor = max(
            factor, min(self.learning_rate_factor, optimizer.plateau_min_learning_rate_factor)
        )
        self.grown_batch_prompts = min(
            2 * self.grown_batch_prompts, batch.max_prompts or self.grown_batch_prompts
        )

    def _admit(self) -> None:
        """Extend the admitted window as far as the policy of this moment allows."""
        # A batch only grows together with its window, or a rollout phase of ppo_off_policy would run out of
        # groups.
        self.batch_prompts = self.grown_batch_prompts
        # The window only moves on: groups once admitted keep their prompts, for some may be in the spool.
        begin = self.next_group + len(self.admitted)
        end = admit_until(self.config.off_policy, self.step, self.next_group, self.batch_prompts)
        self.admitted.update(enumerate(self.stream.draw(end - begin), begin))

    def to_json(self) -> dict[str, Any]:
        """Return everything but the config, for a checkpoint."""
        values = {name: getattr(self, name) for name in _SAVED}
        return values | {"admitted": list(self.admitted.items()), "stream": self.stream.state()}

    def restore(self, saved: dict[str, Any]) -> None:
        """Continue from what `to_json` returned."""
        for name in _SAVED:
            setattr(self, name, saved[name])
        self.admitted = {group: prompt_id for group, prompt_id in saved["admitted"]}
        self.stream.restore(saved["stream"])
