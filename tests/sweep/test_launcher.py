"""A sweep on this machine: one run after the other in the launcher's own process."""

from pathlib import Path

import pytest

from scalerl.cli import main
from scalerl.common.files import write_json
from scalerl.launch import supervisor
from scalerl.run_folder import save_config
from scalerl.sweep.launcher import use_slurm

SWEEPS = Path(__file__).parents[2] / "sweeps"
LOSSES = ["cispo", "dapo", "grpo", "gspo"]


@pytest.fixture
def sweep(launch_inputs, tmp_path, monkeypatch):
    """sweep(codes, *options): a sweep whose runs end with these exit codes by name; returns its exit code and
    the runs it started."""
    monkeypatch.chdir(tmp_path)

    def call(codes: dict[str, int], *options: str) -> tuple[int, list[str]]:
        started = []

        def run(config, paths) -> int:
            started.append(config.algo.loss_type)
            code = codes.get(config.algo.loss_type, supervisor.EXIT_FINISHED)
            paths.root.mkdir(parents=True, exist_ok=True)
            save_config(paths, config)
            limits = {"max_steps": config.budget.max_steps, "max_gpu_hours": config.budget.max_gpu_hours}
            status = {
                "state": {0: "finished", 1: "failed", 130: "stopped"}[code],
                "reason": "",
                "final": False,
                "step": 200,
            }
            write_json(paths.status, status | limits | {"updated_s": 1.0, "gpu_hours": {"total": 0.1}})
            return code

        monkeypatch.setattr(supervisor, "run", run)
        arguments = [
            "sweep",
            str(SWEEPS / "loss_type.toml"),
            "--dir",
            "sweep",
            "--cluster",
            "local",
            *options,
        ]
        return main([*arguments, *launch_inputs]), started

    return call


def test_runs_go_one_after_the_other_and_a_failed_one_stops_nothing(sweep):
    assert sweep({"dapo": supervisor.EXIT_FAILED}) == (supervisor.EXIT_FAILED, LOSSES)


def test_an_interrupt_stops_the_whole_sweep_and_the_same_command_goes_on(sweep):
    assert sweep({"dapo": supervisor.EXIT_INTERRUPTED}) == (supervisor.EXIT_INTERRUPTED, LOSSES[:2])
    assert sweep({}) == (0, LOSSES[1:])
    assert sweep({}) == (0, [])


def test_a_raised_budget_continues_finished_runs(sweep):
    sweep({})
    assert sweep({}, "budget.max_steps=300") == (0, LOSSES)


def test_slurm_must_be_there_if_it_is_named(monkeypatch, fake_slurm):
    assert use_slurm(None) and use_slurm("slurm") and not use_slurm("local")
    monkeypatch.setenv("PATH", "/nowhere")
    assert not use_slurm(None)
    with pytest.raises(ValueError, match="--cluster local"):
        use_slurm("slurm")
