#!/usr/bin/env python3
"""Measure |log pi_train - log pi_gen| a token on the same weights, by the precision of body and LM head.

    python tools/bench_precision.py --hidden 512 --layers 6 --vocabulary 65536
    python tools/bench_precision.py --model models/smollm2 --tokens 512

Completions are sampled by the real vLLM engine, and the real ZeRO-3 engine computes their log-probabilities,
each in a process of its own. Without --model the model is a Qwen3 of random weights whose LM head is scaled
so that the logits have the given standard deviation, as sharp as those of a trained model: near-uniform
logits would hide the head's rounding. With --model it answers QUESTIONS, in its chat template.

An fp32 body has the fp32 head in both engines only: there is no bf16 left to round to.
"""

import argparse
import json
import math
import multiprocessing
import os
import socket
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

SETTINGS = {
    "fp32 body": ("float32", "fp32"),
    "bf16 body, fp32 head": ("bfloat16", "fp32"),
    "bf16 body, bf16 head": ("bfloat16", "bf16"),
    "bf16 body, fp32 head in the generator only": ("bfloat16", "fp32_generator"),
    "bf16 body, fp32 head in the trainer only": ("bfloat16", "fp32_trainer"),
}
"""Row -> model.dtype, model.lm_head_precision."""
FIRST = next(iter(SETTINGS))
PROMPT_TOKENS = 16
"""Tokens of a random prompt."""
QUESTIONS = [
    "Tell a long story about a lighthouse keeper who finds a letter in a bottle.",
    "Explain step by step how a steam engine works, and why it changed the world.",
    "A baker sells 12 loaves an hour for 7 hours at 3 dollars each and pays 85 for flour. What is left?",
    "Write a Python function that merges two sorted lists, and explain every line of it.",
    "Compare the lives of bees and ants in as much detail as you can.",
    "List thirty towns of Europe, each with a sentence about it.",
    "Write a letter to a friend about a week in the mountains in which everything went wrong.",
    "Prove that the square root of 2 is irrational, and say where else such an argument works.",
]
MAX_PROMPT_TOKENS = 128
CISPO_CAP = 5.0
"""algo.cispo_eps_max: what CISPO caps the ratio pi_train / pi_gen at."""


def write_model(folder: Path, arguments: argparse.Namespace) -> None:
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from scalerl.base_model import EOS_ID, PAD_ID, build_tokenizer

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=arguments.vocabulary,
        hidden_size=arguments.hidden,
        intermediate_size=3 * arguments.hidden,
        num_hidden_layers=arguments.layers,
        num_attention_heads=arguments.hidden // 64,
        num_key_value_heads=arguments.hidden // 128,
        head_dim=64,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
        pad_token_id=PAD_ID,
        eos_token_id=EOS_ID,
        bos_token_id=None,
    )
    model = Qwen3ForCausalLM(config)
    with torch.no_grad():
        # Hidden states have a mean square of 1.
        model.lm_head.weight.normal_(std=arguments.logit_std / arguments.hidden**0.5)
        # The same weights in either precision.
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16())
    model.save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)


def run_config(setting: str, arguments: argparse.Namespace) -> Any:
    from scalerl.settings import build_config

    dtype, head = SETTINGS[setting]
    return build_config(
        {
            "model.dtype": dtype,
            "model.lm_head_precision": head,
            "length.length_control": "none",
            "length.max_prompt_tokens": MAX_PROMPT_TOKENS,
            "length.think_end": "",
            "length.max_thinking_tokens": arguments.tokens - 1,
            "length.max_solution_tokens": 1,
            "generator.max_num_seqs": arguments.completions,
            "generator.kv_cache_gb": 0.5,
            "trainer.num_ranks": 1,
            "trainer.activation_checkpointing": False,
            "trainer.micro_batch_tokens": 4 * (MAX_PROMPT_TOKENS + arguments.tokens),
            "trainer.logprob_chunk_tokens": 512,
            "budget.max_steps": 1,
        }
    )


def make_prompts(model: Path, arguments: argparse.Namespace) -> list[list[int]]:
    """Return the token ids of every prompt: random ones, or questions to a real model."""
    import numpy as np

    if arguments.model is None:
        numbers = np.random.default_rng(0)
        return numbers.integers(3, arguments.vocabulary, (arguments.completions, PROMPT_TOKENS)).tolist()
    from scalerl.config import DataConfig
    from scalerl.inference.prompts import PromptEncoder, load_tokenizer

    encoder = PromptEncoder(load_tokenizer(model), DataConfig(), run_config(FIRST, arguments).length)
    texts = [QUESTIONS[index % len(QUESTIONS)] for index in range(arguments.completions)]
    return [encoder.encode(text, text) for text in texts]


