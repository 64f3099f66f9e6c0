"""Two prompts of two completions, 1, 3, 2 and 4 tokens long; every token weighs 1/10; the generator gave each
a chance of 1/2."""

from dataclasses import dataclass
from math import log

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scalerl.algo.losses import LOSSES

RATIOS = [3.0, 0.5, 1.0, 2.5, 1.1, 1.5, 0.7, 1.0, 1.3, 0.9]
ADVANTAGES = [1.0, -1.0, -1.0, -1.0, 0.5, 0.5, -0.5, -0.5, -0.5, -0.5]
SEQUENCES = [0, 1, 1, 1, 2, 2, 3, 3, 3, 3]


@dataclass(frozen=True)
class Clipping:
    cispo_eps_max: float = 2.0
    dapo_eps_low: float = 0.2
    dapo_eps_high: float = 0.26
    grpo_eps: float = 0.2
    gspo_eps_low: float = 3e-3
    gspo_eps_high: float = 4e-3


def evaluate(name, log_ratios, advantages, sequences, weight=0.1):
    """(loss, gradient with respect to the log-probabilities, number of clipped tokens)"""
    generator = torch.full((len(log_ratios),), log(0.5), dtype=torch.float64)
    logprobs = (generator + torch.tensor(log_ratios, dtype=torch.float64)).requires_grad_()
    weights = torch.full_like(generator, weight)
    loss, metrics = LOSSES[name](
        logprobs,
        generator,
        torch.tensor(advantages, dtype=torch.float64),
        weights,
        torch.tensor(sequences),
        Clipping(),
    )
    loss.backward()
    return loss.item(), logprobs.grad, metrics["clipped"].item()


# Of each token, the part of the objective that its own ratio makes; clipped tokens have no gradient.
HAND_WORKED = {
    # ratios above 2 are cut to 2; -(ratio A log p) / 10, and the ratio is a constant for the gradient
    "cispo": (
        -0.1
        * (
            2 * log(1.5)
            - (0.5 * log(0.25) + log(0.5) + 2 * log(1.25))
            + 0.5 * (1.1 * log(0.55) + 1.5 * log(0.75))
            - 0.5 * (0.7 * log(0.35) + log(0.5) + 1.3 * log(0.65) + 0.9 * log(0.45))
        ),
        [-0.2, 0.05, 0.1, 0.2, -0.055, -0.075, 0.035, 0.05, 0.065, 0.045],
        2,
    ),
    # A > 0: at most 1.26; A < 0: at least 0.8. -(1.26 - 4.3 + 1.18 - 2) / 10
    "dapo": (0.386, [0, 0, 0.1, 0.25, -0.055, 0, 0, 0.05, 0.065, 0.045], 4),
    # A > 0: at most 1.2; A < 0: at least 0.8. -(1.2 - 4.3 + 1.15 - 2) / 10
    "grpo": (0.395, [0, 0, 0.1, 0.25, -0.055, 0, 0, 0.05, 0.065, 0.045], 4),
    # ratios of the sequences: 3 -> 1.004; 1.25^(1/3) = 1.0772173; 1.65^(1/2) -> 1.004; 0.819^(1/4) -> 0.997
    # -(1.004 - 3 x 1.0772173 + 1.004 - 2 x 0.997) / 10; only the second sequence has a gradient, 1.0772173 /
    # 10 a token
    "gspo": (0.32176520, [0, 0.10772173, 0.10772173, 0.10772173, 0, 0, 0, 0, 0, 0], 7),
}


@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_gradient_by_hand(name):
    expected_loss, expected_gradient, expected_clipped = HAND_WORKED[name]
    loss, gradient, clipped = evaluate(name, [log(ratio) for ratio in RATIOS], ADVANTAGES, SEQUENCES)
    assert loss == pytest.approx(expected_loss, abs=1e-7)
    assert gradient.tolist() == pytest.approx(expected_gradient, abs=1e-7)
    assert clipped == expected_clipped


@pytest.mark.parametrize("name", LOSSES)
def test_on_policy_every_loss_is_the_policy_gradient(name):
    _, gradient, clipped = evaluate(name, [0.0] * 10, ADVANTAGES, SEQUENCES)
    assert gradient.tolist() == pytest.approx([-0.1 * advantage for advantage in ADVANTAGES])
    assert clipped == 0


@given(
    name=st.sampled_from(sorted(LOSSES)),
    log_ratios=st.lists(st.floats(-1e5, 1e5), min_size=4, max_size=4),
    advantages=st.lists(st.sampled_from([-2.0, 0.0, 3.0]), min_size=4, max_size=4),
)
def test_extreme_ratios_stay_finite(name, log_ratios, advantages):
    loss, gradient, _ = evaluate(name, log_ratios, advantages, [0, 0, 1, 1])
    assert torch.isfinite(torch.tensor(loss))
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("name", LOSSES)
def test_tokens_of_no_weight_change_nothing_and_are_not_counted(name):
    loss, gradient, clipped = evaluate(name, [9.0, -9.0], [1.0, -1.0], [0, 1], weight=0.0)
    assert (loss, clipped) == (0.0, 0)
    assert (gradient == 0).all()


def test_cispo_has_no_lower_bound_and_keeps_the_gradient_of_capped_tokens():
    _, gradient, _ = evaluate("cispo", [log(1e-6), log(1e6)], [1.0, 1.0], [0, 0])
    assert gradient.tolist() == pytest.approx([-0.1 * 1e-6, -0.1 * 2.0])
