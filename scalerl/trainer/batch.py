"""Gets the groups of an optimizer step from the spool: waits for them, refuses bad ones, gives all ranks the
same ones."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import distributed as dist

from scalerl.config import RunConfig
from scalerl.paths import RunPaths
from scalerl.spool.schema import Rollout, ShardError
from scalerl.spool.shards import Spool
from scalerl.trainer.state import TrainingState

Group = list[Rollout]
POLL_S = 0.02
TURN_S = 10.0
"""Rank 0 tells the others this often that it is still waiting: a collective must not time out because
rollouts are slow."""
SLOW_FILE_SYSTEM_S = 60.0
"""How long a shard that rank 0 has read may stay invisible to another rank."""


def check_trainable(
    group: Sequence[Rollout], prompt_id: str, step: int, vocabulary_size: int, config: RunConfig
) -> None:
    """Check that a whole, valid group may be trained at `step`, that is by policy version `step`.

    Raises:
        ShardError: not the admitted prompt, not the configured number of completions, too long, token ids or
            logprobs that cannot be, or off-policyness outside [0, max_off_policyness].
    """
    if group[0].prompt_id != prompt_id:
        raise ShardError(f"prompt {group[0].prompt_id}, but {prompt_id} was admitted")
    expected = config.batch.generations_per_prompt
    if len(group) != expected:
        raise ShardError(f"{len(group)} completions, batch.generations_per_prompt is {expected}")
    bound = config.off_policy.max_off_policyness
    for rollout in group:
        where = f"completion {rollout.completion}"
        length = len(rollout.prompt_token_ids) + len(rollout.completion_token_ids)
        if length > config.trainer.micro_batch_tokens:
            raise ShardError(
                f"{where}: {length} tokens, trainer.micro_batch_tokens is {config.trainer.micro_batch_tokens}"
            )
        token_ids = np.concatenate([rollout.prompt_token_ids, rollout.completion_token_ids])
        if token_ids.min() < 0 or token_ids.max() >= vocabulary_size:
            raise ShardError(
                f"{where}: token ids {token_ids.min()} to {token_ids.max()}, vocabulary of {vocabulary_size}"
            )
        if not (np.isfinite(rollout.logprobs).all() and np.isfinite(rollout.reward)):
            raise ShardError(f"{where}: a logprob or the reward is not finite")
        lags = step - np.asarray(rollout.policy_versions)
        if lags.min() < 0 or lags.max() > bound:
            raise ShardError(
                f"{where}: off-policyness {lags.min()} to {lags.max()} at step {step}, allowed 0 to {bound}"
            )


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
        """`stopped`: whether the run is to stop, asked on rank 0."""
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
        """The groups of the next step in order, or None when the run is to stop. All ranks call it.

        Raises:
            TimeoutError: groups are missing after launch.wait_for_rollouts_s; on every rank.
        """
        self.read_s = 0.0
        found: dict[int, Group] = {}
        deadline_s = time.monotonic() + self._config.launch.wait_for_rollouts_s
        message: dict[str, Any] = {"news": "waiting"}
        while message["news"] == "waiting":
            if self._rank == 0:
                message = self._wait(state, found, deadline_s)
            message = self._broadcast(message)
        if message["news"] == "failed":
            raise TimeoutError(message["reason"])
        if message["news"] == "stop":
            return None
        return [found[group] if group in found else self._read_late(group) for group in state.batch_groups]

    def _broadcast(self, message: dict[str, Any]) -> dict[str, Any]:
        box = [message]
        dist.broadcast_object_list(box, src=0, group=self._control)
        return box[0]

    def _wait(self, state: TrainingState, found: dict[int, Group], deadline_s: float) -> dict[str, Any]:
        """Rank 0: collect groups for a turn."""
        turn_s = time.monotonic() + TURN_S
        while True:
            if self._stopped():
                return {"news": "stop"}
            self._collect(state, found)
            if len(found) == state.batch_prompts:
                return {"news": "ready"}
            if time.monotonic() > deadline_s:
                return {"news": "failed", "reason": self._missing(state, found)}
            if time.monotonic() > turn_s:
                return {"news": "waiting"}
            time.sleep(POLL_S)

    def _collect(self, state: TrainingState, found: dict[int, Group]) -> None:
        groups = state.batch_groups
        new = self._spool.present(groups.start, groups.stop) - found.keys()
        begin_s = time.monotonic()
        for index in sorted(new):
            try:
                group = self._spool.read(index, as_arrays=True)
                check_trainable(group, state.admitted[index], state.step, self._vocabulary_size, self._config)
                found[index] = group
            except ShardError as error:
                target = self._spool.quarantine(self._spool.path(index), str(error))
                print(
                    f"group {index} refused, waiting for it to be generated again: {error}; kept as {target}",
                    flush=True,
                )
        self.read_s += time.monotonic() - begin_s

    def _missing(self, state: TrainingState, found: dict[int, Group]) -> str:
        missing = [group for group in state.batch_groups if group not in found]
        owners = sorted({group % self._config.generator.num for group in missing})
        return (
            f"waited {self._config.launch.wait_for_rollouts_s:.0f} s (launch.wait_for_rollouts_s) for the groups {missing} of "
            f"step {state.step} in {self._spool.root}; they are owed by generators {owners}: see their logs and "
            f"spool/quarantine"
        )

    def _read_late(self, group: int) -> Group:
        """Other ranks than 0: the shard is valid, but a network file system may show it here a little
        later."""
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
