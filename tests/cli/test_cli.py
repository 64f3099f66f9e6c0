"""The command line: light imports, clear errors, exit codes."""

import subprocess
import sys
from pathlib import Path

import pytest

from scalerl.cli import main

SWEEPS = Path(__file__).parents[2] / "sweeps"
SLURM = SWEEPS.parent / "slurm"


LOGIN_NODE = ("cli", "sweep.launcher", "sweep.status", "sweep.extend", "cluster.doctor", "launch.supervisor")
LOGIN_NODE += ("fits.command", "curve.fit", "verify.pool", "data.prepare")


def test_a_login_node_needs_no_engine():
    modules = ", ".join(f"scalerl.{name}" for name in LOGIN_NODE)
    engines = {"torch", "vllm", "deepspeed", "transformers"}
    program = f"import sys, {modules}; print(sorted({engines} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert result.stdout.strip() == "[]", result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "nowhere.toml", "--dir", "x"], " holds no TOML file"),
        (
            ["run", str(SWEEPS / "scale" / "dem.toml"), "--dir", "x"],
            f"there is no file {SWEEPS}/scale/dem.toml; did you mean {SWEEPS}/scale/demo.toml",
        ),
        (
            ["sweep", str(SWEEPS / "loss_typ.toml")],
            f"there is no axis loss_typ; did you mean loss_type? `scalerl sweep {SWEEPS}/loss_type.toml`; "
            f"{SWEEPS}/ has advantage_norm, batch_size, cispo_eps_max, ",
        ),
        (["sweep", str(SWEEPS / "gspo_scal.toml"), "--from-make"], "`make sweep AXIS=gspo_scale`"),
        (["sweep", "loss_type.toml"], "there is no axis loss_type; sweeps/ has none"),
        (["sweep", str(SWEEPS / "base.toml")], f"there is no axis base; {SWEEPS}/ has advantage_norm"),
        (
            ["run", str(SWEEPS / "base.toml"), "--dir", "x", "algo.loss_type=dap"],
            "override 'algo.loss_type=dap': algo.loss_type = 'dap': Input should be 'cispo', 'dapo'",
        ),
        (
            ["sweep", str(SWEEPS / "seed.toml"), "algo.loss_type=dap"],
            "override 'algo.loss_type=dap': algo.loss_type = 'dap'",
        ),
        (
            ["sweep", str(SWEEPS / "loss_type.toml"), "--scale", "dem", "--from-make"],
            "there is no scale dem; did you mean demo? `make sweep AXIS=loss_type SCALE=demo`; ",
        ),
        (
            ["sweep", str(SWEEPS / "loss_type.toml"), "--site", str(SLURM / "sit.toml")],
            f"there is no site file {SLURM}/sit.toml; did you mean {SLURM}/site.toml",
        ),
        (
            ["status", str(SWEEPS.parent / "tols")],
            f"there is no folder {SWEEPS.parent}/tols; did you mean {SWEEPS.parent}/tools?",
        ),
        (["run", str(SWEEPS / "base.toml"), "--dir", "x", "loss_type=dapo"], "did you mean algo.loss_type?"),
        (["run", str(SWEEPS / "base.toml"), "--dir", "x"], "model.path is not set"),
        (
            ["sweep", str(SWEEPS / "loss_type.toml"), "--scale", "huge"],
            f"there is no scale huge; {SWEEPS}/scale/ has 100k, 16k, ablation, demo, loo",
        ),
        (["sweep", str(SWEEPS / "loss_type.toml"), "--throttle", "0"], "--throttle 0: at least 1"),
        (["prepare", "--input", "nowhere.json", "--output", "x"], "nowhere.json"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("scalerl: error: ")
    assert message in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "x").exists()


def test_dry_run_prints_the_grid_and_starts_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert (
        main(["sweep", str(SWEEPS / "loss_type.toml"), "--seeds", "2", "--cluster", "local", "--dry-run"])
        == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[1:] == ["planned", "runs/sweeps/loss_type/loss_type-cispo-seed0"]
    assert len({line.split()[0] for line in lines[:8]}) == 8
    assert lines[8:10] == [
        "8 runs: 8 planned",
        "forecast of the 8 to run on this machine, one after the other:",
    ]
    assert [line.split()[0] for line in lines[10:]] == ["GPU-hours", "wall", "disk"]
    assert list(tmp_path.iterdir()) == []


def test_arithmetic_from_the_command_line(tmp_path, capsys):
    assert (
        main(["prepare", "--generate", "arithmetic", "--count", "50", "--output", str(tmp_path / "data")])
        == 0
    )
    assert (tmp_path / "data" / "train.parquet").exists()
    assert "50" in capsys.readouterr().out


def test_an_unprepared_demo_says_what_is_missing_and_what_makes_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sweep = ["sweep", str(SWEEPS / "loss_type.toml"), "--cluster", "local"]
    assert main(sweep) == main(["run", str(SWEEPS / "scale" / "demo.toml"), "--dir", "runs/x"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first == second
    assert "there is no data/demo/base/config.json, no data/demo/train.parquet, no data/demo/heldout" in first
    assert "`make demo` makes model and data" in first and "`scalerl base --output data/demo/base`" in first
    prepare = first.partition("`scalerl ")[2].partition("`")[0]
    assert main([*prepare.split(), "--count", "60"]) == 0
    assert main(sweep) == 2
    assert "there is no data/demo/base/config.json; `make demo`" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
