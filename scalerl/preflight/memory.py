"""What every role of a run needs of its device's memory, by arithmetic: GB are 1e9 bytes.

Estimates, meant to refuse what cannot fit: the exams of the engines show what does.
"""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalerl.config import RunConfig
from scalerl.preflight.report import Finding
from scalerl.preflight.weights import ModelShape, read_shape

ADAM_BYTES = 16
"""Bytes a parameter of fp32 weight, both moments and fp32 gradient; the copy computed with comes on top."""
GATHERED_PARAMETERS = 1_000_000_000
"""Parameters that ZeRO-3 keeps gathered at once (stage3_max_live_parameters)."""
LAYER_VALUES = 16
"""Values of hidden size a token, beside the feed-forward part's, in one layer that is computed again."""
RUNTIME_GB = 3.0
"""CUDA context, kernels, communication buffers."""
VLLM_SHARE = 0.92
"""Share of a GPU that vLLM takes where generator.kv_cache_gb is 0."""
VLLM_WORKING_GB = 4.0
"""Activations and graphs of an engine."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Memory of the roles, GB a device, by what takes it."""

    trainer: dict[str, float]
    generator: dict[str, float]
    kv_tokens: int
    """Tokens that fit the KV cache of an engine."""
    device_gb: float
    """What one device has."""

    def to_json(self) -> dict[str, Any]:
        """Return it as figures of a report, with the sums."""
        return {
            "device_gb": self.device_gb,
            "trainer_gb": sum(self.trainer.values()),
            "generator_gb": sum(self.generator.values()),
            "kv_tokens": self.kv_tokens,
            "trainer": self.trainer,
            "generator": self.generator,
        }


def find_memory(config: RunConfig, on_cpu: bool) -> Memory | None:
    """Return what the roles need of their devices; None where sizes of model or device are not known."""
    shape, size_gb = read_shape(Path(config.model.path)), device_gb(on_cpu)
    return estimate_memory(shape, config, size_gb, on_cpu) if shape and size_gb else None


def estimate_memory(shape: ModelShape, config: RunConfig, device_gb: float, on_cpu: bool) -> Memory:
    """Return what the roles of a run need of devices of `device_gb`; on a CPU nothing is set aside."""
    size = 2 if config.model.dtype == "bfloat16" else 4
    span = config.generator.tensor_parallel_size
    weights = shape.num_parameters * size / span / 1e9
    kv_gb = config.generator.kv_cache_gb * 2**30 / 1e9
    working = 0.0 if on_cpu else VLLM_WORKING_GB
    if not kv_gb:
        kv_gb = max(0.0, device_gb * VLLM_SHARE - weights - working)
    kv_bytes_per_token = shape.kv_elements_per_token * size / span
    return Memory(
        trainer=_trainer(shape, config, size) | {"runtime": 0.0 if on_cpu else RUNTIME_GB},
        generator={"weights": weights, "kv_cache": kv_gb, "working": working},
        kv_tokens=int(kv_gb * 1e9 / kv_bytes_per_token),
        device_gb=device_gb,
    )


def _trainer(shape: ModelShape, config: RunConfig, size: int) -> dict[str, float]:
    """Return GB of one rank; `size`: bytes of an element of the body."""
    trainer, tokens = config.trainer, config.trainer.micro_batch_tokens
    layer = tokens * size * (LAYER_VALUES * shape.hidden_size + 3 * shape.intermediate_size)
    inputs = tokens * size * shape.hidden_size * shape.num_layers
    head_weight = 2 * 4 * shape.vocabulary_size * shape.hidden_size  # fp32 copy and gradient
    logits = 3 * 4 * min(trainer.logprob_chunk_tokens, tokens) * shape.vocabulary_size
    return {
        "states": shape.num_parameters * (size + ADAM_BYTES) / trainer.num_ranks / 1e9,
        "gathered": min(shape.num_parameters, GATHERED_PARAMETERS) * size / 1e9,
        "activations": (inputs + layer if trainer.activation_checkpointing else layer * shape.num_layers)
        / 1e9,
        "logits": (head_weight + logits) / 1e9,
    }


def judge_memory(memory: Memory, config: RunConfig, mean_tokens: float) -> list[Finding]:
    """Return what the memory of a GPU has against the run; mean_tokens: of prompt and completion."""
    findings = []
    trainer_gb = sum(memory.trainer.values())
    if trainer_gb > memory.device_gb:
        parts = ", ".join(f"{name} {value:.0f}" for name, value in memory.trainer.items())
        text = (
            f"a trainer rank needs about {trainer_gb:.0f} GB ({parts}) of the {memory.device_gb:.0f} of its "
            f"device: raise trainer.num_ranks ({config.trainer.num_ranks}) or lower "
            f"trainer.micro_batch_tokens ({config.trainer.micro_batch_tokens})"
        )
        findings.append(Finding(refuses=True, text=text))
    needed = config.length.max_tokens
    if memory.kv_tokens < needed or sum(memory.generator.values()) > memory.device_gb:
        text = (
            f"an engine has room for {memory.kv_tokens:,} tokens of KV cache beside "
            f"{memory.generator['weights']:.0f} GB of weights on {memory.device_gb:.0f} GB; one sequence may "
            f"have {needed:,}: raise generator.tensor_parallel_size "
            f"({config.generator.tensor_parallel_size}) or set generator.kv_cache_gb"
        )
        findings.append(Finding(refuses=True, text=text))
    elif memory.kv_tokens < 0.25 * mean_tokens * config.generator.max_num_seqs:
        text = (
            f"the KV cache holds {memory.kv_tokens / mean_tokens:.0f} sequences of the mean length, "
            f"generator.max_num_seqs is {config.generator.max_num_seqs}: engines will often start over"
        )
        findings.append(Finding(refuses=False, text=text))
    return findings


def device_gb(on_cpu: bool) -> float | None:
    """Return the memory of the smallest GPU, or of this machine; None where nobody says."""
    if on_cpu:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    listing = subprocess.run(command, capture_output=True, text=True, timeout=60)
    sizes = [float(line) for line in listing.stdout.split() if line.strip().isdigit()]
    return min(sizes) * 2**20 / 1e9 if sizes else None
