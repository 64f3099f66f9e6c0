"""Watch for new policies beside the engine: the main thread never waits for a hash or a slow file system."""

import threading
import time

from scalerl.paths import RunPaths
from scalerl.spool.admission import PolicyManifest, read_manifest
from scalerl.spool.weights import check_weights

POLL_S = 0.05
"""Seconds between two looks at the manifest."""


class PolicyFollower:
    """A thread that reads the manifest and checks the weights it names.

    To check them is to read them, which also brings them into the page cache: the reload that follows is
    short.
    """

    def __init__(self, paths: RunPaths, first: PolicyManifest) -> None:
        """Start the thread; the weights of the manifest `first` must have been checked."""
        self._paths = paths
        self._latest = first
        self._error: BaseException | None = None
        self._stopped = threading.Event()
        # A daemon: a thread in a hung file system must not keep a generator from ending.
        self._thread = threading.Thread(target=self._run, name="policy-follower", daemon=True)
        self._thread.start()

    def latest(self) -> PolicyManifest:
        """Return the newest manifest with checked weights.

        Raises:
            ValueError: the weights of the newest manifest are not what the trainer published.
        """
        if self._error is not None:
            raise self._error
        return self._latest

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._stopped.is_set():
                manifest = read_manifest(self._paths)
                assert manifest is not None, "the first manifest was there"
                # After a restart of the trainer a manifest may name the weights of the one before.
                checked = (manifest.name, manifest.sha256) == (self._latest.name, self._latest.sha256)
                if manifest != self._latest and (checked or weights_are_there(self._paths, manifest)):
                    self._latest = manifest
                time.sleep(POLL_S)
        except BaseException as error:
            self._error = error  # `latest` raises it in the main thread


def weights_are_there(paths: RunPaths, manifest: PolicyManifest) -> bool:
    """Check the published weights; return False if a newer policy has replaced them meanwhile.

    Raises:
        ValueError, FileNotFoundError: they are wrong or gone, and the manifest still names them.
    """
    try:
        check_weights(paths.weights / manifest.name, manifest.sha256)
    except (ValueError, FileNotFoundError):
        newest = read_manifest(paths)
        if newest is None or newest.name == manifest.name:
            raise
        return False
    return True
