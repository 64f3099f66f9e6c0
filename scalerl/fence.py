"""The fencing token of a run folder: only the newest attempt may publish.

A supervisor claims the folder by raising the attempt number; every role carries the number it was started with and checks it
before each publish, so that a left-over process of an earlier attempt can do no harm.
"""

import json
import os
import socket
import time
from pathlib import Path

from scalerl.files import read_json, write_json
from scalerl.paths import RunPaths

HEARTBEAT_EXPIRES_S = 60.0


class StaleAttempt(RuntimeError):
    """This process belongs to an attempt that no longer owns the run folder."""


def current_attempt(paths: RunPaths) -> int:
    """The number of the attempt that owns the folder; 0 before the first."""
    return read_json(paths.attempt)["attempt"] if paths.attempt.exists() else 0


def check_attempt(paths: RunPaths, attempt: int) -> None:
    """Refuse to go on in a folder that a newer attempt owns.

    Raises:
        StaleAttempt: another attempt claimed the folder since this process was started.
    """
    current = current_attempt(paths)
    if current != attempt:
        raise StaleAttempt(f"attempt {current} owns {paths.root}; this process belongs to attempt {attempt} and stops")


def _started_ticks(pid: int) -> int | None:
    """When a process of this host started, in clock ticks since boot; None if there is none. Process ids are used again."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return None
    return None if state == "Z" else int(fields[18])


def claim_attempt(paths: RunPaths) -> int:
    """Take the folder over for this process and return the new attempt number.

    Raises:
        ValueError: another supervisor is alive in the folder.
    """
    lock = paths.attempt.with_suffix(".lock")
    try:
        os.close(os.open(lock, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        raise ValueError(f"another supervisor is claiming {paths.root} right now; if none is alive, delete {lock}") from None
    try:
        return _claim_locked(paths)
    finally:
        lock.unlink()


def _claim_locked(paths: RunPaths) -> int:
    attempt = 1
    if paths.attempt.exists():
        owner = read_json(paths.attempt)
        attempt = owner["attempt"] + 1
        if owner["host"] == socket.gethostname():
            alive = owner["pid"] != os.getpid() and _started_ticks(owner["pid"]) == owner["started_ticks"]
        else:
            alive = time.time() - paths.attempt.stat().st_mtime < HEARTBEAT_EXPIRES_S
        if alive:
            raise ValueError(
                f"{paths.root} is being run by process {owner['pid']} on {owner['host']} (attempt {owner['attempt']}); "
                f"stop it first, or choose another --dir"
            )
    me = {"host": socket.gethostname(), "pid": os.getpid(), "started_ticks": _started_ticks(os.getpid())}
    write_json(paths.attempt, {"attempt": attempt, **me})
    return attempt


def heartbeat(paths: RunPaths) -> None:
    """Tell other hosts that the supervisor is alive."""
    os.utime(paths.attempt)


def release_attempt(paths: RunPaths) -> None:
    """Give the folder free for a supervisor on any host; the number stays."""
    owner = json.loads(paths.attempt.read_text())
    write_json(paths.attempt, owner | {"pid": 0, "started_ticks": -1, "host": socket.gethostname()})
    os.utime(paths.attempt, (0, 0))
