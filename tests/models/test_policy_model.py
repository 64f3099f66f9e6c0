"""Every family's log-probabilities, entropies and gradients in chunks, against its own logits."""

import numpy as np
import pytest
import torch
from families import FAMILIES, VOCABULARY, build_family

from scalerl.trainer.model.head import HeadConfig
from scalerl.trainer.model.policy import PolicyModel
from scalerl.trainer.packing import TrainingSequence, micro_batch

TEMPERATURE = 0.8


def make_batch():
    tokens = np.random.default_rng(0).integers(VOCABULARY, size=61)
    sequence = TrainingSequence(
        tokens=tokens,
        loss_positions=np.arange(7, 61),
        generator_logprobs=np.zeros(54, dtype=np.float32),
        advantage=1.0,
        weight=1.0,
    )
    return torch.from_numpy(tokens), micro_batch([[sequence]])


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {
        key: parameter.grad.clone()
        for key, parameter in model.named_parameters()
        if parameter.grad is not None
    }


@pytest.mark.parametrize("name", FAMILIES)
def test_the_models_own_forward_computes_the_logits(name):
    model = build_family(name)
    model.set_attn_implementation("eager")
    tokens, batch = make_batch()
    logprobs = (model(input_ids=tokens[None, :-1], use_cache=False).logits[0, 6:] / TEMPERATURE).log_softmax(
        -1
    )
    expected = logprobs.gather(-1, tokens[7:, None])[:, 0]
    weights = torch.linspace(-1, 1, len(expected))

    head = HeadConfig(fp32=True, temperature=TEMPERATURE, chunk_tokens=20)
    found, entropies = PolicyModel(model, head)(batch)
    assert torch.allclose(found, expected, atol=1e-5)
    assert torch.allclose(entropies, -(logprobs.exp() * logprobs).sum(-1), atol=1e-5)
    found_gradients = gradients(model, (weights * found).sum())
    for key, gradient in gradients(model, (weights * expected).sum()).items():
        assert torch.allclose(
            found_gradients[key], gradient, atol=1e-4 * gradient.abs().max().item() + 1e-7
        ), key
