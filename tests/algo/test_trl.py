"""Our losses against TRL's on the same numbers, as record_trl.py wrote them down; double precision, so
equality is tight."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from scalerl.algo.aggregation import token_weights
from scalerl.algo.losses import LOSSES
from scalerl.config import AlgoConfig

RECORD = json.loads(Path(__file__).with_name("trl.json").read_text())


@pytest.mark.parametrize("case", RECORD["cases"])
def test_loss_and_gradient_equal_trl(case):
    name, aggregation = case.split()
    expected, lengths = RECORD["cases"][case], np.array(RECORD["lengths"])
    low, high = expected.get("epsilon_low", 0.0), expected["epsilon_high"]
    clipping = {"cispo": {"cispo_eps_max": high}, "grpo": {"grpo_eps": high}}
    config = AlgoConfig(**clipping.get(name, {f"{name}_eps_low": low, f"{name}_eps_high": high}))
    weights = token_weights(lengths.reshape(2, 2), aggregation).ravel()

    logprobs = torch.tensor(RECORD["logprobs"], dtype=torch.float64, requires_grad=True)
    loss, metrics = LOSSES[name](
        logprobs,
        torch.tensor(RECORD["generator_logprobs"], dtype=torch.float64),
        torch.tensor(np.repeat(RECORD["advantages"], lengths)),
        torch.tensor(np.repeat(weights, lengths)),
        torch.tensor(np.repeat(np.arange(4), lengths)),
        config,
    )
    loss.backward()
    assert loss.item() == pytest.approx(expected["loss"], rel=1e-9)
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx(expected["gradient"], rel=1e-9, abs=1e-12)
    assert 0 < metrics["clipped"] < lengths.sum()  # or the clip ranges would be untested
