"""Which families may share a row, found by running them; which attention they get."""

import pytest
import torch
from families import FAMILIES, build_family
from torch import nn

from scalerl.trainer.model import loading
from scalerl.trainer.model.head import HeadConfig
from scalerl.trainer.model.policy import PolicyModel
from scalerl.trainer.model.separation import choose_layout

ALONE = {
    "Llama-4 text",  # chunks of attention are counted from the row's beginning
    "Qwen3-Next",  # recurrence
    "Granite-MoE hybrid",
    "Falcon-H1",
    "LFM2",  # convolution
    "GPT-OSS",  # its masks do not heed position ids
}
HEAD = HeadConfig(fp32=True, temperature=1.0, chunk_tokens=64)
CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", FAMILIES)
def test_layout(name, dtype):
    model = build_family(name).to(dtype)
    policy = PolicyModel(model, HEAD)
    layout = choose_layout(policy, model, flash_attention=False, device=CPU)
    assert layout == ("alone" if name in ALONE else "rows")
    eager = name in ("Gemma-2", "GPT-OSS")  # a soft cap of the scores; sinks
    assert model.config._attn_implementation == ("eager" if eager else "sdpa")
    if layout == "rows":
        assert choose_layout(policy, model, flash_attention=True, device=CPU) == "one_row"


def chosen_attention(name, tmp_path, monkeypatch) -> str | None:
    build_family(name).config.save_pretrained(tmp_path)
    monkeypatch.setattr(loading, "is_flash_attn_2_available", lambda: True)
    monkeypatch.setattr(
        loading, "get_accelerator", lambda: type("Cuda", (), {"device_name": lambda _: "cuda"})()
    )
    return loading.choose_attention(tmp_path)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Llama", "flash_attention_2"),
        ("Gemma-2", "flash_attention_2"),
        ("Llama-4 text", None),  # its class does not support it
        ("GPT-OSS", None),  # its class supports others
    ],
)
def test_flash_attention_only_where_the_class_supports_it(name, expected, tmp_path, monkeypatch):
    assert chosen_attention(name, tmp_path, monkeypatch) == expected


def test_on_a_cpu_transformers_chooses(tmp_path):
    assert loading.choose_attention(tmp_path) is None  # the folder is not even looked at


def test_a_parameter_outside_body_and_head_is_refused():
    model = build_family("Llama")
    model.extra = nn.Parameter(torch.zeros(3))
    with pytest.raises(ValueError, match=r"LlamaForCausalLM has the parameters \['extra'\] outside"):
        PolicyModel(model, HEAD)


def test_a_head_that_is_no_linear_layer_is_refused():
    model = build_family("Llama")
    model.lm_head = type("Scaled", (nn.Linear,), {"forward": lambda self, x: 2 * nn.Linear.forward(self, x)})(
        128, 96
    )
    with pytest.raises(ValueError, match="is not a body with one linear head on top"):
        PolicyModel(model, HEAD)