def generate(setting: str, model: Path, arguments: argparse.Namespace) -> list[dict[str, list]]:
    """Sample a completion of every prompt by the generator's engine; return token ids and logprobs."""
    from scalerl.inference.engine import EngineOptions, SamplingEngine

    engine = SamplingEngine(model, 0, EngineOptions.of(run_config(setting, arguments), seed=0))
    prompts = make_prompts(model, arguments)
    for index, prompt in enumerate(prompts):
        engine.submit(str(index), prompt, max_tokens=arguments.tokens, cache_salt="0")
    rows = []
    while engine.num_running:
        for segment in engine.step():
            prompt = prompts[int(segment.request_id)]
            rows.append({"prompt": prompt, "tokens": segment.token_ids, "logprobs": segment.logprobs})
    return rows


def score(
    setting: str, model: Path, arguments: argparse.Namespace, rows: list[dict[str, list]]
) -> tuple[list[int], list[float]]:
    """Return position in the sequence and log pi_train - log pi_gen of every token of the completions."""
    import numpy as np

    from scalerl.trainer.engine import TrainingEngine, init_distributed
    from scalerl.trainer.packing import TrainingSequence, micro_batch, plan

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    os.environ |= address | {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    config = run_config(setting, arguments)
    engine = TrainingEngine(config, model, init_distributed(600.0))
    sequences = [
        TrainingSequence(
            tokens=np.array(row["prompt"] + row["tokens"]),
            loss_positions=len(row["prompt"]) + np.arange(len(row["tokens"])),
            generator_logprobs=np.array(row["logprobs"], dtype=np.float32),
            advantage=1.0,
            weight=1.0,
        )
        for row in rows
    ]
    budget = config.trainer.micro_batch_tokens
    batches = plan(sequences, budget_tokens=budget, layout=engine.layout, rank=0, world_size=1)
    positions: list[int] = []
    log_ratios: list[float] = []
    for batch in map(micro_batch, batches):
        (logprobs,) = engine.logprobs([batch])
        log_ratios += (logprobs - batch.generator_logprobs).tolist()
    for sequence in (sequence for batch in batches for row in batch for sequence in row):
        positions += sequence.loss_positions.tolist()
    assert len(positions) == len(log_ratios)
    return positions, log_ratios


def table_rows(setting: str, positions: list[int], log_ratios: list[float]) -> list[str]:
    """Return the rows of a setting: all tokens, then those of each stretch of positions."""
    import numpy as np

    where, ratios = np.array(positions), np.array(log_ratios)
    edges = [0, *(2**power for power in range(6, 20) if 2 ** (power - 1) <= where.max())]
    stretches = [("all", 0, edges[-1]), *((f"{low}-{high}", low, high) for low, high in pairwise(edges))]
    rows = []
    for name, low, high in stretches:
        part = ratios[(where >= low) & (where < high)]
        if len(part):
            size = np.abs(part)
            beyond = [(size > 1).mean(), (part > math.log(CISPO_CAP)).mean()]
            cells = [setting, name, str(len(part)), f"{size.mean():.2g}", f"{size.max():.2g}"]
            rows.append(f"| {' | '.join([*cells, *(f'{share:.1e}' for share in beyond)])} |")
    return rows


def in_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what `function` returns in a process of its own.

    An engine keeps global state, and its threads may not let a process end.
    """
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.Process(target=_send, args=(sender, function, *arguments))
    process.start()
    sender.close()
    result = receiver.recv()
    process.join()
    return result


def _send(sender: Any, function: Callable[..., Any], *arguments: Any) -> None:
    sender.send(function(*arguments))
    os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="a Hugging Face folder in bf16, instead of random weights")
    parser.add_argument("--hidden", type=int, default=512, help="a multiple of 128")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--vocabulary", type=int, default=65_536)
    parser.add_argument("--logit-std", type=float, default=6.0)
    parser.add_argument("--completions", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=128, help="of a completion, at most")
    arguments = parser.parse_args()
    multiprocessing.set_start_method("spawn")
    with tempfile.TemporaryDirectory() as folder:
        model = arguments.model or Path(folder) / "00000000-model"
        if arguments.model is None:
            in_process(write_model, model, arguments)
        completions: dict[tuple[str, bool], list] = {}
        print(json.dumps(vars(arguments), default=str))
        print("| | positions | tokens | mean | max | ratio beyond e | ratio beyond CISPO's cap |")
        print("|---|---|---|---|---|---|---|", flush=True)
        for setting, (dtype, head) in SETTINGS.items():
            generator = dtype, head in ("fp32", "fp32_generator")
            if generator not in completions:
                completions[generator] = in_process(generate, setting, model, arguments)
            found = in_process(score, setting, model, arguments, completions[generator])
            print("\n".join(table_rows(setting, *found)), flush=True)


if __name__ == "__main__":
    main()
