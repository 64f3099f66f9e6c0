"""The policy losses: cispo (ScaleRL), dapo, grpo, gspo (paper, section 3).

Each maps the loss tokens of some completions, flat tensors [T], to the summed loss and {"clipped": number of
tokens whose ratio was capped}.

logprobs            log pi_train of each token, with gradient
generator_logprobs  log-probability that the generator reported when it sampled the token
advantages          advantage of the token's completion
weights             weight of each token; 0 for padding
sequence_ids        int64, the completion a token belongs to; all loss tokens of a completion must be there
config              config.AlgoConfig, for the clipping constants

What a token weighs, and so every denominator, is the caller's (scalerl/algo/aggregation.py): the losses of
the micro-batches of a step add up to the loss of the step. rho is the ratio exp(log pi_train - log pi_gen) of
a token.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from scalerl.config import AlgoConfig

LOG_RATIO_LIMIT = 20.0
"""Bound of log ratios, with no gradient beyond: e^20 times a weight is finite, and 0 x inf never arises."""


Loss = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, "AlgoConfig"], tuple[Tensor, dict[str, Tensor]]]


def cispo(
    logprobs: Tensor,
    generator_logprobs: Tensor,
    advantages: Tensor,
    weights: Tensor,
    sequence_ids: Tensor,
    config: "AlgoConfig",
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the sum of -weight sg(min(rho, eps_max)) A log pi, where sg stops the gradient.

    eps_max caps the ratio itself, not 1 + eps; there is no lower bound.
    """
    # The ratio is a constant factor here, so a capped token keeps its gradient: that sets CISPO apart.
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
    config: "AlgoConfig",
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the sum of -weight min(rho A, clip(rho, 1 - eps_low, 1 + eps_high) A), with rho per token."""
    return _clipped(
        logprobs - generator_logprobs, advantages, weights, config.dapo_eps_low, config.dapo_eps_high
    )


def grpo(
    logprobs: Tensor,
    generator_logprobs: Tensor,
    advantages: Tensor,
    weights: Tensor,
    sequence_ids: Tensor,
    config: "AlgoConfig",
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss of dapo with the same eps on both sides; there is no KL term."""
    return _clipped(logprobs - generator_logprobs, advantages, weights, config.grpo_eps, config.grpo_eps)


def gspo(
    logprobs: Tensor,
    generator_logprobs: Tensor,
    advantages: Tensor,
    weights: Tensor,
    sequence_ids: Tensor,
    config: "AlgoConfig",
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss of dapo with one ratio for all tokens of a completion, exp(mean_t log rho_t)."""
    # All loss tokens of a completion lie in the same micro-batch, so its mean is whole here.
    log_ratios = logprobs - generator_logprobs
    num_sequences = int(sequence_ids.max()) + 1
    sums = log_ratios.new_zeros(num_sequences).index_add(0, sequence_ids, log_ratios)
    lengths = torch.bincount(sequence_ids, minlength=num_sequences).clamp(min=1)
    sequence_log_ratios = (sums / lengths)[sequence_ids]
    return _clipped(sequence_log_ratios, advantages, weights, config.gspo_eps_low, config.gspo_eps_high)


def _clipped(
    log_ratios: Tensor, advantages: Tensor, weights: Tensor, eps_low: float, eps_high: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the pessimistic of the clipped and the unclipped objective; a clipped token has no gradient."""
    ratios = log_ratios.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
    unclipped = ratios * advantages
    clipped = ratios.clamp(1 - eps_low, 1 + eps_high) * advantages
    loss = -(weights * torch.minimum(unclipped, clipped)).sum()
    return loss, {"clipped": _count(clipped < unclipped, weights)}


def _count(chosen: Tensor, weights: Tensor) -> Tensor:
    """Count the chosen tokens that are no padding."""
    return (chosen & (weights > 0)).sum()


# Keys are the values of config.AlgoConfig.loss_type. A new loss is a function above, an entry here and a
# value there: scalerl/trainer/README.md, "Add a loss".
LOSSES: dict[str, Loss] = {"cispo": cispo, "dapo": dapo, "grpo": grpo, "gspo": gspo}
