"""The fencing token of a run folder: only the newest attempt may publish.

A supervisor claims the folder by raising the attempt number. Every role carries the number it was started
with and looks at the folder's before each publish, so that a process left over from an earlier attempt, on a
node that Slurm has lost sight of, can do no harm. Between that look and the rename remain microseconds, or a
file system that hangs: therefore rows also say which attempt made them, and weights, parts and shards are
named by what is in them.
"""

import os
import socket
import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import replace

from scalerl.common.locks import lock
from scalerl.common.os_process import started_ticks
from scalerl.paths import RunPaths
from scalerl.run_folder import Attempt, read_attempt, read_stop, write_attempt

HEARTBEAT_EXPIRES_S = 60.0
"""Age of attempt.json at which a supervisor on another host counts as dead; it touches it every second."""
LOCK_EXPIRES_S = 60.0
"""Age at which the lock of a claim on another host counts no longer; a claim takes milliseconds."""
WATCH_S = 5.0
"""Seconds between two looks of a role that has nothing to publish."""
RELEASED = 0
"""Process id of the owner of a folder that was given free."""


class StaleAttempt(RuntimeError):
    """This process belongs to an attempt that no longer owns the run folder."""


def current_attempt(paths: RunPaths) -> int:
    """Return the number of the attempt that owns the folder; 0 before the first."""
    owner = read_attempt(paths)
    return owner.attempt if owner else 0


def check_attempt(paths: RunPaths, attempt: int) -> None:
    """Refuse to go on in a folder that a newer attempt owns.

    Raises:
        StaleAttempt: another attempt claimed the folder since this process was started.
    """
    current = current_attempt(paths)
    # not only a larger number: a folder that was restored from a copy is not this attempt's either
    if current != attempt:
        raise StaleAttempt(
            f"attempt {current} owns {paths.root}; this process belongs to attempt {attempt} and stops"
        )


def asked_to_stop(paths: RunPaths, attempt: int) -> bool:
    """Say whether the supervisor of this attempt wants the trainer to end."""
    request = read_stop(paths)
    # the supervisor of an earlier attempt may have hung, and written its request into a later one's run
    return request is not None and request.attempt == attempt


def end_if_stale(paths: RunPaths, attempt: int) -> None:
    """End this process, after a line on stdout, if its attempt is over.

    The exit code is 0, for nothing failed: srun would answer a failure by killing the step of its number, and
    if Slurm has started the job again, that is a step of the new attempt.
    """
    try:
        check_attempt(paths, attempt)
        owner = read_attempt(paths)
        if owner is not None and owner.pid == RELEASED:
            raise StaleAttempt(f"attempt {attempt} has ended")
    except StaleAttempt as error:
        print(f"fenced off: {error}", flush=True)
        os._exit(0)


def end_when_stale(paths: RunPaths, attempt: int) -> None:
    """Have this process end soon after its attempt is over, also while it has nothing to publish.

    A role that Slurm can no longer reach would otherwise hold its GPU for ever.
    """

    def watch() -> None:
        while True:
            time.sleep(WATCH_S)
            # a shared file system may hiccup; every publish checks for itself
            with suppress(OSError):
                end_if_stale(paths, attempt)

    threading.Thread(target=watch, name="fence", daemon=True).start()


def claim_attempt(paths: RunPaths, job_id: str | None = None, restarts: int = 0) -> int:
    """Take the folder over for this process and return the new attempt number.

    Args:
        job_id: the Slurm job this process runs in.
        restarts: how often Slurm has started that job again. The owner of another start of the same job is
            dead, or cut off from Slurm and fenced off from now on.

    Raises:
        ValueError: another supervisor is alive in the folder, or is claiming it.
    """
    with ExitStack() as held:
        try:
            # deadline 0: a claim takes milliseconds, and whoever makes it will then own the folder
            held.enter_context(lock(paths.attempt_lock, deadline_s=0.0, expires_s=LOCK_EXPIRES_S))
        except TimeoutError:
            raise ValueError(
                f"another supervisor is claiming {paths.root} right now; if none is alive, "
                f"{paths.attempt_lock} counts no longer after {LOCK_EXPIRES_S:.0f} s"
            ) from None
        return _claim_locked(paths, job_id, restarts)


def _claim_locked(paths: RunPaths, job_id: str | None, restarts: int) -> int:
    owner = read_attempt(paths)
    if owner is not None:
        # Slurm never runs two starts of one job at once: the owner is dead, or on a node that Slurm has lost,
        # and then its heartbeat may go on for ever
        earlier_start = job_id is not None and owner.job_id == job_id and owner.restarts != restarts
        if _alive(paths, owner) and not earlier_start:
            raise ValueError(
                f"{paths.root} is being run by process {owner.pid} on {owner.host} "
                f"(attempt {owner.attempt}); stop it first, or choose another --dir"
            )
    mine = Attempt(
        attempt=owner.attempt + 1 if owner else 1,
        host=socket.gethostname(),
        pid=os.getpid(),
        started_ticks=started_ticks(os.getpid()),
        job_id=job_id,
        restarts=restarts,
    )
    write_attempt(paths, mine)
    return mine.attempt


def _alive(paths: RunPaths, owner: Attempt) -> bool:
    if owner.host == socket.gethostname():
        return owner.pid != os.getpid() and started_ticks(owner.pid) == owner.started_ticks
    # another host's processes cannot be seen: the file's time is its supervisor's heartbeat
    return time.time() - paths.attempt.stat().st_mtime < HEARTBEAT_EXPIRES_S


def supervisor_alive(paths: RunPaths) -> bool:
    """Say whether a supervisor seems to be at work in the folder, on whatever host."""
    owner = read_attempt(paths)
    return owner is not None and _alive(paths, owner)


def heartbeat(paths: RunPaths) -> None:
    """Tell other hosts that the supervisor is alive.

    Only the file's time changes: a write could bring back the number of an attempt that is over.
    """
    os.utime(paths.attempt)


def release_attempt(paths: RunPaths, attempt: int) -> None:
    """Give the folder free for a supervisor on any host; the number stays.

    Raises:
        StaleAttempt: another attempt owns it already.
    """
    check_attempt(paths, attempt)
    owner = read_attempt(paths)
    assert owner is not None, "check_attempt has just read it"
    # on this host no process has these numbers, and elsewhere the time below is a heartbeat long past
    write_attempt(paths, replace(owner, pid=RELEASED, started_ticks=-1, host=socket.gethostname()))
    os.utime(paths.attempt, (0, 0))
