"""What may be extended, what is chosen, and what is on disk before anything is submitted. Real runs:
tests/slurm/test_extend.py."""

import time
from pathlib import Path

import factories
import numpy as np
import pytest
from factories import make_status, sigmoid_rows

from scalerl.cli import main
from scalerl.cluster.site import SiteConfig
from scalerl.common.files import read_json, write_json
from scalerl.paths import RunPaths
from scalerl.run_folder import read_config
from scalerl.settings import load_config
from scalerl.sweep.extend import extend_here, extend_on_slurm, plan_extension


@pytest.fixture
def sweep(tmp_path) -> Path:
    return tmp_path / "sweep"


@pytest.fixture
def write_run(sweep):
    """write_run(name, a=.6, ...): a run folder with evaluations on a sigmoid up to `used` GPU-hours."""

    def write(
        name: str, *, a=0.6, b=2.0, c_mid=10.0, used=60.0, state="finished", points=25, final=False, budget=()
    ) -> RunPaths:
        seed = int(name[-1]) if name[-1].isdigit() else 0
        limits = [f"seed={seed}", *(budget or [f"budget.max_gpu_hours={used}"])]
        values = load_config([], limits).budget
        status = make_status(
            state,
            reason="max_gpu_hours reached",
            final=final,
            step=100 * points,
            gpu_hours={"total": used},
            max_gpu_hours=values.max_gpu_hours,
            max_steps=values.max_steps,
        )
        gpu_hours = np.linspace(used / 30, used, points)
        rows = sigmoid_rows(gpu_hours, a=a, b=b, c_mid=c_mid, seed=len(name) + seed)
        return factories.write_run(sweep / name, *limits, rows=rows, status=status)

    return write


def names(plan) -> list[str]:
    return [extension.state.name for extension in plan.extensions]


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def started(monkeypatch) -> list:
    """Record what would be run here."""
    calls = []
    monkeypatch.setattr(
        "scalerl.sweep.extend.run", lambda config, paths: calls.append((paths.root.name, config)) or 0
    )
    return calls


def test_predictions_and_budgets_are_on_disk_before_anything_runs(sweep, write_run, monkeypatch):
    one = write_run("loss_type-cispo-seed0")
    two = write_run("loss_type-dapo-seed0", a=0.5, budget=["budget.max_steps=2500"])
    plan = plan_extension(sweep, 240.0)
    assert plan.to_spend == 360 and "2 runs, 360 GPU-hours to spend" in str(plan)
    assert "budget.max_steps is removed from loss_type-dapo-seed0" in str(plan)
    seen = []

    def run(config, paths):
        seen.append((paths.root.name, (paths.root / "prediction.json").exists(), read_config(paths).budget))
        assert config == read_config(paths)
        return 0

    monkeypatch.setattr("scalerl.sweep.extend.run", run)
    before = {paths: read_json(paths.config)["signature"] for paths in (one, two)}
    assert extend_here(plan) == 0
    assert [name for name, *_ in seen] == ["loss_type-cispo-seed0", "loss_type-dapo-seed0"]
    assert all(
        predicted and budget.max_gpu_hours == 240 and budget.max_steps is None
        for _, predicted, budget in seen
    )
    assert before == {paths: read_json(paths.config)["signature"] for paths in (one, two)}
    prediction = read_json(one.root / "prediction.json")
    # at 240 with C_mid 10, B 2: .3 + .3 / (1 + 1/576) = .5995; for A = .5: .4997
    assert (
        prediction["predictions"][0]["predicted"] == pytest.approx(0.5995, abs=0.01)
        and prediction["window"][1] == 60
    )
    assert read_json(two.root / "prediction.json")["predictions"][0]["predicted"] == pytest.approx(
        0.4997, abs=0.01
    )


def test_top_takes_recipes_with_all_their_seeds(sweep, write_run):
    for seed in (0, 1):
        write_run(f"loss_type-fast-seed{seed}", a=0.55, b=3.0, c_mid=6.0)
        write_run(f"loss_type-slow-seed{seed}", a=0.75, b=1.5, c_mid=60.0)
        write_run(f"loss_type-bad-seed{seed}", a=0.4)
    # slow at 100 GPU-hours: .3 + .45 / (1 + .6^1.5) = .6073; at 61: .528, below fast: .3 + .25 / (1 +
    # (6/61)^3) = .5498
    assert names(plan_extension(sweep, 100.0, top=1)) == ["loss_type-slow-seed0", "loss_type-slow-seed1"]
    assert names(plan_extension(sweep, 61.0, top=1)) == ["loss_type-fast-seed0", "loss_type-fast-seed1"]
    plan = plan_extension(sweep, 61.0, top=2, by="ceiling")
    assert {extension.record.run for extension in plan.extensions} == {"slow", "fast"} and len(
        plan.extensions
    ) == 4
    assert "ranked by ceiling: slow, fast, bad" in plan.notes
    assert names(plan_extension(sweep, 100.0, recipes=["bad"])) == [
        "loss_type-bad-seed0",
        "loss_type-bad-seed1",
    ]
    assert names(plan_extension(sweep / "loss_type-bad-seed1", 100.0)) == ["loss_type-bad-seed1"]
    with pytest.raises(ValueError, match="no recipe best; there are bad, fast, slow"):
        plan_extension(sweep, 100.0, recipes=["best"])
    with pytest.raises(ValueError, match="--top 0"):
        plan_extension(sweep, 100.0, top=0)


