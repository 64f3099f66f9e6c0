"""The model's constants, such as rotary frequencies, kept as a plain load has them.

While ZeRO-3 partitions a model as it is built, DeepSpeed also casts what `torch.arange`, `torch.full` and
their like return to the dtype of the body. In bf16 that rounds rotary frequencies by up to .4 %, which at
position 4,096 is an angle of several radians: the trainer would train another model than the generator
samples from. So buffers are made once more, outside, and put in place.
"""

from pathlib import Path

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM


def plain_buffers(path: Path | str, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the floating buffers that a plain load of the model at `path` makes by itself, on CPU, by name.

    Call it while no HfDeepSpeedConfig lives. Parameters are made on the meta device, so this takes no memory
    to speak of.
    """
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(path), dtype=dtype)
    return {name: buffer for name, buffer in model.named_buffers() if buffer.is_floating_point()}


def restore_buffers(model: nn.Module, plain: dict[str, Tensor]) -> None:
    """Put the plain buffers in the place of those that were cast; keep what a checkpoint holds.

    Raises:
        ValueError: a buffer that the checkpoint holds has lost its dtype, or the model has others than a
            plain load.
    """
    # Other names would mean that the two loads built two models; a missing buffer must not pass as equal.
    names = {name for name, buffer in model.named_buffers() if buffer.is_floating_point()}
    if names != plain.keys():
        raise ValueError(
            f"the trainer's model has the floating buffers {sorted(names)}, a plain load has {sorted(plain)}"
        )
    for name, buffer in plain.items():
        module, key, made = _owner(model, name)
        if made:
            setattr(module, key, buffer.to(module.get_buffer(key).device))
    check_buffers(model, plain)


def check_buffers(model: nn.Module, plain: dict[str, Tensor]) -> None:
    """Check every floating buffer against a plain load.

    Those the model makes are compared by value, those of the checkpoint by dtype.

    Raises:
        ValueError: one differs, so that trainer and generator would be two models.
    """
    for name, buffer in plain.items():
        module, key, made = _owner(model, name)
        found = module.get_buffer(key)
        if found.dtype != buffer.dtype or (made and not torch.equal(found.cpu(), buffer)):
            raise ValueError(
                f"the trainer's buffer {name} ({found.dtype}) differs from a plain load of the model "
                f"({buffer.dtype}): it would train another model than the generator samples from. "
                f"Set model.dtype = 'float32', or report this architecture"
            )


def _owner(model: nn.Module, name: str) -> tuple[nn.Module, str, bool]:
    """Return the module that holds a buffer, its name there, and whether the model makes it by itself."""
    path, _, key = name.rpartition(".")
    module = model.get_submodule(path)
    # A persistent buffer comes from the checkpoint, as a weight does; only the others are computed at
    # loading.
    return module, key, key in module._non_persistent_buffers_set
