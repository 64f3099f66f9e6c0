"""Forecasts: hand-worked numbers, and the paper's own."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from scalerl.paths import RunPaths
from scalerl.run_folder import save_config
from scalerl.settings import build_config
from scalerl.sweep.forecast import (
    count_parameters,
    disk_gb,
    forecast_sweep,
    gpu_hours,
    measured_rates,
    model_rate,
    shape,
)


@pytest.fixture
def model(tmp_path) -> str:
    """A folder with 1,000,000 parameters in two files."""
    save_file({"a": np.zeros((1000, 600), np.float16)}, tmp_path / "model-1.safetensors")
    save_file({"b": np.zeros((1000, 400), np.float16)}, tmp_path / "model-2.safetensors")
    return str(tmp_path)


@pytest.fixture
def paper_model(monkeypatch):
    monkeypatch.setattr("scalerl.sweep.forecast.count_parameters", lambda path: 8_000_000_000)


def test_parameters_are_read_from_the_headers(model, tmp_path):
    assert count_parameters(model) == 1_000_000
    assert count_parameters(str(tmp_path / "nowhere")) is None
    assert count_parameters("") is None


@pytest.mark.parametrize(
    ("values", "hours_per_100_steps"),
    [
        ({}, 257),
        ({"batch.prompts": 128}, 1330),  # 2,048 completions
        ({"length.max_thinking_tokens": 32_768, "trainer.micro_batch_tokens": 40_000}, 1067),
    ],
)
def test_the_model_gives_the_papers_gpu_hours(paper_model, values, hours_per_100_steps):
    assert 100 * model_rate(build_config(values)) == pytest.approx(hours_per_100_steps, rel=1e-6)


def test_no_step_is_shorter_than_a_second_on_every_device(model):
    config = build_config(
        {"model.path": model, "trainer.num_ranks": 2, "generator.num": 3, "evaluation.num": 1}
    )
    assert model_rate(config) == pytest.approx(6 / 3600)


def test_a_budget_of_gpu_hours_is_the_forecast_unless_the_steps_end_earlier(paper_model):
    assert gpu_hours(build_config({"budget.max_gpu_hours": 100.0}), {}).value == 100
    config = build_config({"budget.max_gpu_hours": 100.0, "budget.max_steps": 10})
    forecast = gpu_hours(config, {})
    assert forecast.value == pytest.approx(25.7)
    assert "scaled from the paper's 2.57" in forecast.source
    measured = gpu_hours(config, {shape(config.model_dump(mode="json")): 20.0})
    assert (measured.value, measured.source) == (100, "100 (budget.max_gpu_hours)")
    measured = gpu_hours(config, {shape(config.model_dump(mode="json")): 0.5})
    assert measured.value == 5
    assert "measured" in measured.source


def test_rates_are_measured_in_runs_of_the_same_shape(tmp_path):
    folders = []
    for name, steps, hours, values in (
        ("a", 10, 5.0, {}),
        ("b", 30, 7.0, {"seed": 3}),
        ("c", 10, 99.0, {"batch.prompts": 8}),
    ):
        config = build_config(values)
        (tmp_path / name).mkdir()
        save_config(RunPaths(tmp_path / name), config)
        rows = [
            {"kind": "step", "step": step, "gpu_hours": hours * step / steps} for step in range(1, steps + 1)
        ]
        rows.append({"kind": "eval", "step": steps, "gpu_hours": 1e6, "pass_rate": 0.5})
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / name / "metrics.jsonl").write_text(text + '{"kind": "step", "step": 99')  # torn
        folders.append(tmp_path / name)
    (tmp_path / "no_run").mkdir()
    rates = measured_rates([*folders, tmp_path / "no_run"])
    assert rates[shape(build_config({"algo.loss_type": "gspo"}).model_dump(mode="json"))] == pytest.approx(
        12 / 40
    )
    assert rates[shape(build_config({"batch.prompts": 8}).model_dump(mode="json"))] == pytest.approx(9.9)
    assert len(rates) == 2
    assert shape(build_config({"evaluation.num": 9}).model_dump(mode="json")) not in rates  # more devices


def test_only_the_end_of_a_long_metrics_file_is_read(tmp_path):
    save_config(RunPaths(tmp_path), build_config({}))
    rows = [
        {"kind": "step", "step": step, "gpu_hours": step * 0.25, "padding": "x" * 500}
        for step in range(1, 1001)
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert list(measured_rates([tmp_path]).values()) == [0.25]


def test_wall_time_is_waves_of_the_throttle_and_spent_hours_are_not_spent_again(model):
    config = build_config({"model.path": model, "budget.max_gpu_hours": 80.0})
    runs = dict.fromkeys("abcde", config)
    forecast = forecast_sweep(runs, {"a": 30.0}, devices=8, at_once=2, rates={})
    assert forecast.gpu_hours.value == 5 * 80 - 30
    assert forecast.gpu_hours.source == "5 x 80 (budget.max_gpu_hours)"
    assert forecast.wall_h.value == 3 * 10  # three waves of two, ten hours each
    assert [line.split()[0] for line in forecast.lines()] == ["GPU-hours", "wall", "disk"]


def test_a_sweep_takes_no_more_than_what_is_left_of_its_budget(model):
    config = build_config(
        {"model.path": model, "budget.max_gpu_hours": 80.0, "budget.sweep_max_gpu_hours": 100.0}
    )
    forecast = forecast_sweep(
        {"a": config, "b": config}, {"a": 30.0, "finished": 20.0}, devices=8, at_once=2, rates={}
    )
    assert forecast.gpu_hours.value == 50
    assert forecast.gpu_hours.source.startswith("what is left of 100 (budget.sweep_max_gpu_hours)")
    enough = forecast_sweep({"a": config}, {}, devices=8, at_once=2, rates={})
    assert (enough.gpu_hours.value, enough.gpu_hours.source) == (80, "1 x 80 (budget.max_gpu_hours)")


def test_disk_is_checkpoints_weights_and_rollouts(model):
    values = {"model.path": model, "checkpoint.keep": 2, "checkpoint.every_steps": 50, "off_policy.k": 9}
    values |= {"batch.prompts": 10, "batch.generations_per_prompt": 10, "length.max_thinking_tokens": 12_000}
    forecast = disk_gb(build_config(values | {"length.max_solution_tokens": 500}))
    checkpoints = 3 * 1e6 * (12 + 2)
    weights = 4 * 1e6 * 2
    rollouts = (2 * 50 + 9 + 1) * 100 * 12_500 * 10
    assert forecast.value == pytest.approx((checkpoints + weights + rollouts) / 1e9)


def test_what_is_unknown_is_called_so(tmp_path):
    config = build_config({"budget.max_gpu_hours": None, "budget.max_steps": 5, "model.path": str(tmp_path)})
    forecast = forecast_sweep({"a": config}, {}, devices=1, at_once=1, rates={})
    assert forecast.gpu_hours.value is forecast.wall_h.value is forecast.disk_gb.value is None
    assert "unknown" in forecast.lines()[0]
    assert str(tmp_path) in forecast.lines()[0]
