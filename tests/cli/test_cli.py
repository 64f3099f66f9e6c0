"""The command line: light imports, clear errors, exit codes."""

import subprocess
import sys
from pathlib import Path

import pytest

from scalerl.cli import main

SWEEPS = Path(__file__).parents[2] / "sweeps"


def test_a_login_node_needs_no_engine():
    modules = "scalerl.sweep, scalerl.launch.supervisor, scalerl.curve, scalerl.fits, scalerl.cli, scalerl.verify, scalerl.data"
    program = f"import sys, {modules}; print(sorted({{'torch', 'vllm', 'deepspeed', 'transformers'}} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert result.stdout.strip() == "[]", result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "nowhere.toml", "--dir", "x"], "nowhere.toml"),
        (["run", str(SWEEPS / "base.toml"), "--dir", "x", "loss_type=dapo"], "did you mean algo.loss_type?"),
        (["run", str(SWEEPS / "base.toml"), "--dir", "x"], "model.path is not set"),
        (
            ["sweep", str(SWEEPS / "loss_type.toml"), "--scale", "huge"],
            "--scale huge: there are 100k, 16k, ablation, demo, loo",
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
