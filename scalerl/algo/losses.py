"""The policy losses: cispo (ScaleRL), dapo, grpo, gspo (paper, section 3).
 Each takes the loss tokens of some completions as flat tensors [T] and returns the summed loss and
{"clipped": number of tokens whose ratio was capped}. What a token weighs, and so every denominator, is the
caller's (scalerl/algo/aggregation.py): the losses of the micro-batches of a step add up to the loss of the
step.

logprobs: log pi_train of each token, with gradient. generator_logprobs: what the generator reported when it
sampled the token.
advantages: of the token's completion. weights: of each token; 0 for padding. sequence_ids: int64, which
completion a token belongs to; all loss tokens of a completion must be there.
"""

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

LOG_RATIO_LIMIT = 20.0
"""Log ratios are cut here, with no gradient beyond: e^20 times a weight is finite, and 0 x inf never
arises."""


class LossConfig(Protocol):
    """The clipping constants; config.AlgoConfig has them."""

    @property
    def cispo_eps_max(self) -> float: ...
    @property
    def dapo_eps_low(self) -> float: ...
    @property
    def dapo_eps_high(self) -> float: ...
    @property
    def grpo_eps(self) -> float: ...
    @property
    def gspo_eps_low(self) -> float: ...
    @property
    def gspo_eps_high(self) -> float: ...


Loss = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, LossConfig], tuple[Tensor, dict[str, Tensor]]]


def cispo(
    logprobs: Tensor,
    generator_logprobs: Tensor,
    advantages: Tensor,
    weights: Tensor,
    sequence_ids: Tensor,
    config: LossConfig,
) -> tuple[Tensor, dict[str, Tensor]]:
    """-sg(min(rho, eps_max)) A log pi. eps_max caps the ratio itself; there is no lower bound, and every
    token has a gradient."""
    log_ratios = (logprobs - generator_logprobs).detach()
    log_cap = math.log(config.cispo_eps_max)
    ratios = log_ratios.clamp(max=log_cap).exp()
    loss = -(weights * ratios * advantages * logprobs).sum()
    return loss, {"clipped": _count(log_ratios > log_cap, weights)}


def dapo(
    logprobs: Tensor,
    generator_logprobs: Tensor,
    advantages: Tensor,
    weights: Tensor,
    sequence_ids: Tensor,
    config: LossConfig,
) -> tuple[Tensor, dict[str, Tensor]]:
    """-min(rho A, clip(rho, 1 - eps_low, 1 + eps_high) A), a ratio for each token."""
    return _clipped(
        logprobs - generator_logprobs, advantages, weights, config.dapo_eps_low, config.dapo_eps_high
    )


def grpo(
    logprobs: Tensor,
    generator_logprobs: Tensor,
    advantages: Tensor,
    weights: Tensor,
    sequence_ids: Tensor,
    config: LossConfig,
) -> tuple[Tensor, dict[str, Tensor]]:
    """As dapo, with the same eps on both sides; no KL term."""
    return _clipped(logprobs - generator_logprobs, advantages, weights, config.grpo_eps, config.grpo_eps)


def gspo(
    logprobs: Tensor,
    generator_logprobs: Tensor,
    advantages: Tensor,
    weights: Tensor,
    sequence_ids: Tensor,
    config: LossConfig,
) -> tuple[Tensor, dict[str, Tensor]]:
    """As dapo on the length-normalised ratio of the completion, exp(mean_t log rho_t); all its tokens share
    that ratio."""
    log_ratios = logprobs - generator_logprobs
    num_sequences = int(sequence_ids.max()) + 1
    sums = log_ratios.new_zeros(num_sequences).index_add(0, sequence_ids, log_ratios)
    lengths = torch.bincount(sequence_ids, minlength=num_sequences).clamp(min=1)
    sequence_log_ratios = (sums / lengths)[sequence_ids]
    return _clipped(sequence_log_ratios, advantages, weights, config.gspo_eps_low, config.gspo_eps_high)


def _clipped(
    log_ratios: Tensor, advantages: Tensor, weights: Tensor, eps_low: float, eps_high: float
) -> tuple[Tensor, dict[str, Tensor]]:
    ratios = log_ratios.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
    unclipped = ratios * advantages
    clipped = ratios.clamp(1 - eps_low, 1 + eps_high) * advantages
    loss = -(weights * torch.minimum(unclipped, clipped)).sum()
    return loss, {"clipped": _count(clipped < unclipped, weights)}


def _count(chosen: Tensor, weights: Tensor) -> Tensor:
    return (chosen & (weights > 0)).sum()


LOSSES: dict[str, Loss] = {"cispo": cispo, "dapo": dapo, "grpo": grpo, "gspo": gspo}
