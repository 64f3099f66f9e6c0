"""Tiny models of random weights, one of each family that Transformers and vLLM both know.

Their constants are not the defaults: logit scales, soft caps, biases, norms, short windows and rotary scaling
that a text of a hundred tokens feels. Weights are large, so that attention is sharp and a wrong constant
shows.
"""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from scalerl.base_model import build_tokenizer

VOCABULARY = 96
WEIGHT_STD = 0.15
NORM_STD = 0.3

SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 700.0}}
TIED = {"tie_word_embeddings": True}
HEAD = {"head_dim": 32}
GRANITE = {"logits_scaling": 3.0, "embedding_multiplier": 2.5, "residual_multiplier": 0.6}
GRANITE |= {"attention_multiplier": 0.25}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 64}
WINDOW = {"sliding_window": 24}
# vLLM has kernels for a latent of 512 + 64 alone.
MLA = {"q_lora_rank": 48, "kv_lora_rank": 512, "qk_nope_head_dim": 32, "qk_rope_head_dim": 64}
MLA |= {"v_head_dim": 32, "num_key_value_heads": 4, "n_routed_experts": 8, "n_shared_experts": 1}
MLA |= {"n_group": 2, "topk_group": 1, "first_k_dense_replace": 1, "routed_scaling_factor": 1.7}
LLAMA3_ROPE = {
    "rope_parameters": {
        "rope_type": "llama3",
        "rope_theta": 700.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
}
YARN = {
    "rope_parameters": {
        "rope_type": "yarn",
        "rope_theta": 700.0,
        "factor": 4.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "original_max_position_embeddings": 64,
    }
}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 64, "mamba_d_state": 16, "mamba_n_groups": 1}
MAMBA |= {"mamba_chunk_size": 128}


def partial_rope(share: float) -> dict[str, Any]:
    return {"rope_parameters": ROPE["rope_parameters"] | {"partial_rotary_factor": share}}


def layers(*kinds: str) -> dict[str, Any]:
    return {"layer_types": list(kinds), "num_hidden_layers": len(kinds)}


