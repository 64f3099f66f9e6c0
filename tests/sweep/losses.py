"""A sweep of the axis loss_type with two seeds, given to Slurm."""

from pathlib import Path

from scalerl.sweep.states import sweep_states

SWEEPS = Path(__file__).parents[2] / "sweeps"
NAMES = [f"loss_type-{loss}-seed{seed}" for loss in ("cispo", "dapo", "grpo", "gspo") for seed in (0, 1)]


def command(folder: Path, axis: Path = SWEEPS / "loss_type.toml") -> list[str]:
    return ["sweep", str(axis), "--dir", str(folder / "sweep"), "--cluster", "slurm"]


def states(tmp_path) -> dict[str, str]:
    return {state.name: state.state for state in sweep_states(tmp_path / "sweep")}
