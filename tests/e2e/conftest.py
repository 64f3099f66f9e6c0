"""Runs in processes of their own, on tiny base models and one arithmetic data set that they share."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from scalerl.base_model import train_base_model
from scalerl.common.files import read_json
from scalerl.inference.prompts import load_tokenizer
from scalerl.metrics.rows import EvalRow, Rows, StepRow, read_rows
from scalerl.paths import RunPaths

DEMO = Path(__file__).parents[2] / "sweeps" / "scale" / "demo.toml"


class Run:
    """`scalerl run` in a process of its own."""

    def __init__(self, inputs: Path, folder: Path, *overrides: str, model: str = "tied") -> None:
        self.paths = RunPaths(folder)
        fixed = [
            f"model.path={inputs / model}",
            f"data.train={inputs / 'data' / 'train.parquet'}",
            f"data.heldout={inputs / 'data' / 'heldout.parquet'}",
            f"data.test={inputs / 'data' / 'test.parquet'}",
            "batch.prompts=8",
            "batch.generations_per_prompt=8",
            "evaluation.every_steps=2",
            "evaluation.num_prompts=16",
            "evaluation.samples_per_prompt=2",
            "generator.kv_cache_gb=0.25",
            "generator.max_num_seqs=128",
            "launch.preflight=off",
        ]
        command = [sys.executable, "-m", "scalerl", "run", str(DEMO), "--dir", str(folder)]
        self.command = [*command, *fixed, *overrides]
        self.process: subprocess.Popen | None = None

    def start(self) -> "Run":
        self.output = (self.paths.root.parent / f"{self.paths.root.name}.out").open("ab")
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            self.command, stdout=self.output, stderr=subprocess.STDOUT, env=environment
        )
        return self

    def wait_until(self, condition: Callable[[], bool], what: str, deadline_s: float = 300.0) -> None:
        end_s = time.monotonic() + deadline_s
        while not condition():
            assert time.monotonic() < end_s, f"waited {deadline_s:.0f} s for {what}\n{self.report()}"
            assert self.process.poll() is None, f"the run ended while waiting for {what}\n{self.report()}"
            time.sleep(0.1)

    def wait(self, deadline_s: float = 300.0) -> int:
        try:
            return self.process.wait(timeout=deadline_s)
        except subprocess.TimeoutExpired:
            self.kill()
            pytest.fail(f"the run did not end within {deadline_s:.0f} s\n{self.report()}")

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()

    @property
    def rows(self) -> Rows:
        return read_rows(self.paths.metrics)

    @property
    def steps(self) -> list[StepRow]:
        return self.rows.steps

    @property
    def evaluations(self) -> list[EvalRow]:
        return sorted(self.rows.evaluations, key=lambda row: row.step)

    def step(self) -> int:
        return self.steps[-1].step if self.steps else 0

    def pid(self, name: str) -> int | None:
        return read_json(self.paths.status)["pids"].get(name) if self.paths.status.exists() else None

    def left_behind(self) -> list[str]:
        """Command lines of processes that still mention the run folder."""
        lines = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
        return [line for line in lines if f"--dir {self.paths.root}" in line]

    def family(self) -> list[psutil.Process]:
        """The run and all its descendants, verifier processes included."""
        supervisor = psutil.Process(self.process.pid)
        return [supervisor, *supervisor.children(recursive=True)]

    def report(self) -> str:
        """Supervisor output and the ends of the latest logs."""
        texts = [Path(self.output.name).read_text()[-2000:]]
        for log in sorted((self.paths.logs / "latest").glob("*.log")):
            texts.append(f"--- {log.name}\n{log.read_text(errors='replace')[-1500:]}")
        return "\n".join(texts)


@pytest.fixture(scope="session")
def chat_base(inputs) -> str:
    """The name of an untied base model with a chat template in `inputs`."""
    shutil.copytree(inputs / "untied", inputs / "chat")
    tokenizer = load_tokenizer(inputs / "chat")
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    tokenizer.save_pretrained(inputs / "chat")
    return "chat"


@pytest.fixture(scope="session")
def moe_base(inputs) -> str:
    """The name of a base model with experts in `inputs`."""
    train_base_model(inputs / "moe", seed=0, steps=60, moe=True)
    return "moe"


@pytest.fixture
def make_run(inputs, tmp_path):
    """Make runs in the test's own folder; none of their processes survives the test."""
    runs = []

    def make(*overrides: str, model: str = "tied", name: str = "run") -> Run:
        run = Run(inputs, tmp_path / name, *overrides, model=model)
        runs.append(run)
        return run

    yield make
    for run in runs:
        run.kill()
