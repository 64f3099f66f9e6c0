"""Make a tiny base model to run the whole recipe on: `scalerl base --output DIR`, about a minute of one core.

It is Qwen3-shaped, has one token per character, and is supervised on arithmetic chains
(scalerl/data/arithmetic.py) whose intermediate results are partly wrong. It solves about a quarter of the
chains of 1-12 steps at temperature 1, which leaves room for a curve.
"""

import shutil
import time
from pathlib import Path
from uuid import uuid4

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from scalerl.common.files import publish_folder
from scalerl.data.arithmetic import ALPHABET, draw_prompt, worked_solution

SPECIAL_TOKENS = ("<pad>", "<eos>", "<unk>")
PAD_ID, EOS_ID, UNKNOWN_ID = range(3)
IGNORED = -100
"""Label of a token without a loss."""
TRAINING_STEPS = 6
"""Operators of the longest chain supervised; longer ones are left to reinforcement learning."""
NOISE = 0.25
"""Chance that an intermediate result is replaced by a random digit; reinforcement learning mends that."""
EXAMPLES_PER_STEP = 128
EXAMPLES_PER_PIECE = 32
"""Examples that go through the model at once."""
LEARNING_RATE = 3e-3
WARMUP_STEPS = 20
NUM_EXPERTS = 8
EXPERTS_PER_TOKEN = 2


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token per character of the chain task.

    Padding, end of sequence and unknown come on top; encoding adds none of them.
    """
    vocabulary = {token: index for index, token in enumerate([*SPECIAL_TOKENS, *ALPHABET])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )


def build_model(
    *, hidden_size: int, num_layers: int, tie_embeddings: bool, moe: bool = False
) -> PreTrainedModel:
    """Return a Qwen3 of random weights from the global torch generator, in float32.

    moe: have 8 experts in every layer, of which a token goes through 2 that together are as wide as the dense
    layer.
    """
    shape = {
        "vocab_size": len(SPECIAL_TOKENS) + len(ALPHABET),
        "hidden_size": hidden_size,
        "intermediate_size": 3 * hidden_size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": 1024,
        "tie_word_embeddings": tie_embeddings,
        "pad_token_id": PAD_ID,
        "eos_token_id": EOS_ID,
        "bos_token_id": None,
        "dtype": torch.float32,
    }
    if not moe:
        return Qwen3ForCausalLM(Qwen3Config(**shape))
    experts = {"num_experts": NUM_EXPERTS, "num_experts_per_tok": EXPERTS_PER_TOKEN, "norm_topk_prob": True}
    expert_size = 3 * hidden_size // EXPERTS_PER_TOKEN
    return Qwen3MoeForCausalLM(Qwen3MoeConfig(**shape, **experts, moe_intermediate_size=expert_size))


def draw_batch(generator: np.random.Generator, num_examples: int) -> list[tuple[str, str]]:
    """Return (prompt, noisy solution) of chains of 1 to 6 steps, the shortest first."""
    # Sorted by length, so that the pieces of a batch hold little padding.
    examples = []
    for num_steps in generator.integers(1, TRAINING_STEPS + 1, size=num_examples):
        prompt = draw_prompt(generator, int(num_steps))
        examples.append((prompt, worked_solution(prompt, noise=NOISE, generator=generator)))
    return sorted(examples, key=lambda example: len(example[0]))


def encode(examples: list[tuple[str, str]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids and labels, both [examples, length].

    The labels are the solution and the end token; the rest is IGNORED.
    """
    ids = {character: index for index, character in enumerate(ALPHABET, start=len(SPECIAL_TOKENS))}
    length = max(len(prompt) + len(solution) + 1 for prompt, solution in examples)
    tokens = np.full((len(examples), length), PAD_ID)
    labels = np.full((len(examples), length), IGNORED)
    for row, (prompt, solution) in enumerate(examples):
        sequence = [ids[character] for character in prompt + solution] + [EOS_ID]
        tokens[row, : len(sequence)] = sequence
        labels[row, len(prompt) : len(sequence)] = sequence[len(prompt) :]
    return torch.from_numpy(tokens), torch.from_numpy(labels)


def accumulate_gradient(model: PreTrainedModel, examples: list[tuple[str, str]]) -> float:
    """Add the gradient of the mean cross-entropy over all label tokens, and return that mean, in nats."""
    # Examples come sorted by length and go through in pieces: little padding, and small enough for the cache.
    num_labels = sum(len(solution) + 1 for _, solution in examples)
    total = 0.0
    for begin in range(0, len(examples), EXAMPLES_PER_PIECE):
        tokens, labels = encode(examples[begin : begin + EXAMPLES_PER_PIECE])
        # Padding only follows a sequence, so the causal mask already hides it from every label.
        logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="sum"
        )
        (loss / num_labels).backward()
        total += loss.item()
    return total / num_labels


def supervise(model: PreTrainedModel, *, seed: int, steps: int) -> None:
    """Train `model` in place with AdamW: short warm-up, then linear decay to a tenth of the rate."""
    generator = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    begin_s = time.monotonic()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min((step + 1) / WARMUP_STEPS, 1 - 0.9 * step / steps)
        loss = accumulate_gradient(model, draw_batch(generator, EXAMPLES_PER_STEP))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % max(steps // 10, 1) == 0:
            elapsed_s = time.monotonic() - begin_s
            left_s = elapsed_s / (step + 1) * (steps - step - 1)
            print(f"base model: step {step + 1}/{steps}, loss {loss:.3f}, {left_s:.0f} s left", flush=True)


def train_base_model(
    output: Path,
    *,
    seed: int = 0,
    steps: int = 600,
    tie_embeddings: bool = True,
    hidden_size: int = 64,
    num_layers: int = 2,
    moe: bool = False,
) -> None:
    """Make a base model and save it as an ordinary Hugging Face folder, published whole by one rename.

    The defaults give about 125 thousand parameters, 347 thousand with `moe`. The same arguments give the same
    weights on the same machine; the caller's torch generator is left as it was.

    Raises:
        ValueError: `output` exists already, or `steps` is not positive.
    """
    if output.exists():
        raise ValueError(f"{output} exists already; choose another output folder or delete it first")
    if steps < 1:
        raise ValueError(
            f"steps={steps}: a base model needs at least 1 step of training, 600 for a useful one"
        )
    # The weights depend on `seed` alone, whatever the caller has drawn from torch before.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_model(
            hidden_size=hidden_size, num_layers=num_layers, tie_embeddings=tie_embeddings, moe=moe
        )
    supervise(model, seed=seed, steps=steps)
    _publish(model, output)


def _publish(model: PreTrainedModel, output: Path) -> None:
    """Make `output` a Hugging Face folder with model and tokenizer, whole or not at all."""
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(f".{output.name}.{uuid4().hex[:8]}.tmp")
    try:
        model.save_pretrained(temporary)
        build_tokenizer().save_pretrained(temporary)
        publish_folder(temporary, output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