SLIDING, FULL = "sliding_attention", "full_attention"
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("LlamaConfig", LLAMA3_ROPE | {"attention_bias": True, "mlp_bias": True} | HEAD),
    "Llama-4 text": (
        "Llama4TextConfig",
        ROPE
        | HEAD
        | {
            "num_hidden_layers": 4,
            "num_local_experts": 4,
            "intermediate_size_mlp": 160,
            "interleave_moe_layer_step": 2,
            "attention_chunk_size": 32,
            # vLLM tunes no temperature where the context is at most 32,768 tokens, whatever the config says.
            "attn_temperature_tuning": False,
        },
    ),
    "Mistral": ("MistralConfig", ROPE | HEAD | WINDOW),
    "Mixtral": ("MixtralConfig", ROPE | {"num_local_experts": 8, "num_experts_per_tok": 2}),
    "Qwen2": ("Qwen2Config", YARN | TIED),
    "Qwen2-MoE": (
        "Qwen2MoeConfig",
        ROPE | EXPERTS | {"num_experts": 8, "shared_expert_intermediate_size": 64},
    ),
    "Qwen3": ("Qwen3Config", YARN | HEAD | TIED),
    "Qwen3-MoE": ("Qwen3MoeConfig", ROPE | HEAD | EXPERTS | {"num_experts": 8, "norm_topk_prob": True}),
    "Qwen3-Next": (
        "Qwen3NextConfig",
        partial_rope(0.5)
        | HEAD
        | EXPERTS
        | {"num_experts": 8, "shared_expert_intermediate_size": 64}
        | {"linear_key_head_dim": 32, "linear_value_head_dim": 32}
        | {"linear_num_key_heads": 2, "linear_num_value_heads": 4}
        | layers("linear_attention", FULL, "linear_attention"),
    ),
    "Gemma": ("GemmaConfig", ROPE | HEAD | TIED),
    "Gemma-2": (
        "Gemma2Config",
        ROPE
        | HEAD
        | TIED
        | WINDOW
        | {"query_pre_attn_scalar": 12, "attn_logit_softcapping": 3.0, "final_logit_softcapping": 1.5},
    ),
    "Gemma-3": (
        "Gemma3TextConfig",
        HEAD
        | TIED
        | WINDOW
        | layers(SLIDING, FULL, SLIDING)
        | {"query_pre_attn_scalar": 20}
        | {
            "rope_parameters": {
                SLIDING: {"rope_type": "default", "rope_theta": 300.0},
                FULL: {"rope_type": "linear", "rope_theta": 5000.0, "factor": 4.0},
            }
        },
    ),
    "Phi": ("PhiConfig", partial_rope(0.5) | {"num_key_value_heads": 4}),
    "Phi-3": ("Phi3Config", partial_rope(0.5) | WINDOW),
    "Phi-MoE": (
        "PhimoeConfig",
        ROPE | {"num_local_experts": 4, "attention_bias": True, "lm_head_bias": True},
    ),
    "OLMo": ("OlmoConfig", ROPE | {"clip_qkv": 1.5}),
    "OLMo-2": ("Olmo2Config", ROPE),
    "OLMo-3": ("Olmo3Config", YARN | WINDOW | layers(SLIDING, FULL, SLIDING)),
    "OLMoE": ("OlmoeConfig", ROPE | {"num_experts": 8, "num_experts_per_tok": 2}),
    "Granite": ("GraniteConfig", ROPE | GRANITE | TIED),
    "Granite-MoE": ("GraniteMoeConfig", ROPE | GRANITE | {"num_local_experts": 4}),
    "Granite-MoE hybrid": (
        "GraniteMoeHybridConfig",
        ROPE
        | GRANITE
        | MAMBA
        | {"num_local_experts": 4, "shared_intermediate_size": 96, "position_embedding_type": "rope"}
        | layers("mamba", "attention", "mamba"),
    ),
    "Cohere": ("CohereConfig", ROPE | TIED | {"logit_scale": 0.4, "use_qk_norm": True}),
    "Cohere-2": (
        "Cohere2Config",
        ROPE | TIED | WINDOW | {"logit_scale": 0.4} | layers(SLIDING, FULL, SLIDING),
    ),
    "DeepSeek-V2": ("DeepseekV2Config", YARN | MLA | EXPERTS | {"topk_method": "group_limited_greedy"}),
    "DeepSeek-V3": (
        "DeepseekV3Config",
        # As published: Transformers knows sigmoid alone, vLLM takes softmax where none is named.
        YARN | MLA | EXPERTS | {"topk_method": "noaux_tc", "scoring_func": "sigmoid"},
    ),
    "GLM-4": ("Glm4Config", partial_rope(0.5) | HEAD),
    "GLM-4-MoE": (
        "Glm4MoeConfig",
        partial_rope(0.5)
        | HEAD
        | EXPERTS
        | {"n_routed_experts": 8, "n_shared_experts": 1, "first_k_dense_replace": 1, "use_qk_norm": True},
    ),
    "Falcon-H1": (
        "FalconH1Config",
        ROPE
        | HEAD
        | MAMBA
        | {"mamba_d_ssm": 256, "lm_head_multiplier": 0.5, "embedding_multiplier": 2.0, "key_multiplier": 0.7}
        | {"attention_out_multiplier": 0.8, "ssm_in_multiplier": 1.3, "ssm_out_multiplier": 0.9},
    ),
    "LFM2": (
        "Lfm2Config",
        ROPE
        | TIED
        | layers("conv", FULL, "conv")
        | {"block_auto_adjust_ff_dim": False, "block_dim": 128, "conv_dim": 128},
    ),
    "StableLM": ("StableLmConfig", partial_rope(0.25) | {"use_qkv_bias": True}),
    "Starcoder2": ("Starcoder2Config", ROPE | TIED | WINDOW | {"use_bias": True}),
    "Nemotron": ("NemotronConfig", partial_rope(0.5) | HEAD),
    "EXAONE-4": (
        "Exaone4Config",
        LLAMA3_ROPE | HEAD | WINDOW | layers(SLIDING, FULL, SLIDING) | {"sliding_window_pattern": 2},
    ),
    "SmolLM3": ("SmolLM3Config", ROPE | TIED | {"no_rope_layers": [1, 0, 1]}),
    "MiniCPM3": (
        "MiniCPM3Config",
        {key: value for key, value in MLA.items() if "expert" not in key and "group" not in key}
        | ROPE
        | {"scale_emb": 3.0, "scale_depth": 1.2, "dim_model_base": 64, "routed_scaling_factor": 1.0},
    ),
    "GPT-OSS": (
        "GptOssConfig",
        YARN | HEAD | WINDOW | {"num_local_experts": 4, "num_experts_per_tok": 2} | layers(SLIDING, FULL),
    ),
    "ERNIE-4.5": ("Ernie4_5Config", ROPE | HEAD),
    "Seed-OSS": ("SeedOssConfig", ROPE | HEAD | {"attention_bias": True}),
    "GPT-2": (
        "GPT2Config",
        {"n_embd": 128, "n_head": 4, "n_layer": 3, "n_positions": 1024, "tie_word_embeddings": True},
    ),
}
"""Name -> (class of its config, what differs from SHAPE)."""
PUBLISHED_AS = {"Phi-MoE": "PhiMoEForCausalLM"}
"""The architecture in published models, which vLLM knows, where Transformers writes another name."""


def build_family(name: str, seed: int = 0) -> PreTrainedModel:
    """Return a model of the family in float32; other seeds give other weights."""
    class_name, settings = FAMILIES[name]
    shape = {} if name == "GPT-2" else SHAPE
    common = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 1}
    values = copy.deepcopy(common | shape | settings)  # some configs write into what they are given
    config = getattr(transformers, class_name)(**values, dtype=torch.float32)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for key, tensor in _weights(model):
            _draw(key, tensor)
    return model.eval()


def _weights(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    # The bias that balances experts is learnt, but no parameter.
    yield from ((key, buffer) for key, buffer in model.named_buffers() if "correction_bias" in key)


def _draw(key: str, tensor: Tensor) -> None:
    """Fill a weight; of a recurrence only its projections, the rest has values that keep it stable."""
    if any(part in key for part in ("A_log", "dt_bias", ".D")):
        return
    noise = torch.randn(tensor.shape)
    if tensor.ndim > 1:
        tensor.copy_(WEIGHT_STD * noise)
    else:
        tensor.add_(NORM_STD * noise)


def save_family(name: str, folder: Path, seed: int = 0) -> None:
    """Write a model of the family, with a tokenizer, as it would be published."""
    build_family(name, seed).save_pretrained(folder)
    if name in PUBLISHED_AS:
        file = folder / "config.json"
        settings = json.loads(file.read_text()) | {"architectures": [PUBLISHED_AS[name]]}
        file.write_text(json.dumps(settings, indent=2))
    build_tokenizer().save_pretrained(folder)
