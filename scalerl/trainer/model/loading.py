"""Load the model that is trained: partitioned over the ranks, with the attention that its class supports."""

from pathlib import Path
from typing import Any

import torch
from deepspeed.accelerator import get_accelerator
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.integrations import HfDeepSpeedConfig
from transformers.utils import is_flash_attn_2_available

from scalerl.config import RunConfig

FLASH_ATTENTION = "flash_attention_2"


def load_model(config: RunConfig, path: Path | str, settings: dict) -> Any:
    """Load a Hugging Face model, partitioned over the ranks as it is read.

    settings: DeepSpeed's.
    """
    partitioning = HfDeepSpeedConfig(settings)  # from_pretrained partitions while this object lives
    model = AutoModelForCausalLM.from_pretrained(
        path, dtype=getattr(torch, config.model.dtype), attn_implementation=choose_attention(path)
    )
    del partitioning
    if config.trainer.activation_checkpointing:
        # Reentrant checkpointing passes gradients on only where an input requires one.
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
        model.enable_input_require_grads()
    return model


def choose_attention(path: Path | str) -> str | None:
    """Return the attention that suits the model at `path` here; None is Transformers' own choice.

    Flash attention needs CUDA, its package, and a model class that supports just that one.
    """
    if get_accelerator().device_name() != "cuda" or not is_flash_attn_2_available():
        return None
    model_class = AutoModelForCausalLM._model_mapping[type(AutoConfig.from_pretrained(path))]
    compatible = model_class._compatible_flash_implementations or [FLASH_ATTENTION]
    return FLASH_ATTENTION if model_class._supports_flash_attn and FLASH_ATTENTION in compatible else None


def uses_flash_attention(model: Any) -> bool:
    """Say whether the model's attention skips what blocks of sequences mask out."""
    return model.config._attn_implementation == FLASH_ATTENTION
