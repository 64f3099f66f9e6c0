"""What a machine must have before a run starts on it."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save_file

from scalerl.cluster.checks import check_sandbox
from scalerl.data.problem import make_problem, make_task_problem, write_problems
from scalerl.preflight.inputs import INPUT_SECTIONS, check_inputs, check_machine
from scalerl.settings import load_config

MATH = make_problem("1+1?", ["2"], source="test")
CODE = make_task_problem("Print 2.", '[{"input": "", "output": "2"}]', task="code", source="test")


@pytest.mark.parametrize("pool", ["train", "heldout"])
def test_code_needs_its_sandbox_before_anything_starts(bubblewrap, tmp_path, monkeypatch, pool):
    write_problems(tmp_path / "math.parquet", [MATH])
    write_problems(tmp_path / "code.parquet", [MATH, CODE])
    files = {"train": "math", "heldout": "math"}
    on_math = load_config([], [f"data.{name}={tmp_path}/{file}.parquet" for name, file in files.items()])
    files[pool] = "code"
    on_code = load_config([], [f"data.{name}={tmp_path}/{file}.parquet" for name, file in files.items()])
    check_machine(on_code, on_cpu=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    check_machine(on_math, on_cpu=False)
    with pytest.raises(ValueError, match=r"bwrap is not installed.*generator.allow_weak_sandbox=true"):
        check_machine(on_code, on_cpu=False)


def test_puzzles_need_their_package_before_anything_starts(tmp_path, monkeypatch):
    puzzle = make_task_problem("1+1?", "{}", task="reasoning_gym", source="test")
    write_problems(tmp_path / "puzzles.parquet", [MATH, puzzle])
    config = load_config([], [f"data.{name}={tmp_path}/puzzles.parquet" for name in ("train", "heldout")])
    check_machine(config, on_cpu=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="needs the package reasoning-gym: run `make setup`"):
        check_machine(config, on_cpu=False)


def test_the_doctor_looks_for_the_sandbox(bubblewrap, tmp_path, monkeypatch):
    assert check_sandbox().level == "ok"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert (check_sandbox().level, check_sandbox().fix) == (
        "warn",
        "fine on a login node, and for runs without code problems",
    )


def test_a_question_on_both_sides_is_refused(make_config, tmp_path):
    """As another file types it: the prompts and their ids differ."""
    write_problems(tmp_path / "other.parquet", [make_problem("$1 + 1$ ?", ["2"], source="test")])
    with pytest.raises(
        ValueError, match=r"data\.train and data\.heldout share 1 questions, such as '\$1 \+ 1"
    ):
        check_inputs(make_config(f"data.heldout={tmp_path}/other.parquet"))


@pytest.mark.parametrize("text_config", [False, True])
def test_a_quantised_base_is_refused(make_config, tmp_path, text_config):
    config = make_config()
    check_inputs(config)
    quantised = {"quantization_config": {"quant_method": "fp8"}}
    settings = {"text_config": quantised} if text_config else quantised
    (tmp_path / "model" / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"is quantised \(fp8\).*name the bf16 model it was made from"):
        check_inputs(config)


def test_a_base_with_a_file_cut_short_is_refused(make_config, tmp_path):
    config = make_config()
    save_file({"model.layers.0.w": np.zeros((4, 4), np.float32)}, tmp_path / "model" / "model.safetensors")
    check_inputs(config)
    content = (tmp_path / "model" / "model.safetensors").read_bytes()
    for size, what in ((len(content) - 1, f"{len(content) - 1} bytes of {len(content)}"), (30, "cut off")):
        (tmp_path / "model" / "model.safetensors").write_bytes(content[:size])
        with pytest.raises(ValueError, match=f"is not whole.*{what}.*download or copy it again"):
            check_inputs(config)


def test_a_base_that_lacks_weights_is_refused(make_config, tmp_path):
    config = make_config()
    model = tmp_path / "model"
    save_file({"model.layers.0.w": np.zeros(4, np.float32)}, model / "model-1.safetensors")
    (model / "config.json").write_text(json.dumps({"num_hidden_layers": 2}))
    with pytest.raises(ValueError, match=r"has weights of 1 layers, its config.json says num_hidden_layers"):
        check_inputs(config)
    index = {"weight_map": {"model.layers.0.w": "model-1.safetensors", "b": "model-2.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"lacks model-2.safetensors: download or copy it again"):
        check_inputs(config)


def test_a_context_beyond_that_of_the_model_is_refused(make_config, tmp_path):
    settings = {"max_position_embeddings": 8192}
    (tmp_path / "model" / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"is 8192 tokens.*add up to 16384: lower them"):
        check_inputs(make_config())
    settings["rope_scaling"] = {"factor": 4.0}
    (tmp_path / "model" / "config.json").write_text(json.dumps(settings))
    check_inputs(make_config())


def test_the_checks_read_no_other_sections_than_a_sweep_compares(make_config):
    config = make_config()
    check_inputs(SimpleNamespace(**{name: getattr(config, name) for name in INPUT_SECTIONS}))


def test_an_interruption_needs_an_end_of_thinking(make_config):
    with pytest.raises(ValueError, match=r'set length.think_end to the text.*length.length_control = "none"'):
        make_config("length.think_end=")
