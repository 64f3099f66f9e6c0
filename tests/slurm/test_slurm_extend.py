"""A sweep on a real Slurm is planned, run, extended and scored, with the real engines, by the commands a user
would type."""

from pathlib import Path

import pandas as pd
import pytest

from scalerl.cli import main
from scalerl.files import read_json
from scalerl.fits.command import main as fit_all
from scalerl.metrics.rows import read_rows
from scalerl.paths import RunPaths
from scalerl.sweep.accounting import reconcile
from scalerl.sweep.states import sweep_states

TINY = Path(__file__).with_name("tiny.toml")
NUM_GPUS = 3
MORE_GPU_HOURS = NUM_GPUS * 36 / 3600
"""36 s, beside the time that the engines take to start on this machine."""


@pytest.fixture
def start(inputs, tmp_path) -> list[str]:
    """The command that starts a sweep of one run of three processes, with an evaluation after each of its
    eight steps."""
    (tmp_path / "axes" / "scale").mkdir(parents=True)
    (tmp_path / "axes" / "base.toml").write_text(TINY.read_text())
    (tmp_path / "axes" / "scale" / "tiny.toml").write_text("")
    axis = tmp_path / "axes" / "loss_type.toml"
    axis.write_text('key = "algo.loss_type"\nvalues = ["cispo"]\n')
    overrides = [f"model.path={inputs / 'tied'}", "trainer.num_ranks=1", "generator.num=1", "batch.prompts=4"]
    overrides += [f"data.{part}={inputs / 'data' / part}.parquet" for part in ("train", "heldout")]
    overrides += ["evaluation.every_steps=1", "evaluation.num_prompts=4", "budget.max_steps=8"]
    return [
        "sweep",
        str(axis),
        "--scale",
        "tiny",
        "--dir",
        str(tmp_path / "sweep"),
        "--cluster",
        "slurm",
        *overrides,
    ]


def logs(sweep_dir: Path, paths: RunPaths) -> list[Path]:
    return [*sweep_dir.glob("submissions/*.log"), *paths.logs.glob("*/*.log")]


def end_of(log: Path) -> str:
    return f"{log}: {log.read_text(errors='replace')[-2000:]}"


def test_an_extension_continues_the_run_and_is_scored(cluster, start, tmp_path, capsys):
    sweep_dir = tmp_path / "sweep"
    paths = RunPaths(sweep_dir / "loss_type-cispo-seed0")

    def wait_for_end() -> None:
        def ended() -> bool:
            (state,) = sweep_states(sweep_dir)
            assert state.state != "failed", "\n".join([state.reason, *map(end_of, logs(sweep_dir, paths))])
            return state.state == "finished"

        cluster.wait_for(ended, "the run to finish", 180)

    assert main(start) == 0
    wait_for_end()
    first = read_json(paths.status)
    assert (first["step"], first["reason"]) == (8, "max_steps reached")
    target = 2 * first["gpu_hours"]["total"] + MORE_GPU_HOURS
    extend = ["extend", str(sweep_dir), "--top", "1", "--to", str(target), "--cluster", "slurm"]
    assert main(extend) == 0
    prediction = (paths.root / "prediction.json").read_bytes()
    assert main(extend) == 2, "it is on its way"
    assert "is left alone: it is" in capsys.readouterr().err

    wait_for_end()
    last = read_json(paths.status)
    assert "max_gpu_hours" in last["reason"] and last["attempt"] == 2 and last["job_id"] != first["job_id"]
    assert "continuing from the checkpoint of step 8" in (paths.logs / "0002" / "trainer.log").read_text()
    steps = [row.step for row in read_rows(paths.metrics).steps]
    assert steps == list(range(1, last["step"] + 1)) and last["step"] > 8
    # it stops early by what the last evaluation is expected to cost, or late by what the end of the step and
    # that evaluation did
    assert last["gpu_hours"]["total"] == pytest.approx(target, rel=0.1)

    assert fit_all([str(sweep_dir)]) == 0, "tools/fit_all.py"
    assert (paths.root / "prediction.json").read_bytes() == prediction
    (score,) = pd.read_csv(sweep_dir / "fits" / "scores.csv").to_dict("records")
    assert score["compute"] == target and score["hit"] == (
        score["lo90"] <= score["observed"] <= score["hi90"]
    )
    assert score["foretold_at"] < first["gpu_hours"]["total"] < target
    assert "Predictions scored" in (sweep_dir / "fits" / "report.html").read_text()

    compared = reconcile(paths)
    assert compared.num_starts == 2
    # sacct counts whole seconds, and a job ends a moment after the ledger's last word: three seconds a start
    # of all its GPUs
    assert abs(compared.ledger_gpu_hours - compared.accounted_gpu_hours) < 2 * NUM_GPUS * 3 / 3600
    capsys.readouterr()
    assert main(["status", str(paths.root)]) == 0
    details = capsys.readouterr().out
    assert str(compared) in details and "max_gpu_hours" in details
