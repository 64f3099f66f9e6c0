#!/usr/bin/env python3
"""Measure |log pi_train - log pi_gen| a token on the same weights, by the precision of body and LM head.

    python tools/bench_precision.py --hidden 512 --layers 6 --vocabulary 65536

Completions are sampled by the real vLLM engine and go through a step of the real ZeRO-3 engine at learning
rate 0, each in a process of its own. The model is a Qwen3 of random weights whose LM head is scaled so that
the logits have the given standard deviation, as sharp as those of a trained model: near-uniform logits would
hide the head's rounding.
"""

import argparse
import json
import multiprocessing
import os
import socket
import tempfile
from collections.abc import Callable
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
PROMPT_TOKENS = 16


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
            "length.max_prompt_tokens": PROMPT_TOKENS,
            "length.max_thinking_tokens": arguments.tokens - 1,
            "length.max_solution_tokens": 1,
            "generator.max_num_seqs": arguments.completions,
            "generator.kv_cache_gb": 0.5,
            "trainer.num_ranks": 1,
            "trainer.activation_checkpointing": False,
            "trainer.micro_batch_tokens": 4 * (PROMPT_TOKENS + arguments.tokens),
            "trainer.logprob_chunk_tokens": 512,
            "budget.max_steps": 1,
        }
    )


def generate(setting: str, model: Path, arguments: argparse.Namespace) -> list[dict[str, list]]:
    """Sample completions of random prompts by the generator's engine; return token ids and logprobs."""
    import numpy as np

    from scalerl.inference.engine import EngineOptions, SamplingEngine

    engine = SamplingEngine(model, 0, EngineOptions.of(run_config(setting, arguments), seed=0))
    numbers = np.random.default_rng(0)
    prompts = numbers.integers(3, arguments.vocabulary, size=(arguments.completions, PROMPT_TOKENS)).tolist()
    for index, prompt in enumerate(prompts):
        engine.submit(str(index), prompt, max_tokens=arguments.tokens, cache_salt="0")
    rows = []
    while engine.num_running:
        for segment in engine.step():
            prompt = prompts[int(segment.request_id)]
            rows.append({"prompt": prompt, "tokens": segment.token_ids, "logprobs": segment.logprobs})
    return rows


def train(
    setting: str, model: Path, arguments: argparse.Namespace, rows: list[dict[str, list]]
) -> dict[str, float]:
    """Return the statistics of one step at learning rate 0 on the completions."""
    from dataclasses import asdict

    import numpy as np

    from scalerl.trainer.engine import TrainingEngine, init_distributed
    from scalerl.trainer.packing import TrainingSequence, pack

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    os.environ |= address | {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    config = run_config(setting, arguments)
    engine = TrainingEngine(config, model, init_distributed(600.0))
    num_tokens = sum(len(row["tokens"]) for row in rows)
    sequences = [
        TrainingSequence(
            tokens=np.array(row["prompt"] + row["tokens"]),
            loss_positions=PROMPT_TOKENS + np.arange(len(row["tokens"])),
            generator_logprobs=np.array(row["logprobs"], dtype=np.float32),
            advantage=1.0,
            weight=1 / num_tokens,
        )
        for row in rows
    ]
    batches = pack(
        sequences, budget_tokens=config.trainer.micro_batch_tokens, layout=engine.layout, rank=0, world_size=1
    )
    return asdict(engine.train(batches, learning_rate=0.0)) | {"tokens": num_tokens}


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
    parser.add_argument("--hidden", type=int, default=512, help="a multiple of 128")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--vocabulary", type=int, default=65_536)
    parser.add_argument("--logit-std", type=float, default=6.0)
    parser.add_argument("--completions", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=128, help="of a completion")
    arguments = parser.parse_args()
    multiprocessing.set_start_method("spawn")
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "00000000-model"
        in_process(write_model, model, arguments)
        completions: dict[tuple[str, bool], list] = {}
        print(json.dumps(vars(arguments)))
        print("| | mean | max | entropy |\n|---|---|---|---|", flush=True)
        for setting, (dtype, head) in SETTINGS.items():
            generator = dtype, head in ("fp32", "fp32_generator")
            if generator not in completions:
                completions[generator] = in_process(generate, setting, model, arguments)
            found = in_process(train, setting, model, arguments, completions[generator])
            mean, worst = (found[f"log_ratio_{name}"] for name in ("mean", "max"))
            print(f"| {setting} | {mean:.2g} | {worst:.2g} | {found['entropy']:.2f} |", flush=True)


if __name__ == "__main__":
    main()
