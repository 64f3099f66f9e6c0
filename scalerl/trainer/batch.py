"""Read the groups of an optimizer step from the spool: wait for them and refuse bad ones.

Only rank 0 looks for shards and judges them. The others read what it has accepted: a shard is never replaced
once it is published, so all ranks train on equal batches without sending them to each other.
"""

import time
from collections.abc import Callable
from typing import Literal

import numpy as np
from torch import distributed as dist

from scalerl.config import RunConfig
from scalerl.paths import RunPaths
from scalerl.spool.schema import Group, Rollout, ShardError
from scalerl.spool.shards import Spool
from scalerl.trainer.state import TrainingState

POLL_S = 0.02
TURN_S = 10.0
"""Seconds after which rank 0 says that it still waits, lest a collective of the others times out."""
SLOW_FILE_SYSTEM_S = 60.0
"""Seconds for which a shard that rank 0 has read may stay invisible to another rank."""

BatchState = tuple[Literal["waiting", "ready", "stop", "failed"], str]
"""What a turn of waiting came to, and why if it failed."""


def check_trainable(group: Group, prompt_id: str, step: int, vocabulary_size: int, config: RunConfig) -> None:
    """Check that a whole, valid group may be trained at `step`, that is, by policy version `step`.

    Raises:
        ShardError: not the admitted prompt, not the configured number of completions, too long, token ids or
            logprobs that cannot be, or off-policyness outside [0, max_off_policyness].
    """
    # A shard of the same number may be left from another timeline of the run, with another prompt.
    if group[0].prompt_id != prompt_id:
        raise ShardError(f"prompt {group[0].prompt_id}, but {prompt_id} was admitted")
    expected = config.batch.generations_per_prompt
    if len(group) != expected:
        raise ShardError(f"{len(group)} completions, batch.generations_per_prompt is {expected}")
    for rollout in group:
        try:
            _check_tokens(rollout, vocabulary_size, config.trainer.micro_batch_tokens)
            _check_off_policyness(rollout, step, config.off_policy.max_off_policyness)
        except ShardError as error:
            raise ShardError(f"completion {rollout.completion}: {error}") from None


def _check_tokens(rollout: Rollout, vocabulary_size: int, most_tokens: int) -> None:
    length = len(rollout.prompt_token_ids) + len(rollout.completion_token_ids)
    if length > most_tokens:
        raise ShardError(f"{length} tokens, trainer.micro_batch_tokens is {most_tokens}")
    token_ids = np.concatenate([rollout.prompt_token_ids, rollout.completion_token_ids])
    lowest, highest = token_ids.min(), token_ids.max()
    if lowest < 0 or highest >= vocabulary_size:
        raise ShardError(f"token ids {lowest} to {highest}, vocabulary of {vocabulary_size}")
    if not (np.isfinite(rollout.logprobs).all() and np.isfinite(rollout.reward)):
        raise ShardError("a logprob or the reward is not finite")


def _check_off_policyness(rollout: Rollout, step: int, bound: int) -> None:
    # Admission bounds the staleness already (scalerl/spool/admission.py). This holds even if a generator is
    # wrong about its policy; a negative lag is a token of a timeline that a replay has left behind.
    lags = step - np.asarray(rollout.policy_versions)
    if lags.min() < 0 or lags.max() > bound:
        raise ShardError(f"off-policyness {lags.min()} to {lags.max()} at step {step}, allowed 0 to {bound}")


class BatchReader:
    """The groups of one step after another, on one rank."""

    def __init__(
        self,
        paths: RunPaths,
        config: RunConfig,
        *,
        vocabulary_size: int,
        control: dist.ProcessGroup,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        """Prepare to read from the spool of a run; rank 0 asks `stopped` whether the run is to stop."""
        self._paths = paths
        self._config = config
        self._vocabulary_size = vocabulary_size
        self._control = control
        self._stopped = stopped
        self._spool = Spool(paths.spool)
        self._rank = dist.get_rank()
        self.read_s = 0.0
        """Seconds spent reading shards for the last batch."""

    def next(self, state: TrainingState) -> list[Group] | None:
        """Return the groups of the next step in order, or None when the run is to stop. All ranks call it.

        Raises:
            TimeoutError: groups are missing after launch.wait_for_rollouts_s; raised on every rank.
        """
        self.read_s = 0.0
        found: dict[int, Group] = {}
        deadline_s = time.monotonic() + self._config.launch.wait_for_rollouts_s
        outcome, reason = "waiting", ""
        # Only rank 0 decides, once a turn: ranks that looked for themselves would see files and the stop
        # signal at different moments, and part ways.
        while outcome == "waiting":
            mine = self._wait(state, found, deadline_s) if self._rank == 0 else None
            outcome, reason = self._broadcast(mine)
        if outcome == "failed":
            raise TimeoutError(reason)
        if outcome == "stop":
            return None
        return [found[group] if group in found else self._read_late(group) for group in state.batch_groups]

    def _broadcast(self, outcome: BatchState | None) -> BatchState:
        """Return what rank 0 brings; all ranks call it."""
        box = [outcome]
        dist.broadcast_object_list(box, src=0, group=self._control)
        assert box[0] is not None
        return box[0]

    def _wait(self, state: TrainingState, found: dict[int, Group], deadline_s: float) -> BatchState:
        """Collect groups on rank 0 for a turn."""
        turn_s = time.monotonic() + TURN_S
        while True:
            # Asked first: a run that is to stop takes no further step, even if its batch is there.
            if self._stopped():
                return "stop", ""
            self._collect(state, found)
            if len(found) == state.batch_prompts:
                return "ready", ""
            if time.monotonic() > deadline_s:
                return "failed", self._missing(state, found)
            if time.monotonic() > turn_s:
                return "waiting", ""
            time.sleep(POLL_S)

    def _collect(self, state: TrainingState, found: dict[int, Group]) -> None:
        """Add the groups of the batch that have come to `found`; quarantine those that may not be trained."""
        groups = state.batch_groups
        new = self._spool.present(groups.start, groups.stop) - found.keys()
        begin_s = time.monotonic()
        for index in sorted(new):
            try:
                group = self._spool.read(index, as_arrays=True)
                check_trainable(group, state.admitted[index], state.step, self._vocabulary_size, self._config)
                found[index] = group
            except ShardError as error:
                # Its generator sees that an admitted group is not in the spool and starts it once more.
                target = self._spool.quarantine(self._spool.path(index), str(error))
                print(
                    f"group {index} refused, waiting for it to be generated again: {error}; kept as {target}",
                    flush=True,
                )
        self.read_s += time.monotonic() - begin_s

    def _missing(self, state: TrainingState, found: dict[int, Group]) -> str:
        """Say which groups did not come, and whose logs to read."""
        missing = [group for group in state.batch_groups if group not in found]
        owners = sorted({group % self._config.generator.num for group in missing})
        return (
            f"waited {self._config.launch.wait_for_rollouts_s:.0f} s (launch.wait_for_rollouts_s) "
            f"for the groups {missing} of step {state.step} in {self._spool.root}; "
            f"they are owed by generators {owners}: see their logs and spool/quarantine"
        )

    def _read_late(self, group: int) -> Group:
        """Read a shard that rank 0 has accepted; a network file system may show it here a little later."""
        begin_s = time.monotonic()
        while True:
            try:
                result = self._spool.read(group, as_arrays=True)
                break
            except FileNotFoundError:
                if time.monotonic() > begin_s + SLOW_FILE_SYSTEM_S:
                    raise
            time.sleep(POLL_S)
        self.read_s += time.monotonic() - begin_s
        return result
