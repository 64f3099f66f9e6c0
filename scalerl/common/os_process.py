"""What the processes of a run ask Linux: to die with their parent, and whether another process is alive."""

import ctypes
import os
import signal
from pathlib import Path

PR_SET_PDEATHSIG = 1
# loaded here, not on use: between fork and exec a process may not load a library
_LIBC = ctypes.CDLL(None, use_errno=True)


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when process `parent`, which started it, dies for whatever reason."""
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the line above
        os._exit(1)


def started_ticks(pid: int) -> int | None:
    """Return when a process of this host started, clock ticks since boot; None if no such process is alive.

    Process ids are used again: a process is the one that is meant if both numbers are.
    """
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state == "Z" else int(fields[18])