def test_a_ceiling_nobody_has_seen_still_gets_a_prediction_and_a_wide_interval(sweep, write_run, monkeypatch):
    paths = write_run("young", c_mid=200.0)
    started(monkeypatch)
    plan = plan_extension(paths.root, 500.0)
    assert "not yet identified" in str(plan)
    extend_here(plan)
    (predicted,) = read_json(paths.root / "prediction.json")["predictions"]
    assert predicted["hi90"] - predicted["lo90"] > 0.1


@pytest.mark.parametrize(
    ("changes", "to", "message"),
    [
        ({"points": 3}, 100.0, "a curve needs R0 and at least 4 more"),
        ({"final": True}, 100.0, "has ended for good"),
        (
            {"budget": ["budget.max_gpu_hours=400"]},
            100.0,
            "has a budget of 400 GPU-hours and used 60 of them",
        ),
        ({}, 60.0, "it has used 60 GPU-hours already"),
        ({"budget": ["budget.max_gpu_hours=60.1"]}, 60.1, "it has finished with max_gpu_hours = 60.1"),
        (
            {"budget": ["budget.max_gpu_hours=60", "budget.sweep_max_gpu_hours=120"]},
            100.0,
            "--sweep-max-gpu-hours",
        ),
    ],
)
def test_a_run_that_cannot_go_on_changes_nothing(sweep, write_run, capsys, changes, to, message):
    for name in ("one", "other"):
        write_run(name, **changes)
    before = snapshot(sweep)
    assert main(["extend", str(sweep), "--cluster", "local", "--to", str(to), "--yes"]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1
    assert snapshot(sweep) == before


def test_never_run_missing_and_unreadable(sweep, write_run, tmp_path):
    paths = write_run("planned")
    for path in (paths.status, paths.metrics):
        path.unlink()
    with pytest.raises(ValueError, match="planned was never run"):
        plan_extension(sweep, 100.0)
    with pytest.raises(ValueError, match=r"there is no folder .*nowhere"):
        plan_extension(tmp_path / "nowhere", 100.0)


def test_a_new_sweep_budget(sweep, write_run, monkeypatch):
    paths = write_run("run", budget=["budget.max_gpu_hours=60", "budget.sweep_max_gpu_hours=70"])
    calls = started(monkeypatch)
    assert (
        main(["extend", str(sweep), "--cluster", "local", "--to", "100", "--sweep-max-gpu-hours", "100"]) == 0
    )
    assert calls[0][1].budget.sweep_max_gpu_hours == 100 == read_config(paths).budget.sweep_max_gpu_hours


def test_the_same_command_again_and_a_farther_target(sweep, write_run, monkeypatch, capsys):
    paths = write_run("run", used=40.0)
    calls = started(monkeypatch)
    assert main(["extend", str(sweep), "--cluster", "local", "--to", "80"]) == 0
    first = (paths.root / "prediction.json").read_bytes()
    assert (
        main(["extend", str(sweep), "--cluster", "local", "--to", "80"]) == 0
    )  # it did not get there: the launcher died, or the job was cancelled
    assert (
        "predictions of an earlier extension stay as they are: run" in capsys.readouterr().out
        and len(calls) == 2
    )
    write_run("run", used=81.0)
    assert main(["extend", str(sweep), "--cluster", "local", "--to", "80"]) == 2 and len(calls) == 2
    assert main(["extend", str(sweep), "--cluster", "local", "--to", "160"]) == 0
    assert (paths.root / "prediction.json").read_bytes() == first
    second = read_json(paths.root / "prediction-2.json")
    assert [p["compute"] for p in second["predictions"]] == [160] and second["window"][1] == 81
    assert main(["fit", str(sweep)]) == 0
    assert (
        "at 80 predicted" in capsys.readouterr().out
        and "Predictions scored" in (sweep / "fits" / "report.html").read_text()
    )


def test_it_asks_before_it_spends(sweep, write_run, monkeypatch, capsys):
    write_run("run")
    calls, before = started(monkeypatch), snapshot(sweep)
    command = ["extend", str(sweep), "--cluster", "local", "--to", "161", "--confirm-above", "100"]
    assert main(command) == 2
    assert "101 GPU-hours, more than 100" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda prompt: "n")
    assert main(command) == 2
    assert main([*command, "--dry-run"]) == 0
    assert snapshot(sweep) == before and not calls
    monkeypatch.setattr("builtins.input", lambda prompt: "y")
    assert main(command) == 0 and len(calls) == 1


def test_slurm_gets_the_new_configs(sweep, write_run, monkeypatch):
    """And a run that another launcher submitted meanwhile stops everything."""
    paths = write_run("run")
    plan = plan_extension(sweep, 100.0)
    submitted = []
    monkeypatch.setattr(
        "scalerl.sweep.extend.submit",
        lambda sweep_dir, runs, site, **options: submitted.append((sweep_dir, runs)) or [],
    )
    assert extend_on_slurm(plan, SiteConfig(), throttle=2) == []
    assert (
        submitted == [(sweep, {"run": read_config(paths)})]
        and submitted[0][1]["run"].budget.max_gpu_hours == 100
    )
    write_json(
        paths.attempt, {"attempt": 2, "host": "elsewhere", "pid": 1, "started_ticks": 1, "job_id": None}
    )
    write_json(paths.status, read_json(paths.status) | {"state": "running", "updated_s": time.time()})
    before = snapshot(sweep)
    with pytest.raises(ValueError, match="run is running by now"):
        extend_on_slurm(plan, SiteConfig())
    assert len(submitted) == 1 and snapshot(sweep) == before
