"""What test_zero3.py and the processes it starts (zero3_worker.py) share: models, rollouts, configs."""

from pathlib import Path

import numpy as np
import torch
from factories import make_rollout
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from scalerl.config import RunConfig
from scalerl.settings import build_config
from scalerl.spool.schema import Rollout

VOCABULARY = 31
NUM_EXPERTS = 8
ROTARY_MODELS = ("tied", "llama3", "gemma3")
"""Plain frequencies; frequencies scaled for a longer context; two sets of them, and a scale of the
embeddings."""
LEARNING_RATES = [1e-3, 2e-3, 2e-3]
CASES = {
    "one_micro_batch": {"trainer.micro_batch_tokens": 4096},
    "many_micro_batches": {"trainer.micro_batch_tokens": 64},
    "untied": {
        "trainer.micro_batch_tokens": 64,
        "algo.loss_type": "dapo",
        "algo.loss_aggregation": "sample",
        "algo.advantage_norm": "prompt",
        "algo.zero_variance": "keep",
        "algo.temperature": 0.8,
    },
    "checkpointed": {
        "trainer.micro_batch_tokens": 128,
        "trainer.activation_checkpointing": True,
        "algo.loss_type": "gspo",
        "algo.loss_aggregation": "token",
        "algo.advantage_norm": "none",
    },
    # Where a rank has nothing to do, its 3 tokens of padding reach 2 of the 8 experts in each layer.
    "moe": {"trainer.micro_batch_tokens": 64, "trainer.activation_checkpointing": True},
}


def model_name(case: str) -> str:
    return case if case in ("untied", "moe") else "tied"


def make_config(case: str, num_ranks: int, **changes) -> RunConfig:
    values = {
        "model.dtype": "float32",
        "length.length_control": "none",
        "length.max_prompt_tokens": 16,
        "length.max_thinking_tokens": 32,
        "length.max_solution_tokens": 16,
        "optimizer.eps": 1e-5,  # with the default, the sign of a rounding error would decide an update
        "optimizer.max_grad_norm": 0.05,
        "trainer.num_ranks": num_ranks,
        "trainer.logprob_chunk_tokens": 16,
        "trainer.activation_checkpointing": False,
        "budget.max_steps": 4,
    }
    return build_config(values | CASES[case] | changes)


def save_models(folder: Path) -> None:
    shape = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "head_dim": 8,
    }
    shape |= {
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "initializer_range": 0.1,
        "dtype": torch.float32,
    }
    for name in ("tied", "untied"):
        torch.manual_seed(0)
        Qwen3ForCausalLM(Qwen3Config(**shape, tie_word_embeddings=name == "tied")).save_pretrained(
            folder / name
        )
    rope = {
        "rope_type": "llama3",
        "rope_theta": 5e5,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
    }
    rope |= {"original_max_position_embeddings": 512}
    LlamaForCausalLM(LlamaConfig(**shape, rope_parameters=rope)).save_pretrained(folder / "llama3")
    Gemma3ForCausalLM(Gemma3TextConfig(**shape)).save_pretrained(folder / "gemma3")
    experts = {
        "num_experts": NUM_EXPERTS,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "norm_topk_prob": True,
    }
    torch.manual_seed(0)
    Qwen3MoeForCausalLM(Qwen3MoeConfig(**shape, **experts)).save_pretrained(folder / "moe")


def random_rollout(
    random: np.random.Generator, group: int, completion: int, num_tokens: int, correct: bool
) -> Rollout:
    """Return a completion as the trainer reads it, in arrays; a fifth of its tokens are forced."""
    forced = random.random(num_tokens) < 0.2
    forced[-1] = False
    logprobs = -np.log(VOCABULARY) + 0.4 * random.normal(size=num_tokens)
    return make_rollout(
        group,
        completion,
        num_tokens,
        prompt_token_ids=random.integers(0, VOCABULARY, size=int(random.integers(2, 9))),
        completion_token_ids=random.integers(0, VOCABULARY, size=num_tokens),
        logprobs=np.where(forced, 0.0, logprobs).astype(np.float32),
        loss_mask=~forced,
        policy_versions=np.zeros(num_tokens, dtype=np.int32),
        correct=correct,
        interrupted=bool(forced.any()),
    )


def make_groups(step: int) -> list[list[Rollout]]:
    """Return the batch of a step; that of step 1 has one sequence with loss tokens, so that a second rank has
    nothing to do."""
    random = np.random.default_rng(step)
    if step == 1:
        group = [random_rollout(random, 0, index, 7, correct=index == 0) for index in range(2)]
        group[1].loss_mask[:] = False
        return [group]
    groups = []
    for group in range(4):
        lengths = random.integers(2, 33, size=4)
        correct = [True] * 4 if group == 3 else [index <= group for index in range(4)]
        groups.append(
            [random_rollout(random, group, index, int(lengths[index]), correct[index]) for index in range(4)]
        )
    return groups
