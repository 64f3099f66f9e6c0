"""Turn the groups of a step into what is trained: advantages, token weights, sequences."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from scalerl.algo.advantages import advantages, has_variance
from scalerl.algo.aggregation import token_weights
from scalerl.config import AlgoConfig
from scalerl.spool.schema import Group, Rollout
from scalerl.trainer.packing import TrainingSequence


def training_sequences(
    groups: Sequence[Group], algo: AlgoConfig
) -> tuple[list[TrainingSequence], dict[str, int]]:
    """Return the sequences that have a loss, and how many groups were dropped, by reason.

    groups: all of the step, in order, with equally many completions each.
    """
    # Every rank computes this from the whole batch, though it trains only its share: the standard deviation
    # of the advantages and the denominators of the loss are then those of the step, whatever the number of
    # ranks.
    values, kept = advantages(_rewards(groups), norm=algo.advantage_norm, zero_variance=algo.zero_variance)
    lengths = np.array([[np.count_nonzero(rollout.loss_mask) for rollout in group] for group in groups])
    # A group that was dropped has no tokens left, so it counts in no denominator: that is the effective
    # batch.
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
    """Return prompt and completion as one sequence, with a loss on the tokens that were sampled."""
    loss_tokens = np.flatnonzero(rollout.loss_mask)
    return TrainingSequence(
        tokens=np.concatenate([rollout.prompt_token_ids, rollout.completion_token_ids]).astype(np.int64),
        loss_positions=len(rollout.prompt_token_ids) + loss_tokens,
        generator_logprobs=np.asarray(rollout.logprobs, dtype=np.float32)[loss_tokens],
        advantage=float(advantage),
        weight=float(weight),
    )


def batch_statistics(groups: Sequence[Group], step: int) -> dict[str, Any]:
    """Return what a step row says of all completions of the batch, before any filter.

    `step` is the policy version that trains them. A batch of several tasks also has a `pass_rate_<task>` of
    each.
    """
    rollouts = [rollout for group in groups for rollout in group]
    lengths = [len(rollout.completion_token_ids) for rollout in rollouts]
    return {
        "reward": _mean(rollout.reward for rollout in rollouts),
        "pass_rate": _mean(rollout.correct for rollout in rollouts),
        "completion_tokens_mean": _mean(lengths),
        "completion_tokens_max": max(lengths),
        "truncation_rate": _mean(rollout.truncated for rollout in rollouts),
        "interruption_rate": _mean(rollout.interrupted for rollout in rollouts),
        **_off_policyness(rollouts, step),
        "num_groups": len(groups),
        "zero_variance_groups": int(np.count_nonzero(~has_variance(_rewards(groups)))),
        **_task_pass_rates(rollouts),
    }


def _rewards(groups: Sequence[Group]) -> np.ndarray:
    # [prompts, completions]
    return np.array([[rollout.reward for rollout in group] for group in groups])


def _off_policyness(rollouts: Sequence[Rollout], step: int) -> dict[str, Any]:
    """Return mean, maximum and histogram {lag: tokens} of the optimizer steps each token lags behind."""
    lags = step - np.concatenate([rollout.policy_versions for rollout in rollouts])
    histogram = Counter(lags.tolist())
    return {
        "off_policyness": {str(lag): histogram[lag] for lag in sorted(histogram)},
        "off_policyness_mean": float(lags.mean()),
        "off_policyness_max": int(lags.max()),
    }


def _task_pass_rates(rollouts: Sequence[Rollout]) -> dict[str, float]:
    tasks = sorted({rollout.task for rollout in rollouts})
    if len(tasks) == 1:
        return {}
    return {
        f"pass_rate_{task}": _mean(rollout.correct for rollout in rollouts if rollout.task == task)
        for task in tasks
    }


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))
