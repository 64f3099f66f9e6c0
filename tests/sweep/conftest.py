"""A Slurm that only remembers, and inputs that a launcher accepts."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from losses import SWEEPS, command
from safetensors.numpy import save_file

import scalerl.sweep.submission as submission_module
from scalerl.cli import main
from scalerl.data.prepare import prepare_generated

SCRIPT = Path(__file__).parent / "fake_slurm.py"


class FakeSlurm:
    """The state behind the fake commands, in files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "bin").mkdir(parents=True)
        for program in ("sbatch", "squeue", "sacct", "scontrol", "srun"):
            link = folder / "bin" / program
            link.write_text(f'#!/bin/sh\nexec "{sys.executable}" -IS "{SCRIPT}" {program} "$@"\n')
            link.chmod(0o755)
        self.set()
        (folder / "jobs.json").write_text("{}")
        (folder / "next").write_text("1")
        (folder / "calls").touch()

    def set(self, *, sbatch_s=0.0, max_submissions=10**6, accounting=True, max_array_size=1001) -> None:
        """sbatch_s: how long sbatch takes. max_submissions: further ones are refused."""
        settings = {"sbatch_s": sbatch_s, "max_submissions": max_submissions, "accounting": accounting}
        (self.folder / "settings.json").write_text(json.dumps(settings | {"max_array_size": max_array_size}))

    @property
    def jobs(self) -> dict[str, dict]:
        return json.loads((self.folder / "jobs.json").read_text())

    def change(self, job_id: str, **values) -> None:
        """Set state, reason or forgotten (by squeue) of a job."""
        jobs = self.jobs
        jobs[job_id] |= values
        (self.folder / "jobs.json").write_text(json.dumps(jobs))

    def scripts(self) -> list[str]:
        """Of every accepted sbatch, in order."""
        return [
            path.read_text() for path in sorted(self.folder.glob("*.sh"), key=lambda path: int(path.stem))
        ]

    def calls(self, command: str) -> list[str]:
        return [
            line
            for line in (self.folder / "calls").read_text().splitlines()
            if line.startswith(f"{command} ")
        ]


@pytest.fixture
def fake_slurm(tmp_path, monkeypatch) -> FakeSlurm:
    slurm = FakeSlurm(tmp_path / "slurm")
    monkeypatch.setenv("PATH", f"{slurm.folder / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(slurm.folder))
    return slurm


@pytest.fixture(scope="session")
def launch_inputs(tmp_path_factory) -> list[str]:
    """Overrides that name a model of 1,000 parameters, which nobody could run, and a data set."""
    folder = tmp_path_factory.mktemp("launch_inputs")
    prepare_generated(
        folder / "data", "arithmetic:max_steps=4", count=200, seed=0, heldout_fraction=0.1, test_fraction=0.1
    )
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text("{}")
    save_file(
        {"a": np.zeros((30, 30), np.float32), "b": np.zeros(100, np.float32)},
        folder / "model" / "model.safetensors",
    )
    data = [f"data.{name}={folder}/data/{name}.parquet" for name in ("train", "heldout", "test")]
    return [f"model.path={folder}/model", *data]


@pytest.fixture
def sweep(fake_slurm, launch_inputs, tmp_path, monkeypatch):
    """sweep(*options): `scalerl sweep` of four losses into tmp_path/sweep; returns the exit code."""
    monkeypatch.setattr(submission_module, "SETTLE_S", 0.1)
    monkeypatch.chdir(tmp_path)

    def call(*options: str, axis: Path = SWEEPS / "loss_type.toml") -> int:
        return main([*command(tmp_path, axis), *options, *launch_inputs])

    return call
