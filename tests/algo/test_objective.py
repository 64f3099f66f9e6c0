"""From rewards to the loss of a step: every loss x aggregation x norm x filter, by hand and against plain
loops over the formulas.

Two prompts of two completions with 1, 3, 2 and 4 loss tokens go through the trainer's own path: groups,
sequences, micro-batches.
"""

import itertools
from math import exp, log
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from scalerl.algo.losses import LOSSES
from scalerl.config import AlgoConfig
from scalerl.trainer.objective import training_sequences
from scalerl.trainer.packing import pack

AGGREGATIONS, NORMS = ("sample", "prompt", "token"), ("none", "prompt", "batch")
LOG_RATIOS = [[[1.2], [-0.6, 0.0, 0.9]], [[0.1, 0.4], [-0.35, 0.002, 0.25, -0.1]]]
REWARDS = [[1.0, -1.0], [1.0, 0.0]]


def group(rewards, log_ratios):
    """Return rollouts of one prompt, as far as the objective reads them; the first token of each is forced
    and outside the loss."""
    return [
        SimpleNamespace(
            reward=reward,
            prompt_token_ids=[7, 8],
            completion_token_ids=list(range(len(values) + 1)),
            logprobs=[0.0] + [log(0.5)] * len(values),
            loss_mask=[False] + [True] * len(values),
        )
        for reward, values in zip(rewards, log_ratios, strict=True)
    ]


def step(algo: AlgoConfig, rewards, log_ratios) -> tuple[float, list[float], dict]:
    """Return what one optimizer step makes: (loss, gradient by the log-probability of each loss token in
    order, dropped)."""
    groups = [group(*pair) for pair in zip(rewards, log_ratios, strict=True)]
    sequences, dropped = training_sequences(groups, algo)
    kept = [
        values for rows, pair in zip(log_ratios, rewards, strict=True) if _kept(pair, algo) for values in rows
    ]
    total, gradients = 0.0, []
    for sequence, values in zip(sequences, kept, strict=True):  # a micro-batch each: their losses must add up
        (batch,) = pack([sequence], budget_tokens=64, layout="one_row", rank=0, world_size=1)
        logprobs = (
            batch.generator_logprobs.double() + torch.tensor(values, dtype=torch.float64)
        ).requires_grad_()
        others = [tensor.double() for tensor in (batch.generator_logprobs, batch.advantages, batch.weights)]
        loss, _ = LOSSES[algo.loss_type](logprobs, *others, batch.sequence_ids, algo)
        loss.backward()
        assert logprobs.grad is not None
        total += loss.item()
        gradients += logprobs.grad.tolist()
    return total, gradients, dropped


def _kept(rewards, algo) -> bool:
    return algo.zero_variance == "keep" or len(set(rewards)) > 1


# On policy, with every token's chance 1/2, the CISPO loss is -log(1/2) times the sum of weight x advantage.
#   norm none:   A = 1, -1 | 1/2, -1/2      prompt: 1, -1 | 1, -1      batch: the first, divided by sqrt(5/8)
#   sample:      every completion counts 1/4, so the advantages cancel
#   prompt:      ((1 - 3) A / 4 + (2 - 4) A' / 6) / 2 = -A / 4 - A' / 6
#   token:       ((1 - 3) A + (2 - 4) A') / 10 = -(A + A') / 5
BY_HAND = {
    ("sample", "none"): 0.0,
    ("sample", "prompt"): 0.0,
    ("sample", "batch"): 0.0,
    ("prompt", "none"): -1 / 3,
    ("prompt", "prompt"): -5 / 12,
    ("prompt", "batch"): -1 / 3 / 0.625**0.5,
    ("token", "none"): -3 / 10,
    ("token", "prompt"): -2 / 5,
    ("token", "batch"): -3 / 10 / 0.625**0.5,
}


@pytest.mark.parametrize(("aggregation", "norm"), BY_HAND)
def test_on_policy_cispo_by_hand(aggregation, norm):
    algo = AlgoConfig(loss_aggregation=aggregation, advantage_norm=norm)
    on_policy = [[[0.0] * len(values) for values in rows] for rows in LOG_RATIOS]
    loss, _, _ = step(algo, REWARDS, on_policy)
    assert loss == pytest.approx(BY_HAND[aggregation, norm] * log(2), abs=1e-6)


