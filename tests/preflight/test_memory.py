"""The arithmetic of memory, on models of real size that exist on torch's meta device alone."""

from functools import cache
from pathlib import Path

import pytest

from scalerl.config import RunConfig
from scalerl.preflight.memory import Memory, estimate_memory, judge_memory
from scalerl.preflight.weights import ModelShape
from scalerl.settings import load_config

SWEEPS = Path(__file__).parents[2] / "sweeps"
SCALES = ["ablation", "loo", "16k", "100k"]
H100_GB = 80.0


@cache
def shape_of(name: str) -> ModelShape:
    """Return the shape of a published model, its parameters counted by transformers."""
    import torch
    from transformers import AutoModelForCausalLM, Llama4TextConfig, Qwen3Config, Qwen3MoeConfig

    configs = {
        "Qwen3-8B": lambda: Qwen3Config(
            vocab_size=151_936,
            hidden_size=4096,
            intermediate_size=12_288,
            num_hidden_layers=36,
            num_attention_heads=32,
            num_key_value_heads=8,
            head_dim=128,
        ),
        "Qwen3-30B-A3B": lambda: Qwen3MoeConfig(
            vocab_size=151_936,
            hidden_size=2048,
            intermediate_size=6144,
            moe_intermediate_size=768,
            num_hidden_layers=48,
            num_attention_heads=32,
            num_key_value_heads=4,
            head_dim=128,
            num_experts=128,
            num_experts_per_tok=8,
        ),
        "Llama-4-Scout": lambda: Llama4TextConfig(),  # its defaults are Scout's sizes
    }
    config = configs[name]()
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    shape = ModelShape.of(config.to_dict(), sum(parameter.numel() for parameter in model.parameters()))
    assert shape is not None
    return shape


def memory(name: str, config: RunConfig) -> Memory:
    return estimate_memory(shape_of(name), config, H100_GB, on_cpu=False)


@pytest.mark.parametrize("scale", SCALES)
def test_an_8b_model_fits_every_scale(scale):
    config = load_config([SWEEPS / "base.toml", SWEEPS / "scale" / f"{scale}.toml"])
    found = memory("Qwen3-8B", config)
    assert judge_memory(found, config, mean_tokens=5000) == []
    # 8.19e9 parameters on 16 ranks, 18 bytes each
    assert found.trainer["states"] == pytest.approx(9.2, abs=0.1)
    # 36 layers of 8 heads of 128, keys and values, 2 bytes: 147,456 bytes a token
    assert found.kv_tokens == pytest.approx(found.generator["kv_cache"] * 1e9 / 147_456, rel=1e-6)
    assert sum(found.trainer.values()) < H100_GB and found.kv_tokens > 5 * config.length.max_tokens


def test_a_mixture_of_experts_wants_two_devices_an_engine():
    scale = [SWEEPS / "base.toml", SWEEPS / "scale" / "ablation.toml"]
    config = load_config(scale)
    assert shape_of("Qwen3-30B-A3B").num_parameters == pytest.approx(30.5e9, rel=0.01)
    found = memory("Qwen3-30B-A3B", config)
    (finding,) = judge_memory(found, config, mean_tokens=5000)
    assert not finding.refuses and "the KV cache holds" in finding.text
    spread = load_config(scale, ["generator.tensor_parallel_size=2"])
    assert judge_memory(memory("Qwen3-30B-A3B", spread), spread, mean_tokens=5000) == []


def test_a_model_of_109b_parameters_is_refused_on_16_ranks():
    scale = [SWEEPS / "base.toml", SWEEPS / "scale" / "16k.toml"]
    config = load_config(scale, ["generator.tensor_parallel_size=4"])
    assert shape_of("Llama-4-Scout").num_parameters == pytest.approx(108e9, rel=0.02)
    finding, *_ = judge_memory(memory("Llama-4-Scout", config), config, mean_tokens=5000)
    assert finding.refuses and "raise trainer.num_ranks (16)" in finding.text
    alone = load_config(scale, ["trainer.num_ranks=64"])
    (finding,) = judge_memory(memory("Llama-4-Scout", alone), alone, mean_tokens=5000)
    assert finding.refuses and "raise generator.tensor_parallel_size (1)" in finding.text
