"""The part of `scalerl doctor` that runs on nodes: two tasks of one srun step, each this module FOLDER GPUS.

Each task prints JSON lines: its clock several times, then a ProbeReport. What it waits for in vain it raises.
"""

import json
import os
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from scalerl.cluster.checks import engine_versions
from scalerl.common.files import read_json, temporary_name, write_json, write_text
from scalerl.common.gpus import gpu_error

INVITATION = "invitation"
"""The file that the login node wrote into the folder before it started the tasks."""
DEADLINE_S = 60.0
"""How long a task waits for a file."""
NUM_CLOCKS = 10
NUM_ROUNDS = 5
NUM_VERSIONS = 40
NUM_CONTESTS = 20
FILLER = 20_000


@dataclass(frozen=True, kw_only=True)
class ProbeReport:
    """What one node found."""

    node: str
    visible_s: float
    """The longest that a new file of this node took to be seen by the other and answered."""
    torn: list[str]
    """Errors of reads that gave neither the old nor the new version of a file being replaced."""
    won: int
    """How many of NUM_CONTESTS names, which both nodes tried to take by a hard link, this one got."""
    versions: dict[str, str | None]
    """Versions of the engines, as checks.engine_versions returns them."""
    gpu_error: str | None
    """Why torch cannot use the GPU this node gave; None: it can, or there was none to use."""


def probe(folder: Path, rank: int, node: str, num_gpus: int = 0) -> ProbeReport:
    """Work on the folder as one of two tasks, of rank 0 and 1, at the same time; then look at its own GPUs.

    Raises:
        TimeoutError: a file of the login node or of the other task does not show.
    """
    wait_for(
        lambda: INVITATION in os.listdir(folder), f"{node}: no sight of what the login node wrote to {folder}"
    )
    visible_s = _exchange(folder, rank, node)
    torn = _replace_and_read(folder, rank)
    won = sum(_take(folder / f"contest-{number}") for number in range(NUM_CONTESTS))
    return ProbeReport(
        node=node,
        visible_s=visible_s,
        torn=torn,
        won=won,
        versions=engine_versions(),
        gpu_error=gpu_error(num_gpus),
    )


def wait_for(condition: Callable[[], bool], what: str) -> float:
    """Wait until the condition holds; return how many seconds it took.

    Raises:
        TimeoutError: it does not within DEADLINE_S; the message begins with `what`.
    """
    start_s = time.monotonic()
    while not condition():
        if time.monotonic() - start_s > DEADLINE_S:
            raise TimeoutError(f"{what} within {DEADLINE_S:.0f} s")
        time.sleep(0.01)
    return time.monotonic() - start_s


def _exchange(folder: Path, rank: int, node: str) -> float:
    """Write a file and wait for the other task's, several times; return the longest wait in seconds.

    The first wait does not count: it is for the other's start.
    """
    waits_s = []
    for number in range(NUM_ROUNDS):
        write_text(folder / f"round-{number}-{rank}", node)
        theirs = f"round-{number}-{1 - rank}"
        what = f"{node}: no sight of what the other node wrote to {folder}"
        waits_s.append(wait_for(lambda name=theirs: name in os.listdir(folder), what))  # type: ignore[misc]
    return max(waits_s[1:])


def _replace_and_read(folder: Path, rank: int) -> list[str]:
    """Replace one's own file over and over while reading the other's; return the errors of torn reads."""
    mine, theirs = (folder / f"replaced-{number}.json" for number in (rank, 1 - rank))
    torn = []
    for version in range(NUM_VERSIONS):
        write_json(mine, {"filler": [version] * FILLER})
        if version == 0:
            wait_for(theirs.exists, f"no sight of {theirs}")
        try:
            filler = read_json(theirs)["filler"]
        except (ValueError, OSError) as error:
            torn.append(str(error)[-200:])
        else:
            if len(filler) != FILLER or len(set(filler)) != 1:
                torn.append("two versions mixed")
    return torn


def _take(name: Path) -> bool:
    """Take a name by a hard link, as a shard of the spool does; say whether this task got it."""
    temporary = temporary_name(name)
    temporary.touch()
    try:
        os.link(temporary, name)
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    return True


def main(folder: Path, num_gpus: int) -> None:
    """Print the clock of this node several times, then its report."""
    node = os.environ.get("SLURMD_NODENAME", socket.gethostname())
    for _ in range(NUM_CLOCKS):
        print(json.dumps({"node": node, "clock_s": time.time()}), flush=True)
        time.sleep(0.05)
    report = probe(folder, int(os.environ["SLURM_PROCID"]), node, num_gpus)
    print(json.dumps({"node": node, "report": asdict(report)}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
