"""From the groups of a step to what is trained: advantages, token weights, sequences; and the step's
statistics."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from scalerl.algo.advantages import advantages
from scalerl.algo.aggregation import token_weights
from scalerl.config import AlgoConfig
from scalerl.spool.schema import Rollout
from scalerl.trainer.packing import TrainingSequence


def training_sequences(
    groups: Sequence[Sequence[Rollout]], algo: AlgoConfig
) -> tuple[list[TrainingSequence], dict[str, int]]:
    """The sequences that have a loss, and how many groups were dropped, by reason.

    Every rank computes this from the whole batch, so the denominators in the weights are global and exact.
    """
    rewards = np.array([[rollout.reward for rollout in group] for group in groups])
    values, kept = advantages(rewards, norm=algo.advantage_norm, zero_variance=algo.zero_variance)
    lengths = np.array([[np.count_nonzero(rollout.loss_mask) for rollout in group] for group in groups])
    weights = token_weights(lengths * kept[:, None], algo.loss_aggregation)
    sequences = [
        _sequence(rollout, values[row, column], weights[row, column])
        for row, group in enumerate(groups)
        for column, rollout in enumerate(group)
        if weights[row, column] > 0
    ]
    num_dropped = int(np.count_nonzero(~kept))
    return sequences, {"zero_variance": num_dropped} if num_dropped else {}


def _sequence(rollout: Rollout, advantage: float, weight: float) -> TrainingSequence:
    loss_tokens = np.flatnonzero(rollout.loss_mask)
    return TrainingSequence(
        tokens=np.concatenate([rollout.prompt_token_ids, rollout.completion_token_ids]).astype(np.int64),
        loss_positions=len(rollout.prompt_token_ids) + loss_tokens,
        generator_logprobs=np.asarray(rollout.logprobs, dtype=np.float32)[loss_tokens],
        advantage=float(advantage),
        weight=float(weight),
    )


def batch_statistics(groups: Sequence[Sequence[Rollout]], step: int) -> dict[str, Any]:
    """What a step row says of all completions of the batch, before any filter. `step`: the policy version
    that trains them.

    Of a batch with several tasks there is also one `pass_rate_<task>` each."""
    rollouts = [rollout for group in groups for rollout in group]
    lengths = [len(rollout.completion_token_ids) for rollout in rollouts]
    lags = step - np.concatenate([rollout.policy_versions for rollout in rollouts])
    histogram = Counter(lags.tolist())
    tasks = sorted({rollout.task for rollout in rollouts})
    rates = {
        task: float(np.mean([rollout.correct for rollout in rollouts if rollout.task == task]))
        for task in tasks
    }
    return {
        "reward": float(np.mean([rollout.reward for rollout in rollouts])),
        "pass_rate": float(np.mean([rollout.correct for rollout in rollouts])),
        "completion_tokens_mean": float(np.mean(lengths)),
        "completion_tokens_max": max(lengths),
        "truncation_rate": float(np.mean([rollout.truncated for rollout in rollouts])),
        "interruption_rate": float(np.mean([rollout.interrupted for rollout in rollouts])),
        "off_policyness": {str(lag): histogram[lag] for lag in sorted(histogram)},
        "off_policyness_mean": float(lags.mean()),
        "off_policyness_max": int(lags.max()),
        "num_groups": len(groups),
        **({f"pass_rate_{task}": rate for task, rate in rates.items()} if len(tasks) > 1 else {}),
    }
