"""SIGTERM of a role that samples: a flag its loop looks at between two steps."""

import os
import signal
from types import FrameType


class StopSignal:
    """Turns SIGTERM into the flag `requested`.

    Until `loop_started` is set there is nothing to finish and nobody to look at the flag (an engine takes seconds to minutes
    to start), so the process then ends at once, with exit status 0.
    """

    def __init__(self) -> None:
        self.requested = False
        self.loop_started = False
        signal.signal(signal.SIGTERM, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        if not self.loop_started:
            os._exit(0)
