#!/usr/bin/env python3
"""Measure how long `scalerl sweep` takes to plan 500 runs, before and after their submission.

    python tools/bench_sweep.py

The queue of that size is a fake one: it needs no Slurm. Exit code 1 if the best of three plans is not below
two seconds, the start of Python included.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

AXIS = Path(__file__).parents[1] / "sweeps" / "loss_type.toml"
NUM_SEEDS = 125
NUM_RUNS = 4 * NUM_SEEDS
REPEATS = 3
MAX_S = 2.0
FAKE = {
    "sbatch": "echo Submitted batch job 12",
    "srun": "exit 1",
    "scontrol": "echo 'MaxArraySize = 1001'",
    "squeue": "cat {folder}/queue",
}


def write_inputs(folder: Path) -> list[str]:
    """Write inputs that a launcher accepts; return the overrides that name them."""
    from scalerl.data.prepare import prepare_generated

    prepare_generated(
        folder / "data", "arithmetic:max_steps=4", count=100, seed=0, heldout_fraction=0.1, test_fraction=0.1
    )
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text("{}")
    return [
        f"model.path={folder}/model",
        *(f"data.{name}={folder}/data/{name}.parquet" for name in ("train", "heldout", "test")),
    ]


def timed(command: list[str], environment: dict[str, str]) -> tuple[float, str]:
    begin_s = time.monotonic()
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    return time.monotonic() - begin_s, output


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for program, line in FAKE.items():
            (folder / program).write_text(f"#!/bin/sh\n{line.format(folder=folder)}\n")
            (folder / program).chmod(0o755)
        (folder / "queue").write_text(
            "".join(f"12_{task}|PENDING|Priority|sweep\n" for task in range(NUM_RUNS))
        )
        environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}
        command = [
            sys.executable,
            "-m",
            "scalerl",
            "sweep",
            str(AXIS),
            "--seeds",
            str(NUM_SEEDS),
            "--dir",
            f"{folder}/sweep",
        ]
        command += ["--cluster", "slurm", "--yes", *write_inputs(folder)]
        new_s = min(timed([*command, "--dry-run"], environment)[0] for _ in range(REPEATS))
        submit_s, _ = timed(command, environment)
        again = [timed([*command, "--dry-run"], environment) for _ in range(REPEATS)]
        assert f"{NUM_RUNS} runs: {NUM_RUNS} pending" in again[0][1]
        again_s = min(seconds for seconds, _ in again)
    print(f"{NUM_RUNS} runs, the start of Python included:")
    print(f"plan {new_s:.2f} s, submit {submit_s:.2f} s, plan again {again_s:.2f} s")
    return 0 if max(new_s, again_s) < MAX_S else 1


if __name__ == "__main__":
    sys.exit(main())
