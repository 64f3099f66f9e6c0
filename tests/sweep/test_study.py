"""The study: it holds every run of the axes it stands for, each once; and what is committed of it."""

import importlib.util
from pathlib import Path
from types import ModuleType

import factories
import pandas as pd
import pytest
from factories import make_status

from scalerl.metrics.rows import EvalRow, StepRow
from scalerl.sweep.grid import grid

ROOT = Path(__file__).parents[2]
AXES = ("loss_type", "loss_aggregation", "advantage_norm", "zero_variance", "off_policy", "loo")


@pytest.fixture(scope="module")
def results() -> ModuleType:
    """The module tools/study_results.py."""
    spec = importlib.util.spec_from_file_location("study_results", ROOT / "tools" / "study_results.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def signatures(axis: str) -> list[str]:
    base = [ROOT / "sweeps" / "base.toml", ROOT / "sweeps" / "scale" / "demo.toml"]
    return [
        run.config.signature()
        for run in grid(base, ROOT / "sweeps" / f"{axis}.toml", 3, ["model.dtype=bfloat16"])
    ]


def test_the_study_holds_every_run_of_its_axes_once():
    study = signatures("study")
    assert len(study) == len(set(study)) == 3 * 14
    assert set(study) == {signature for axis in AXES for signature in signatures(axis)}


def test_every_recipe_is_in_the_figure(results):
    recipes = [recipe for panel in results.PANELS.values() for recipe in panel]
    names = {run.name for run in grid([], ROOT / "sweeps" / "study.toml", 1)}
    assert {f"study-{recipe}-seed0" for recipe in [results.BASELINE, *recipes]} == names
    assert len(recipes) == 13


def write_run(
    study: Path, name: str, gain: float, state: str, reason: str, num_evaluations: int = 11
) -> None:
    """A run folder whose pass rate rises from .3 by `gain` at every evaluation."""
    usual = {"clip_fraction": 0.0, "entropy": 0.3, "off_policyness_mean": 8.0, "grad_norm": 1.0}
    rows: list[StepRow | EvalRow] = [
        StepRow(step=step, log_ratio_mean=0.1, log_ratio_max=step / 100, **usual) for step in (1, 2)
    ]
    rows += [
        EvalRow(
            step=20 * index,
            gpu_hours=0.01 * (index + 1),
            generated_tokens=2 * index,
            trained_tokens=index,
            pass_rate=0.3 + gain * index,
            num_prompts=256,
            samples_per_prompt=8,
            truncation_rate=0.0,
        )
        for index in range(num_evaluations)
    ]
    status = make_status(state, reason=reason, step=200, updated_s=1.0, gpu_hours={"total": 0.1})
    factories.write_run(study / name, rows=rows, status=status)


@pytest.fixture
def study(tmp_path) -> Path:
    folder = tmp_path / "study"
    finished = ("finished", "max_steps reached")
    for seed, gain in enumerate((0.018, 0.02, 0.022)):
        write_run(folder, f"study-ScaleRL-seed{seed}", gain, *finished)
        write_run(folder, f"study-ppo_off_policy-8-seed{seed}", gain / 2, *finished)
    broken = ("failed", "the trainer died")
    write_run(folder, "study-ScaleRL-seed3", 0.0, *broken)  # its last pass rates are not final ones
    write_run(folder, "study-GSPO-seed0", 0.0, *broken, num_evaluations=2)
    for fits in ("fits", "fits-steps"):
        (folder / fits).mkdir()
        for name in ("fits", "ranking", "pairs"):
            (folder / fits / f"{name}.csv").write_text(f"{fits}\n")
    return folder


def test_recipes_are_compared_with_the_baseline_by_the_scatter_of_seeds(results, study):
    runs, curves = results.read_study(study)
    assert len(curves) == 7 * 11
    table = results.compare(runs)
    assert list(table.index) == ["ScaleRL", "ppo_off_policy-8"]
    other = table.loc["ppo_off_policy-8"]
    # the last three evaluations, the ninth to the eleventh, lie 9 gains above R0 on average; all ten 5.5
    assert other.final == pytest.approx(0.3 + 9 * 0.01) and other["mean"] == pytest.approx(0.3 + 5.5 * 0.01)
    assert other.final_difference == pytest.approx(-9 * 0.01)
    # sd of the seeds: 9 * .002 and half of it, pooled sqrt(1.25 / 2) * .018; of a difference of means of
    # three sqrt(2 / 3) of it
    assert other.final_standard_error == pytest.approx(0.018 * (1.25 / 2) ** 0.5 * (2 / 3) ** 0.5)
    assert pd.isna(table.final_difference["ScaleRL"])


def test_what_is_committed_is_small_and_says_how_every_run_ended(results, study, tmp_path, capsys):
    output = tmp_path / "committed"
    results.main([str(study), str(output)])
    runs = pd.read_csv(output / "runs.csv").set_index(["recipe", "seed"])
    assert len(runs) == 8
    assert tuple(runs.loc[("GSPO", 0), ["state", "reason"]]) == ("failed", "the trainer died")
    assert runs.log_ratio_max["ScaleRL", 0] == pytest.approx(0.02)
    assert (output / "fits-gpu_hours.csv").read_text() == "fits\n" and (
        output / "fits-steps.csv"
    ).read_text() == "fits-steps\n"
    assert sum(file.stat().st_size for file in output.iterdir()) < 1_000_000
    assert (output / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "| ppo_off_policy-8 | 3 | 0.390 | 0.355 | 0.110 | -0.090 |" in capsys.readouterr().out


def test_a_study_without_curves_is_refused(results, tmp_path):
    write_run(tmp_path, "study-GSPO-seed0", 0.0, "failed", "", num_evaluations=2)
    with pytest.raises(ValueError, match="no run with more than 3 evaluations; `make study`"):
        results.read_study(tmp_path)
