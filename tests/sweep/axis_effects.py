"""What a config does to small examples, worked out by the code of the run."""

from math import log
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from scalerl.algo.advantages import advantages
from scalerl.algo.aggregation import token_weights
from scalerl.algo.losses import LOSSES
from scalerl.algo.rewards import reward
from scalerl.config import RunConfig
from scalerl.inference.completion import CompletionSampler
from scalerl.inference.engine import EngineOptions
from scalerl.sweep.grid import grid
from scalerl.trainer.model.head import HeadConfig, LogprobHead
from scalerl.trainer.objective import training_sequences
from scalerl.trainer.state import TrainingState

SWEEPS = Path(__file__).parents[2] / "sweeps"
PROMPT_IDS = [f"p{number}" for number in range(10)]


def points(axis: str, scale: str = "ablation", base: str | None = None) -> dict[str, RunConfig]:
    """The configs of an axis by the names of its points."""
    files = [SWEEPS / "base.toml", SWEEPS / "scale" / f"{scale}.toml"]
    files += [SWEEPS / "bases" / f"{base}.toml"] if base else []
    runs = grid(files, SWEEPS / f"{axis}.toml", 1)
    return {run.name.removeprefix(f"{axis}-").removesuffix("-seed0"): run.config for run in runs}


def gradient(config: RunConfig, ratios: list[float]) -> list[float]:
    """Of the policy objective of one completion of weight 1 and advantage 1, by the log-probabilities of its
    tokens."""
    generator = torch.full((len(ratios),), log(0.1), dtype=torch.float64)
    logprobs = (generator + torch.tensor(ratios, dtype=torch.float64).log()).requires_grad_()
    one, same = torch.ones_like(generator), torch.zeros(len(ratios), dtype=torch.int64)
    loss, _ = LOSSES[config.algo.loss_type](logprobs, generator, one, one, same, config.algo)
    loss.backward()
    assert logprobs.grad is not None
    return [round(-value, 4) + 0.0 for value in logprobs.grad.tolist()]


def weight(config: RunConfig) -> float:
    """Of the first token of two prompts x two completions of 1, 3, 2 and 4 tokens."""
    return round(token_weights(np.array([[1, 3], [2, 4]]), config.algo.loss_aggregation)[0, 0], 6)


def advantage(config: RunConfig) -> float:
    """Of the completion with the reward 1 beside one of 0, where another prompt has 1 and -1."""
    rewards = np.array([[1.0, -1.0], [1.0, 0.0]])
    return round(
        advantages(rewards, norm=config.algo.advantage_norm, zero_variance=config.algo.zero_variance)[0][
            1, 0
        ],
        4,
    )


def num_trained(config: RunConfig) -> int:
    """Completions of a batch in which one prompt of two has equal rewards."""
    groups = [
        [
            SimpleNamespace(
                reward=value, loss_mask=[True], prompt_token_ids=[1], completion_token_ids=[2], logprobs=[0.0]
            )
            for value in pair
        ]
        for pair in ([1.0, -1.0], [1.0, 1.0])
    ]
    return len(training_sequences(groups, config.algo)[0])


def admitted_batches(config: RunConfig, step: int) -> float:
    """Batches that may be generated once `step` optimizer steps are done."""
    state = TrainingState.begin(config, PROMPT_IDS)
    for _ in range(step):
        for group in state.batch_groups:
            del state.admitted[group]
        state.finish_step([])
    return len(state.admitted) / state.batch_prompts


def published(config: RunConfig) -> list[int]:
    """The first policies that generators load."""
    state = TrainingState.begin(config, PROMPT_IDS)
    versions = []
    for state.step in range(17):
        if state.is_generation_policy:
            versions.append(state.step)
    return versions[:3]


def mastered_prompt_returns(config: RunConfig) -> bool:
    state = TrainingState.begin(config, PROMPT_IDS)
    state.stream.record("p3", 15, 16)
    state.stream.record("p4", 14, 16)  # .875, below .9
    drawn = state.stream.draw(30)
    assert "p4" in drawn
    return "p3" in drawn


def heads(config: RunConfig) -> tuple[bool, bool]:
    """Whether (generator, trainer) tell the logits 1 + 2^-9 and 1 apart, which bf16 cannot."""
    dtype = getattr(torch, config.model.dtype)
    matrix = torch.nn.Parameter(torch.tensor([[1.0, 1.0], [1.0, 0.0]], dtype=dtype))
    hidden = torch.tensor([[1.0, 2.0**-9]], dtype=dtype)

    def difference(fp32: bool) -> float:
        head = LogprobHead(matrix, HeadConfig(fp32=fp32, temperature=config.algo.temperature, chunk_tokens=8))
        return (head(hidden, torch.tensor([0]))[0] - head(hidden, torch.tensor([1]))[0]).item()

    trainer = difference(config.model.trainer_fp32_head)
    assert trainer == pytest.approx(2.0**-9, rel=1e-3) or trainer == 0.0
    return EngineOptions.of(config, seed=0).fp32_head, trainer != 0.0


def reward_of(config: RunConfig, num_tokens: int) -> float:
    return reward(True, num_tokens, penalty=config.length.penalty)


def thinking_budgets(config: RunConfig) -> tuple[int, int]:
    """The smallest and the largest number of tokens that 200 completions may have before they are interrupted
    or cut off."""
    asked: list[int] = []
    engine = SimpleNamespace(
        policy_name="policy", submit=lambda *_, max_tokens, **__: asked.append(max_tokens)
    )
    sampler: CompletionSampler = CompletionSampler(
        engine, SimpleNamespace(encode=lambda *_, **__: [1, 2]), config.length, seed=0
    )
    for key in range(200):
        sampler.submit(key, [1])
    return min(asked), max(asked)


def effects(config: RunConfig) -> dict[str, object]:
    return {
        "gradient": gradient(config, [1.23, 0.7, 1.27, 6.0]),
        "weight": weight(config),
        "advantage": advantage(config),
        "num_trained": num_trained(config),
        "admitted": admitted_batches(config, 0),
        "published": published(config),
        "mastered_returns": mastered_prompt_returns(config),
        "heads": heads(config),
        "reward": reward_of(config, 13_000),
        "interrupted": thinking_budgets(config)[1] <= config.length.interruption_max_tokens,
        "prompts": len(TrainingState.begin(config, PROMPT_IDS).batch_groups),
    }
