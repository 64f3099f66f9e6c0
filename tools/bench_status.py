#!/usr/bin/env python3
"""Measure how long `scalerl status` takes for a sweep of 500 runs, against a fake queue of that size.

    python tools/bench_status.py

Needs no Slurm. The start of Python is included. Exit code 1 if the best of three takes two seconds of a core
or more: wall time is shown too, but a busy machine blurs it.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

from scalerl.common.files import write_json
from scalerl.paths import RunPaths, SweepPaths
from scalerl.run_folder import save_config
from scalerl.settings import load_config
from scalerl.sweep.submissions import Submission, write_submission

REPEATS = 3
MAX_S = 2.0
LATEST = {"pass_rate": 0.53214, "off_policyness_mean": 3.25, "dropped_share": 0.125}
CURVE = {"a": 0.6124, "lo90": 0.6, "hi90": 0.625, "identified": True, "reason": ""}
HOURS = {"generator": 1200.0, "trainer": 30.5, "evaluator": 3.25, "idle": 0.75, "total": 1234.5}


def write_sweep(sweep_dir: Path, num_runs: int) -> list[str]:
    """Write run folders of one array, a fifth in each of five states; return the lines of squeue."""
    names = [f"loss_type-recipe{number // 5}-seed{number % 5}" for number in range(num_runs)]
    SweepPaths(sweep_dir).submissions.mkdir(parents=True)
    submitted_s = time.time() - 3600
    write_submission(
        sweep_dir, Submission(id="0000-x", job_name="sweep", runs=names, submitted_s=submitted_s, job_id="12")
    )
    lines = []
    for number, name in enumerate(names):
        paths = RunPaths(sweep_dir / name)
        paths.root.mkdir()
        save_config(paths, load_config([], [f"seed={number % 5}"]))
        state = ("finished", "failed", "running", "pending", "new")[number % 5]
        if state in ("running", "pending", "new"):
            lines.append(f"12_{number}|{'RUNNING' if state == 'running' else 'PENDING'}|Resources|sweep")
        if state in ("finished", "failed", "running"):
            status = {
                "state": state,
                "reason": "",
                "final": False,
                "attempt": 1,
                "step": 120,
                "job_id": f"12_{number}",
            }
            status |= {
                "updated_s": time.time(),
                "gpu_hours": HOURS,
                "latest": LATEST,
                "curve": CURVE,
                "last_error": None,
            }
            write_json(paths.status, status | {"max_gpu_hours": 4000.0, "max_steps": None})
    return lines


def children_core_s() -> float:
    """Return the core seconds of all child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=500)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        # nobody reads these folders after a power loss, and flushing them takes longer than all the rest
        with patch("os.fsync"):
            lines = write_sweep(Path(folder) / "sweep", arguments.runs)
        (Path(folder) / "lines").write_text("".join(line + "\n" for line in lines))
        squeue = Path(folder) / "squeue"
        squeue.write_text(f"#!/bin/sh\ncat {folder}/lines\n")
        squeue.chmod(0o755)
        environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}
        command = [sys.executable, "-m", "scalerl", "status", f"{folder}/sweep"]
        wall_s, core_s = [], []
        for _ in range(REPEATS):
            begin_s, begin_core_s = time.monotonic(), children_core_s()
            table = subprocess.run(
                command, env=environment, capture_output=True, text=True, check=True
            ).stdout
            wall_s.append(time.monotonic() - begin_s)
            core_s.append(children_core_s() - begin_core_s)
        assert len(table.splitlines()) == arguments.runs + 2
        print(table.splitlines()[-1])
        print(f"{arguments.runs} runs: {min(wall_s):.2f} s, of a core {min(core_s):.2f} s")
    return 0 if min(core_s) < MAX_S else 1


if __name__ == "__main__":
    sys.exit(main())
