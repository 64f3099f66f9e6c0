"""The part of `scalerl doctor` that runs on nodes: python -m scalerl.cluster.probe FOLDER, as two tasks of
one srun step.

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
from scalerl.files import read_json, temporary_name, write_json, write_text

INVITATION = "invitation"
"""The file that the login node wrote into the folder before it started the tasks."""
DEADLINE_S = 60.0
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
    """Reads of a file that was being replaced which gave neither the old nor the new one whole; "": none."""
    won: int
    """Of NUM_CONTESTS names that both nodes tried to take by a hard link."""
    versions: dict[str, str | None]
    """Of the engines, as checks.engine_versions."""


def probe(folder: Path, rank: int, node: str) -> ProbeReport:
    """One of two tasks, of rank 0 and 1, that work on the folder at the same time.

    Raises:
        TimeoutError: a file of the login node or of the other task does not show.
    """
    wait_for(
        lambda: INVITATION in os.listdir(folder), f"{node}: no sight of what the login node wrote to {folder}"
    )
    visible_s = _exchange(folder, rank, node)
    torn = _replace_and_read(folder, rank)
    won = sum(_take(folder / f"contest-{number}") for number in range(NUM_CONTESTS))
    return ProbeReport(node=node, visible_s=visible_s, torn=torn, won=won, versions=engine_versions())


def wait_for(condition: Callable[[], bool], what: str) -> float:
    """How many seconds it took."""
    start_s = time.monotonic()
    while not condition():
        if time.monotonic() - start_s > DEADLINE_S:
            raise TimeoutError(f"{what} within {DEADLINE_S:.0f} s")
        time.sleep(0.01)
    return time.monotonic() - start_s


def _exchange(folder: Path, rank: int, node: str) -> float:
    """Write a file, wait for the other task's, and again; the longest wait after the first, which waits for
    the other's start."""
    waits_s = []
    for number in range(NUM_ROUNDS):
        write_text(folder / f"round-{number}-{rank}", node)
        theirs = f"round-{number}-{1 - rank}"
        what = f"{node}: no sight of what the other node wrote to {folder}"
        waits_s.append(wait_for(lambda name=theirs: name in os.listdir(folder), what))  # type: ignore[misc]
    return max(waits_s[1:])


def _replace_and_read(folder: Path, rank: int) -> list[str]:
    """Replace one's own file over and over while reading the other's."""
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
    """Whether this task is the one that gets the name, as with the shards of the spool."""
    temporary = temporary_name(name)
    temporary.touch()
    try:
        os.link(temporary, name)
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    return True


def main(folder: Path) -> None:
    node = os.environ.get("SLURMD_NODENAME", socket.gethostname())
    for _ in range(NUM_CLOCKS):
        print(json.dumps({"node": node, "clock_s": time.time()}), flush=True)
        time.sleep(0.05)
    report = probe(folder, int(os.environ["SLURM_PROCID"]), node)
    print(json.dumps({"node": node, "report": asdict(report)}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
