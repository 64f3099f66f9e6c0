"""What the files of a base model say without being read: the headers of its safetensors, in plain Python."""

import json
import math
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalerl.common.files import read_json

LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """The sizes that memory follows from."""

    num_parameters: int
    hidden_size: int
    num_layers: int
    vocabulary_size: int
    intermediate_size: int
    """Width of the feed-forward part that one token goes through, over all its experts."""
    kv_elements_per_token: int
    """Elements of the KV cache of one token, over all layers."""

    @classmethod
    def of(cls, settings: dict[str, Any], num_parameters: int) -> "ModelShape | None":
        """Return the shape that a config.json describes; None if it names other sizes than are known here."""
        text = settings.get("text_config") or settings
        names = ("hidden_size", "num_hidden_layers", "vocab_size", "num_attention_heads")
        if any(not isinstance(text.get(name), int) for name in names):
            return None
        hidden, layers, vocabulary, heads = (text[name] for name in names)
        head_dim = text.get("head_dim") or hidden // heads
        experts = text.get("num_experts_per_tok") or 1
        width = text.get("moe_intermediate_size") or text.get("intermediate_size") or 4 * hidden
        return cls(
            num_parameters=num_parameters,
            hidden_size=hidden,
            num_layers=layers,
            vocabulary_size=vocabulary,
            intermediate_size=experts * width,
            kv_elements_per_token=2 * layers * (text.get("num_key_value_heads") or heads) * head_dim,
        )


def read_shape(model: Path) -> ModelShape | None:
    """Return the shape of a Hugging Face folder; None if it has no safetensors, or sizes not known here."""
    headers = {path: read_header(path) for path in sorted(model.glob("*.safetensors"))}
    shapes = [entry["shape"] for header in headers.values() for entry in header.values()]
    return ModelShape.of(read_json(model / "config.json"), sum(map(math.prod, shapes))) if shapes else None


def check_weights_are_whole(model: Path) -> None:
    """Refuse a base model with a file cut short, a file that is gone, or fewer layers than its config has.

    Raises:
        ValueError: names the file, and what to do.
    """
    way_out = "download or copy it again"
    index = model / "model.safetensors.index.json"
    listed = {*read_json(index)["weight_map"].values()} if index.exists() else set()
    missing = sorted(name for name in listed if not (model / name).is_file())
    if missing:
        raise ValueError(f"model.path = {str(model)!r} lacks {', '.join(missing[:3])}: {way_out}")
    layers: set[int] = set()
    for path in sorted(model.glob("*.safetensors")):
        try:
            header = read_header(path)
        except ValueError as error:
            raise ValueError(f"{path} is not whole ({error}): {way_out}") from None
        layers |= {int(found[1]) for name in header if (found := LAYER.search(name))}
    settings = read_json(model / "config.json")
    expected = (settings.get("text_config") or settings).get("num_hidden_layers")
    if layers and isinstance(expected, int) and len(layers) < expected:
        raise ValueError(
            f"model.path = {str(model)!r} has weights of {len(layers)} layers, its config.json says "
            f"num_hidden_layers = {expected}: {way_out}"
        )


def read_header(path: Path) -> dict[str, Any]:
    """Return dtype, shape and data_offsets of the tensors of a safetensors file, by name.

    Raises:
        ValueError: the file is shorter than its header says, or has none.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))
        if length == 0 or 8 + length > size:
            raise ValueError(f"its header is cut off: {size} bytes")
        try:
            header = json.loads(file.read(length))
        except ValueError:
            raise ValueError("its header is not JSON") from None
    header.pop("__metadata__", None)
    end = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if size < end:
        raise ValueError(f"{size} bytes of {end}")
    return header
