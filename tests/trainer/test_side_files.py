"""What a published policy holds beside its weights, whatever the base model came with."""

import json
from types import SimpleNamespace

from transformers import AutoModelForCausalLM

from scalerl.trainer.publisher import _side_files


def published(folder) -> dict[str, bytes]:
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.config.architectures = None
    return _side_files(SimpleNamespace(model=model), folder)


def test_the_architecture_is_named_and_the_generation_config_is_copied(tmp_path, write_policy):
    write_policy(tmp_path)
    # as many models are published: Transformers reads it, and would refuse to write it
    inconsistent = b'{"temperature": 0.6, "top_p": 0.95, "eos_token_id": 3}'
    (tmp_path / "generation_config.json").write_bytes(inconsistent)
    files = published(tmp_path)
    assert json.loads(files["config.json"])["architectures"] == ["Qwen3ForCausalLM"]
    assert files["generation_config.json"] == inconsistent
    assert {"tokenizer.json", "tokenizer_config.json"} <= files.keys()


def test_a_model_without_generation_config_is_published_without(tmp_path, write_policy):
    write_policy(tmp_path)
    (tmp_path / "generation_config.json").unlink()
    assert "generation_config.json" not in published(tmp_path)