def test_a_prompt_of_equal_rewards_weighs_in_the_mean_only_if_kept():
    rewards = [[1.0, -1.0], [1.0, 1.0]]
    dropped_loss, gradient, dropped = step(AlgoConfig(advantage_norm="none"), rewards, LOG_RATIOS)
    kept_loss, kept_gradient, kept = step(
        AlgoConfig(advantage_norm="none", zero_variance="keep"), rewards, LOG_RATIOS
    )
    assert (dropped, kept) == ({"zero_variance": 1}, {})
    assert kept_loss == pytest.approx(dropped_loss / 2)  # the mean over prompts has two, one of them nothing
    assert kept_gradient == pytest.approx([value / 2 for value in gradient] + [0.0] * 6)


def reference(algo: AlgoConfig, rewards, log_ratios) -> tuple[float, list[float]]:
    """Work out the same from the paper's formulas (section 3), with loops and plain numbers, without
    scalerl.algo."""
    kept = [index for index, pair in enumerate(rewards) if _kept(pair, algo)]
    centred = [[reward - sum(rewards[p]) / len(rewards[p]) for reward in rewards[p]] for p in kept]
    everything = [value for row in centred for value in row]
    deviation = (sum(value**2 for value in everything) / len(everything)) ** 0.5
    num_tokens = sum(len(values) for p in kept for values in log_ratios[p])
    num_completions = sum(len(log_ratios[p]) for p in kept)
    total, gradient = 0.0, []
    for row, p in enumerate(kept):
        own_deviation = (sum(value**2 for value in centred[row]) / len(centred[row])) ** 0.5
        tokens_of_prompt = sum(len(values) for values in log_ratios[p])
        for column, values in enumerate(log_ratios[p]):
            scale = {"none": 1.0, "prompt": own_deviation, "batch": deviation}[algo.advantage_norm]
            advantage = centred[row][column] / scale if scale else 0.0
            denominator = {
                "sample": num_completions * len(values),
                "prompt": len(kept) * tokens_of_prompt,
                "token": num_tokens,
            }[algo.loss_aggregation]
            for value in values:
                objective, slope = token_objective(algo, value, values, advantage)
                total -= objective / denominator
                gradient.append(-slope / denominator)
    return total, gradient


def token_objective(algo: AlgoConfig, log_ratio, log_ratios, advantage) -> tuple[float, float]:
    """Return (objective of a token, its derivative by the token's own log-probability). For gspo they are the
    token's share of the completion's."""
    if algo.loss_type == "cispo":
        weight = min(exp(log_ratio), algo.cispo_eps_max)
        return weight * advantage * (log(0.5) + log_ratio), weight * advantage
    low, high = {
        "dapo": (algo.dapo_eps_low, algo.dapo_eps_high),
        "grpo": (algo.grpo_eps, algo.grpo_eps),
        "gspo": (algo.gspo_eps_low, algo.gspo_eps_high),
    }[algo.loss_type]
    # the mean log ratio depends on a token's log-probability by 1/n, and n tokens share it: the slopes add up
    # to the same
    ratio = exp(sum(log_ratios) / len(log_ratios) if algo.loss_type == "gspo" else log_ratio)
    clipped = min(max(ratio, 1 - low), 1 + high)
    if clipped * advantage < ratio * advantage:
        return clipped * advantage, 0.0
    return ratio * advantage, ratio * advantage


COMBINATIONS = list(itertools.product(LOSSES, AGGREGATIONS, NORMS, ("drop", "keep")))


@pytest.mark.parametrize(("loss", "aggregation", "norm", "zero_variance"), COMBINATIONS)
@pytest.mark.parametrize("rewards", [REWARDS, [[1.0, -1.0], [1.0, 1.0]]])
def test_every_combination_against_plain_loops(loss, aggregation, norm, zero_variance, rewards):
    algo = AlgoConfig(
        loss_type=loss,
        loss_aggregation=aggregation,
        advantage_norm=norm,
        zero_variance=zero_variance,
        cispo_eps_max=2.0,
    )
    total, gradient, _ = step(algo, rewards, LOG_RATIOS)
    expected, expected_gradient = reference(algo, rewards, LOG_RATIOS)
    assert total == pytest.approx(expected, rel=1e-5, abs=1e-7)
    assert gradient == pytest.approx(expected_gradient, rel=1e-5, abs=1e-7)
    assert np.count_nonzero(gradient) > 0
