"""The LM head of the trainer: log-probabilities of given tokens, a chunk of tokens at a time.

The logits [tokens, vocabulary] of a long micro-batch do not fit in memory in fp32. Here at most
`chunk_tokens` rows of them exist, in the forward pass and in the backward pass, which computes them a second
time.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """How the head computes."""

    fp32: bool
    """Compute logits from fp32 copies of hidden states and weight (ScaleRL), or else in the dtype of the
    body.
    """
    temperature: float
    """Divisor of the logits, as in sampling."""
    chunk_tokens: int
    """Tokens whose logits exist at once."""


class _TokenLogprobs(torch.autograd.Function):
    """Map (hidden [T, H], weight [V, H], targets [T]) to (logprobs [T], entropies [T]), both fp32, in nats.

    Entropies carry no gradient.
    """

    @staticmethod
    def forward(
        ctx, hidden: Tensor, weight: Tensor, targets: Tensor, config: HeadConfig
    ) -> tuple[Tensor, Tensor]:
        # The weight is saved as it is and upcast again in backward: under ZeRO-3 the parameter is only lent
        # to this module.
        ctx.save_for_backward(hidden, weight, targets)
        ctx.config = config
        matrix = weight.float() if config.fp32 else weight
        results = [
            _chunk_forward(_logits(block, matrix, config), wanted)
            for block, wanted in zip(
                hidden.split(config.chunk_tokens), targets.split(config.chunk_tokens), strict=True
            )
        ]
        logprobs, entropies = (torch.cat(column) for column in zip(*results, strict=True))
        ctx.mark_non_differentiable(entropies)
        return logprobs, entropies

    @staticmethod
    def backward(ctx, grad_logprobs: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None, None]:
        hidden, weight, targets = ctx.saved_tensors
        config = ctx.config
        # One upcast and one fp32 sum over all chunks: a sum in bf16 would lose the small terms.
        matrix = weight.float() if config.fp32 else weight
        grad_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
        grad_hidden = torch.empty_like(hidden)
        # The logits of a chunk are computed again: to keep them from the forward pass would take the memory
        # that chunks are there to save.
        for begin in range(0, len(hidden), config.chunk_tokens):
            chunk = slice(begin, begin + config.chunk_tokens)
            block = hidden[chunk].to(matrix.dtype)
            grad = _chunk_backward(
                _logits(block, matrix, config), targets[chunk], grad_logprobs[chunk], config.temperature
            )
            grad = grad.to(matrix.dtype)
            grad_hidden[chunk] = (grad @ matrix).to(hidden.dtype)
            if matrix.dtype == torch.float32:
                grad_weight.addmm_(grad.T, block)
            else:
                grad_weight += grad.T @ block
        return grad_hidden, grad_weight.to(weight.dtype), None, None


def _logits(block: Tensor, matrix: Tensor, config: HeadConfig) -> Tensor:
    """Return the logits [T, V] of a chunk after the temperature, in fp32 whatever they were computed in."""
    return functional.linear(block.to(matrix.dtype), matrix).float().div_(config.temperature)


def _chunk_forward(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return (logprobs [T], entropies [T]) from the logits [T, V]."""
    all_logprobs = logits.log_softmax(dim=-1)
    logprobs = all_logprobs.gather(-1, targets[:, None]).squeeze(-1)
    # A second softmax is several times faster on CPU than all_logprobs.exp().
    entropies = -logits.softmax(dim=-1).mul_(all_logprobs).sum(dim=-1)
    return logprobs, entropies


def _chunk_backward(logits: Tensor, targets: Tensor, grad_logprobs: Tensor, temperature: float) -> Tensor:
    """Return the gradient of the logits before the temperature: (one-hot - softmax) g / temperature."""
    grad = logits.softmax(dim=-1).neg_()
    grad[torch.arange(len(targets), device=targets.device), targets] += 1
    return grad.mul_((grad_logprobs / temperature)[:, None])


class LogprobHead(nn.Module):
    """The LM head as a module of its own that ends in log-probabilities.

    It holds the weight, tied to the embedding or not, as its own parameter: ZeRO-3 gathers parameters module
    by module.
    """

    def __init__(self, weight: nn.Parameter, config: HeadConfig) -> None:
        """Share `weight` [V, H] with the model it was taken from."""
        super().__init__()
        self.weight = weight
        self.config = config

    def forward(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return (logprobs [T], entropies [T]), in fp32 and nats, of `targets` [T].

        hidden: [T, H] states that predict them.
        """
        return _TokenLogprobs.apply(hidden, self.weight, targets, self.config)
