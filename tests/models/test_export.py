"""What the trainer publishes of every family: the tensors of a plain save, in name, dtype and content.

The biases that balance the experts of DeepSeek-V3 and GLM-4-MoE are among them: learnt, but no parameters.
"""

import pytest
import torch
from families import FAMILIES, build_family
from safetensors.torch import load_file

from scalerl.trainer.export import export_model


def exported(model, folder) -> dict[str, torch.Tensor]:
    for parameter in model.parameters():
        parameter.ds_numel = parameter.numel()  # as ZeRO-3 notes it; on one rank there is nothing to gather
    folder.mkdir()
    export_model(model, folder)
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("name", FAMILIES)
def test_a_policy_has_all_tensors_of_a_published_model(name, tmp_path):
    model = build_family(name).to(torch.bfloat16)
    model.save_pretrained(tmp_path / "plain")
    expected = load_file(tmp_path / "plain" / "model.safetensors")
    found = exported(model, tmp_path / "exported")
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert found[key].dtype == tensor.dtype and torch.equal(found[key], tensor), key
