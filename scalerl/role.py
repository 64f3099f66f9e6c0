"""What the processes of a run have in common: SIGTERM as a flag, and the verifier of those that sample."""

import os
import signal
from collections.abc import Iterable
from types import FrameType

from scalerl.config import RunConfig
from scalerl.data.problem import Problem
from scalerl.sandbox.sandbox import Limits
from scalerl.verify.pool import VerifierPool


class StopSignal:
    """SIGTERM as the flag `requested`.

    Until `loop_started` is set there is nothing to finish and nobody to look at the flag (an engine takes
    seconds to minutes to start), so the process then ends at once, with exit status 0.
    """

    def __init__(self) -> None:
        """Handle SIGTERM from now on."""
        self.requested = False
        self.loop_started = False
        signal.signal(signal.SIGTERM, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        # not sys.exit, which would unwind through an engine that is starting
        if not self.loop_started:
            os._exit(0)


def program_limits(config: RunConfig) -> Limits:
    """Return what a program of the model may use."""
    generator = config.generator
    return Limits(
        cpu_s=generator.code_timeout_s,
        memory_mb=generator.code_memory_mb,
        allow_weak_sandbox=generator.allow_weak_sandbox,
    )


def start_verifier(config: RunConfig, problems: Iterable[Problem]) -> VerifierPool:
    """Return the pool that grades these problems as the config says.

    Raises:
        ValueError: this machine cannot grade one of their tasks, such as code where there is no sandbox.
    """
    generator = config.generator
    return VerifierPool(
        tasks={problem.task for problem in problems},
        limits=program_limits(config),
        num_workers=generator.verifier_workers,
        timeout_s=generator.verify_timeout_s,
        think_end=config.length.think_end,
    )
