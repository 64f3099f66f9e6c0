"""One lock for processes of several hosts: a file that names its holder.

The file appears with its content (a link, not an open), so nobody ever reads a lock without a holder. A
holder that died cannot remove its lock: on its own host that is seen at once, elsewhere the lock counts until
it is `expires_s` old.
"""

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from scalerl.common.files import read_json, temporary_name, write_new
from scalerl.common.os_process import started_ticks

POLL_S = 0.2


@contextmanager
def lock(path: Path, *, deadline_s: float, expires_s: float) -> Iterator[None]:
    """Hold the lock file `path`, whose folder exists; nobody else does meanwhile.

    Args:
        deadline_s: how long to wait for another holder.
        expires_s: age at which the lock of a holder on another host counts no longer.

    Raises:
        TimeoutError: another process held it all the while; the message names the file.
    """
    content = json.dumps({"host": socket.gethostname(), "pid": os.getpid()})
    end_s = time.monotonic() + deadline_s
    while True:
        _remove_stale(path, expires_s)
        # exists() first: a waiting process should not write and sync a file five times a second
        if not path.exists() and write_new(path, lambda temporary: temporary.write_text(content)):
            break
        if time.monotonic() >= end_s:
            raise TimeoutError(f"waited {deadline_s:.0f} s for {path}")
        time.sleep(POLL_S)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _remove_stale(path: Path, expires_s: float) -> None:
    with suppress(FileNotFoundError):
        if not _is_stale(path, expires_s):
            return
        # Two processes may both get here, and the slower one would remove the lock that the faster has taken
        # by now. So it is moved aside, which one of them does, and looked at again.
        aside = temporary_name(path)
        os.rename(path, aside)
        if not _is_stale(aside, expires_s):
            with suppress(FileExistsError):
                os.link(aside, path)
        aside.unlink()


def _is_stale(path: Path, expires_s: float) -> bool:
    holder = read_json(path)
    if holder["host"] == socket.gethostname():
        return started_ticks(holder["pid"]) is None
    return time.time() - path.stat().st_mtime > expires_s
