"""The chunked head against log_softmax of the whole logits: numbers, gradients, and what it keeps in
memory."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from scalerl.trainer.model.head import HeadConfig, LogprobHead

TOKENS, HIDDEN, VOCABULARY = 23, 16, 101
CHUNK = 17


def make(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(TOKENS, HIDDEN, generator=generator).to(dtype).requires_grad_()
    weight = nn.Parameter(torch.randn(VOCABULARY, HIDDEN, generator=generator).to(dtype))
    targets = torch.randint(VOCABULARY, (TOKENS,), generator=generator)
    upstream = torch.randn(TOKENS, generator=generator)
    return hidden, weight, targets, upstream


def plain(hidden, weight, targets, temperature):
    logprobs = functional.log_softmax(functional.linear(hidden.float(), weight.float()) / temperature, dim=-1)
    return logprobs.gather(-1, targets[:, None]).squeeze(-1), -(logprobs.exp() * logprobs).sum(dim=-1)


@pytest.mark.parametrize("chunk_tokens", [1, 7, 23, 1000])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_against_log_softmax(chunk_tokens, temperature, dtype, tolerance):
    hidden, weight, targets, upstream = make(dtype)
    expected, expected_entropies = plain(hidden, weight, targets, temperature)
    expected_gradients = torch.autograd.grad((expected * upstream).sum(), [hidden, weight])

    head = LogprobHead(weight, HeadConfig(fp32=True, temperature=temperature, chunk_tokens=chunk_tokens))
    logprobs, entropies = head(hidden, targets)
    gradients = torch.autograd.grad((logprobs * upstream).sum(), [hidden, weight])

    assert logprobs.dtype == entropies.dtype == torch.float32
    assert torch.allclose(logprobs, expected, atol=1e-5)
    assert torch.allclose(entropies, expected_entropies, atol=1e-5)
    assert not entropies.requires_grad
    for gradient, reference in zip(gradients, expected_gradients, strict=True):
        assert gradient.dtype == dtype
        assert torch.allclose(
            gradient.float(), reference.float(), atol=tolerance * reference.abs().max().item()
        )


def test_tied_weight_gets_both_gradients():
    _, weight, targets, upstream = make()
    inputs = torch.arange(TOKENS) % VOCABULARY

    def gradient(head):
        return torch.autograd.grad((head(functional.embedding(inputs, weight)) * upstream).sum(), weight)[0]

    head = LogprobHead(weight, HeadConfig(fp32=True, temperature=1.0, chunk_tokens=5))
    chunked = gradient(lambda hidden: head(hidden, targets)[0])
    assert torch.allclose(chunked, gradient(lambda hidden: plain(hidden, weight, targets, 1.0)[0]), atol=1e-4)


def test_bf16_head_computes_its_logits_in_bf16():
    hidden, weight, targets, upstream = make(torch.bfloat16)
    logprobs, _ = LogprobHead(weight, HeadConfig(fp32=False, temperature=1.0, chunk_tokens=7))(
        hidden, targets
    )
    rounded = (
        functional.log_softmax(functional.linear(hidden, weight).float(), dim=-1)
        .gather(-1, targets[:, None])
        .squeeze(-1)
    )
    assert torch.allclose(logprobs, rounded, atol=1e-5)
    assert not torch.allclose(logprobs, plain(hidden, weight, targets, 1.0)[0], atol=1e-3)
    gradients = torch.autograd.grad((logprobs * upstream).sum(), [hidden, weight])
    expected = torch.autograd.grad((rounded * upstream).sum(), [hidden, weight])
    for gradient, reference in zip(gradients, expected, strict=True):
        assert torch.allclose(gradient.float(), reference.float(), atol=3e-2 * reference.abs().max().item())


def test_extreme_logits_stay_finite():
    _, weight, targets, _ = make()
    hidden = (1e4 * torch.randn(TOKENS, HIDDEN)).requires_grad_()
    logprobs, entropies = LogprobHead(weight, HeadConfig(fp32=True, temperature=1.0, chunk_tokens=7))(
        hidden, targets
    )
    logprobs.sum().backward()
    assert torch.isfinite(logprobs).all()
    assert torch.isfinite(entropies).all()
    assert torch.isfinite(hidden.grad).all()


class LargestTensor(TorchDispatchMode):
    """Watches what the operations below it allocate, forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0
        self.num_made = 0
        self.num_upcasts = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
                given = [other.data_ptr() for other in args if isinstance(other, torch.Tensor)]
                self.num_made += tensor.numel() == CHUNK * VOCABULARY and tensor.data_ptr() not in given
                casts = function is torch.ops.aten._to_copy.default and tensor.dtype == torch.float32
                self.num_upcasts += casts and tensor.shape == (VOCABULARY, HIDDEN)
        return result


def test_no_tensor_is_larger_than_a_chunk_of_logits_and_the_weight_is_upcast_once_a_pass():
    hidden, weight, targets, upstream = make(torch.bfloat16)
    head = LogprobHead(weight, HeadConfig(fp32=True, temperature=1.0, chunk_tokens=CHUNK))
    with LargestTensor() as forward:
        logprobs, _ = head(hidden, targets)
    with LargestTensor() as backward:
        (logprobs * upstream).sum().backward()
    assert forward.numel == backward.numel == CHUNK * VOCABULARY > VOCABULARY * HIDDEN
    assert forward.num_upcasts == backward.num_upcasts == 1
    with LargestTensor() as whole:
        plain(hidden, weight, targets, 1.0)
    assert whole.numel == TOKENS * VOCABULARY


def test_how_many_chunks_of_logits_the_backward_pass_makes():
    """The logits, what the temperature makes of them, and their gradient, in one dtype."""
    for temperature, num_chunks in ((1.0, 2), (0.7, 3)):
        hidden, weight, targets, upstream = make()
        head = LogprobHead(weight, HeadConfig(fp32=True, temperature=temperature, chunk_tokens=CHUNK))
        logprobs, _ = head(hidden, targets)
        with LargestTensor() as backward:
            (logprobs * upstream).sum().backward()
        assert backward.num_made == num_chunks
