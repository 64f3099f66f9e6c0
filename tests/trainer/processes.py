"""Starts the ranks of a test as real processes."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from scalerl.launch.processes import free_port

ROOT = Path(__file__).parents[2]


def start_ranks(arguments: Sequence[str], world_size: int, log: Path) -> list[subprocess.Popen]:
    """Start `python ARGUMENTS` once a rank, with "{rank}" filled in and the rendezvous in the environment;
    the output goes to `log`.<rank>."""
    port = str(free_port())
    processes = []
    for rank in range(world_size):
        environment = os.environ | {
            "RANK": str(rank),
            "WORLD_SIZE": str(world_size),
            "LOCAL_RANK": "0",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]),
        }
        command = [sys.executable, *(argument.replace("{rank}", str(rank)) for argument in arguments)]
        with Path(f"{log}.{rank}").open("ab") as file:
            processes.append(
                subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)
            )
    return processes


def wait(processes: Sequence[subprocess.Popen], deadline_s: float = 300.0) -> list[int]:
    """Return the exit codes; end what still runs after the deadline."""
    try:
        return [process.wait(timeout=deadline_s) for process in processes]
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()


def output(log: Path) -> str:
    return "\n".join(path.read_text() for path in sorted(log.parent.glob(f"{log.name}.*")))
