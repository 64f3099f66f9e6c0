"""The LM head of the trainer: log-probabilities of given tokens, a chunk of tokens at a time.

The logits [tokens, vocabulary] of a long micro-batch do not fit in memory in fp32. Here at most
`chunk_tokens` rows of them exist, in the forward pass and in the backward pass, which computes them a second
time.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
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


LastStep = Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor]
"""(hidden [T, H], product with the output embedding [1, T, H] -> [1, T, V]) -> logits [T, V]: what a model
computes from its last hidden states (`policy.LastStep`).
"""


def only_product(hidden: Tensor, product: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the logits of a model that computes nothing after the product with its output embedding."""
    return product(hidden[None]).squeeze(0)  # the gradient of [0] would be a copy


class _TokenLogprobs(torch.autograd.Function):
    """Map (hidden [T, H], weight [V, H], bias [V] or None, targets [T]) to (logprobs [T], entropies [T]).

    Both are fp32, in nats. Entropies carry no gradient.
    """

    @staticmethod
    def forward(
        ctx,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        last_step: LastStep,
        config: HeadConfig,
    ) -> tuple[Tensor, Tensor]:
        # The weight is saved as it is and upcast again in backward: under ZeRO-3 the parameter is only lent
        # to this module.
        ctx.save_for_backward(hidden, weight, bias, targets)
        ctx.last_step, ctx.config = last_step, config
        product = _Product(weight, bias, config)
        results = [
            _chunk_forward(_tempered(last_step(block, product).float(), config), wanted)
            for block, wanted in zip(
                hidden.split(config.chunk_tokens), targets.split(config.chunk_tokens), strict=True
            )
        ]
        logprobs, entropies = (torch.cat(column) for column in zip(*results, strict=True))
        ctx.mark_non_differentiable(entropies)
        return logprobs, entropies

    @staticmethod
    def backward(ctx, grad_logprobs: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets = ctx.saved_tensors
        config = ctx.config
        product = _Product(weight, bias, config, gradients=True)
        # The logits were divided by the temperature: so is their gradient, in what it is multiplied by.
        grad_logprobs = grad_logprobs / config.temperature
        grad_hidden = torch.empty_like(hidden)
        # The logits of a chunk are computed again: to keep them from the forward pass would take the memory
        # that chunks are there to save.
        for begin in range(0, len(hidden), config.chunk_tokens):
            chunk = slice(begin, begin + config.chunk_tokens)
            block = hidden[chunk].detach().requires_grad_()
            with torch.enable_grad():
                logits = ctx.last_step(block, product).float()
            edge = get_gradient_edge(logits)  # so that the logits themselves need not stay
            logits = _tempered(logits.detach(), config)
            grad = _chunk_backward(logits, targets[chunk], grad_logprobs[chunk])
            del logits
            (grad_hidden[chunk],) = torch.autograd.grad([edge], block, grad)
        assert product.grad_weight is not None
        grad_bias = None if product.grad_bias is None else product.grad_bias.to(weight.dtype)
        return grad_hidden, product.grad_weight.to(weight.dtype), grad_bias, None, None, None


class _Product:
    """The product with the output embedding, in the precision of the head."""

    def __init__(
        self, weight: Tensor, bias: Tensor | None, config: HeadConfig, *, gradients: bool = False
    ) -> None:
        # One upcast and one fp32 sum over all chunks: a sum in bf16 would lose the small terms.
        self.weight = weight.float() if config.fp32 else weight
        self.bias = bias if bias is None else bias.to(self.weight.dtype)
        self.grad_weight: Tensor | None = None
        self.grad_bias: Tensor | None = None
        if gradients:
            self.grad_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
            self.grad_bias = None if bias is None else torch.zeros_like(bias, dtype=torch.float32)

    def __call__(self, hidden: Tensor) -> Tensor:
        return _ProductFunction.apply(hidden.to(self.weight.dtype), self)


class _ProductFunction(torch.autograd.Function):
    """Multiply with the output embedding; add the gradients of weight and bias to the sums of `product`."""

    @staticmethod
    def forward(ctx, hidden: Tensor, product: _Product) -> Tensor:
        ctx.save_for_backward(hidden)
        ctx.product = product
        return functional.linear(hidden, product.weight, product.bias)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        product = ctx.product
        rows, inputs = (tensor.flatten(0, -2) for tensor in (grad, *ctx.saved_tensors))
        if rows.dtype == torch.float32:
            product.grad_weight.addmm_(rows.T, inputs)
        else:
            product.grad_weight += rows.T @ inputs
        if product.grad_bias is not None:
            product.grad_bias += rows.sum(dim=0, dtype=torch.float32)
        return grad @ product.weight, None


def _tempered(logits: Tensor, config: HeadConfig) -> Tensor:
    """Divide logits [T, V] by the temperature."""
    return logits if config.temperature == 1.0 else logits / config.temperature


def _chunk_forward(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return (logprobs [T], entropies [T]) from the logits [T, V]."""
    all_logprobs = logits.log_softmax(dim=-1)
    logprobs = all_logprobs.gather(-1, targets[:, None]).squeeze(-1)
    # A second softmax is several times faster on CPU than all_logprobs.exp().
    entropies = -logits.softmax(dim=-1).mul_(all_logprobs).sum(dim=-1)
    return logprobs, entropies


def _chunk_backward(logits: Tensor, targets: Tensor, grad_logprobs: Tensor) -> Tensor:
    """Return the gradient of the logits [T, V]: (one-hot - softmax) g."""
    grad = logits.softmax(dim=-1).neg_()
    grad[torch.arange(len(targets), device=targets.device), targets] += 1
    return grad.mul_(grad_logprobs[:, None])


class LogprobHead(nn.Module):
    """The LM head as a module of its own that ends in log-probabilities.

    It holds weight, tied to the embedding or not, and bias as its own parameters: ZeRO-3 gathers parameters
    module by module.
    """

    def __init__(
        self,
        weight: nn.Parameter,
        config: HeadConfig,
        *,
        bias: nn.Parameter | None = None,
        last_step: LastStep = only_product,
    ) -> None:
        """Share `weight` [V, H] and `bias` [V] with the model they were taken from."""
        super().__init__()
        self.weight = weight
        self.bias = bias
        self.last_step = last_step
        self.config = config

    def forward(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return (logprobs [T], entropies [T]), in fp32 and nats, of `targets` [T].

        hidden: [T, H] states that predict them.
        """
        return _TokenLogprobs.apply(hidden, self.weight, self.bias, targets, self.last_step, self.config)
