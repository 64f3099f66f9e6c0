"""Measure peak memory and time of the trainer's chunked LM head against the plain one, forward and backward.

    python tools/bench_head.py --tokens 4096 --vocabulary 32768 --hidden 512 --chunk-tokens 512

Each variant runs in a process of its own on the same numbers. On CPU the memory is the rise of the process's
peak resident set during the pass, on a GPU that of the allocator's peak.
"""

import argparse
import json
import multiprocessing
import resource
import time
from typing import Any

import torch
from torch.nn import functional

from scalerl.trainer.model.head import HeadConfig, LogprobHead


def peak_bytes(device: str) -> int:
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def plain_head(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, temperature: float
) -> torch.Tensor:
    logits = functional.linear(hidden.float(), weight.float()) / temperature
    return logits.log_softmax(dim=-1).gather(-1, targets[:, None]).squeeze(-1)


def measure(variant: str, arguments: argparse.Namespace, results: Any) -> None:
    """Run one variant and send its numbers."""
    device = arguments.device
    generator = torch.Generator().manual_seed(0)
    dtype = getattr(torch, arguments.dtype)
    hidden = (
        torch.randn(arguments.tokens, arguments.hidden, generator=generator)
        .to(device, dtype)
        .requires_grad_()
    )
    weight = torch.nn.Parameter(
        torch.randn(arguments.vocabulary, arguments.hidden, generator=generator).to(device, dtype)
    )
    targets = torch.randint(arguments.vocabulary, (arguments.tokens,), generator=generator).to(device)
    temperature = arguments.temperature
    config = HeadConfig(fp32=True, temperature=temperature, chunk_tokens=arguments.chunk_tokens)
    head = LogprobHead(weight, config)
    before_bytes, begin_s = peak_bytes(device), time.monotonic()
    if variant == "plain":
        logprobs = plain_head(hidden, weight, targets, temperature)
    else:
        logprobs, _ = head(hidden, targets)
    logprobs.sum().backward()
    if device == "cuda":
        torch.cuda.synchronize()
    seconds = time.monotonic() - begin_s
    results.send(
        {
            "peak_gb": (peak_bytes(device) - before_bytes) / 1e9,
            "seconds": seconds,
            "sum": logprobs.sum().item(),
        }
    )


def run(variant: str, arguments: argparse.Namespace) -> dict[str, float]:
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.Process(target=measure, args=(variant, arguments, sender))
    process.start()
    result = receiver.recv()
    process.join()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--vocabulary", type=int, default=32_768)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--chunk-tokens", type=int, default=512)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument(
        "--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu"
    )
    arguments = parser.parse_args()
    multiprocessing.set_start_method("spawn")
    results: dict[str, Any] = {variant: run(variant, arguments) for variant in ("plain", "chunked")}
    for name in ("peak_gb", "seconds"):
        results[f"{name}_ratio"] = results["chunked"][name] / results["plain"][name]
    print(json.dumps(vars(arguments) | results, indent=1))


if __name__ == "__main__":
    main()
