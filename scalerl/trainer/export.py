"""Write the model of all ranks into a folder, under the names and in the files of a published model."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import deepspeed
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers.core_model_loading import revert_weight_conversion

EXPORT_SHARD_ELEMENTS = 1 << 30
"""Parameters gathered at once, and written to one file."""


def export_model(model: Any, folder: Path | None) -> None:
    """Write the safetensors files of a ZeRO-3 model into `folder`, in the dtype of its body.

    All ranks call it, for each gathers what the others hold; only rank 0 gives a folder, and writes.
    """
    shards = list(_shards(model))
    index: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = (
            f"model-{number:05d}-of-{len(shards):05d}.safetensors" if len(shards) > 1 else "model.safetensors"
        )
        # Read-only, so modifier_rank is None: nothing is sent back to the ranks when the block ends.
        with deepspeed.zero.GatheredParameters([parameter for _, parameter in shard], modifier_rank=None):
            if folder is not None:
                values = dict(shard) | (_persistent_buffers(model) if number == 1 else {})
                tensors = _published_tensors(model, values)
                save_file(tensors, folder / name, metadata={"format": "pt"})
                index.update(dict.fromkeys(tensors, name))
    if folder is not None and len(shards) > 1:
        text = json.dumps({"metadata": {}, "weight_map": index}, indent=1)
        (folder / "model.safetensors.index.json").write_text(text)


def _shards(model: Any) -> Iterator[list[tuple[str, Any]]]:
    """Yield the named parameters in pieces of at most EXPORT_SHARD_ELEMENTS, or of one larger parameter."""
    shard: list[tuple[str, Any]] = []
    elements = 0
    for key, parameter in model.named_parameters():
        if shard and elements + parameter.ds_numel > EXPORT_SHARD_ELEMENTS:
            yield shard
            shard, elements = [], 0
        shard.append((key, parameter))
        elements += parameter.ds_numel
    yield shard


def _persistent_buffers(model: Any) -> dict[str, Tensor]:
    """Return the buffers that a checkpoint holds, such as the biases that balance experts, by name."""
    return {
        f"{prefix}.{key}" if prefix else key: buffer
        for prefix, module in model.named_modules()
        for key, buffer in module.named_buffers(recurse=False)
        if key not in module._non_persistent_buffers_set
    }


def _published_tensors(model: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return copies on CPU under the names of published models."""
    # Transformers holds all experts of a layer in one parameter; published models, which vLLM and
    # from_pretrained read, have a tensor for each of them.
    found = revert_weight_conversion(model, {key: tensor.detach().cpu() for key, tensor in tensors.items()})
    return {key: tensor.clone(memory_format=torch.contiguous_format) for key, tensor in found.items()}
