"""Why and when an attempt at a run ends: budgets, signals, and the end of its Slurm job."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from scalerl.cluster.slurm import PREEMPTING, TIMEOUT
from scalerl.config import RunConfig
from scalerl.launch.bookkeeping import Bookkeeping
from scalerl.launch.budget import limit_reached, sibling_gpu_hours
from scalerl.launch.place import Place
from scalerl.metrics.ledger import ComputeLedger
from scalerl.metrics.rows import Rows
from scalerl.paths import RunPaths
from scalerl.run_folder import StopRequest, read_end, write_stop

TIME_LIMIT = "the job's time limit is near"
JOB_EVERY_S = 1.0
SIBLINGS_EVERY_S = 10.0
"""Seconds between two looks at what the other runs of a sweep with a budget of its own have used."""
EARLY_WARNING_S = 60.0
"""Slurm's warning may come so long before it is due; then the clock decides."""
FRUITLESS_JOBS = 3
"""Jobs in a row that a time limit may end before a step, until the run gives up."""


class RunFailed(RuntimeError):
    """The run cannot go on; the message says why and where to look."""


class JobEnds(RuntimeError):
    """Slurm takes the job away now; the message is Slurm's word for why."""


def after_job_ends(ending: str) -> tuple[str, str]:
    """Return (state, reason) of the run of a job that ended.

    At its time limit a job has to be requeued by us; after a preemption or a dead node Slurm does it.
    """
    return "requeued" if ending == TIMEOUT else "stopped", f"Slurm ended the job: {ending}"


class Stopping:
    """The reasons to stop, and the request to the trainer: it ends its step, checkpoints and exits."""

    def __init__(
        self, config: RunConfig, paths: RunPaths, attempt: int, place: Place, note: Callable[[str], None]
    ) -> None:
        """Watch for the attempt; `note` shows a line to the user."""
        self._config, self._paths, self._attempt = config, paths, attempt
        self._place, self._note = place, note
        self.reason: str | None = None
        self.requeue = False
        """True if it stops for Slurm's sake: the job is to be started again."""
        self.final = False
        """True if the run has ended for good: a larger budget would not make it go on."""
        self.interrupts = 0
        self._warned = False
        self._deadline_s = 0.0
        self._job_due_s = 0.0
        self._siblings = 0.0
        self._siblings_due_s = 0.0

    @contextmanager
    def signals(self) -> Iterator[Callable[[], None]]:
        """Handle SIGINT, SIGTERM and SIGUSR1; yield a function that makes the process deaf to them."""
        handlers = {
            number: signal.signal(number, self._interrupt) for number in (signal.SIGINT, signal.SIGTERM)
        }
        handlers[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, self._warn)

        def ignore() -> None:
            for number in handlers:
                signal.signal(number, signal.SIG_IGN)

        try:
            yield ignore
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self.interrupts += 1
        # Slurm may send SIGTERM several times to a job that leaves; only a user's second one is impatience
        if self.interrupts > 1 and not self.requeue:
            raise RunFailed(
                "interrupted twice: stopped without a last checkpoint; the same command continues from the "
                "one before"
            )

    def _warn(self, number: int, frame: FrameType | None) -> None:
        self._warned = True

    def check(self, books: Bookkeeping, trainer_running: bool) -> None:
        """Ask the trainer to stop when there is reason to, from what the run has done and spent so far.

        Raises:
            JobEnds: the job is gone.
            RunFailed: a trainer asked to stop did not within launch.stop_deadline_s.
        """
        if not self.requeue:
            self._check_time()
        # asked to leave the job, and Slurm now sends the signal that ends it: is there any time left?
        elif self.interrupts and time.monotonic() > self._job_due_s:  # the checkpoint was not done in time
            self._job_due_s = time.monotonic() + JOB_EVERY_S
            self.check_job()
        if self.reason is None:
            self._check_limits(books)
        elif trainer_running and not self.requeue and time.monotonic() > self._deadline_s:
            limit_s = self._config.launch.stop_deadline_s
            raise RunFailed(
                f"stopping ({self.reason}): the trainer did not end within {limit_s:.0f} s "
                f"(launch.stop_deadline_s)"
            )

    def _check_time(self) -> None:
        """Leave the job in good time: the wait for the checkpoint then ends with the job at the latest."""
        remaining_s = self._place.remaining_s()
        if remaining_s is not None and remaining_s <= 0:
            return self._leave_job(TIME_LIMIT)
        # the same signals come from the user and from Slurm, before a preemption or the time limit: ask Slurm
        if self._warned or (self.interrupts and self.reason is None):
            self.check_job()
        if self._warned and not self.requeue:
            self._warned = False
            if remaining_s is None or remaining_s > EARLY_WARNING_S:
                self._leave_job("asked to by SIGUSR1")

    def check_job(self) -> None:
        """Find out whether Slurm is taking the job away: with grace, or now.

        Raises:
            JobEnds: now.
        """
        ending = self._place.ending()
        if ending == PREEMPTING:
            self._leave_job("preempted")
        elif ending is not None:
            raise JobEnds(ending)

    def _leave_job(self, reason: str) -> None:
        self.requeue = True
        # a trainer that is ending already is not asked again, but the job comes back for the evaluations
        if self.reason is None:
            self._ask(reason)

    def _check_limits(self, books: Bookkeeping) -> None:
        if self.interrupts:
            return self._ask("interrupted")
        if self._config.budget.sweep_max_gpu_hours is not None and time.monotonic() > self._siblings_due_s:
            self._siblings_due_s = time.monotonic() + SIBLINGS_EVERY_S
            self._siblings = sibling_gpu_hours(self._paths)
        reason, self.final = limit_reached(
            self._config, books.rows, books.budgeted_gpu_hours(), self._siblings
        )
        for alarm in books.alarms:
            if reason is None and alarm.kind in self._config.launch.stop_on_alarm:
                reason = f"alarm: {alarm} (launch.stop_on_alarm)"
        if reason is not None:
            self._ask(reason)

    def _ask(self, reason: str) -> None:
        self.reason = reason
        self._deadline_s = time.monotonic() + self._config.launch.stop_deadline_s
        write_stop(self._paths, StopRequest(attempt=self._attempt, reason=reason))
        self._note(f"stopping: {reason}; the trainer ends its step and checkpoints")

    def check_progress(self, rows: Rows, ledger: ComputeLedger) -> None:
        """Refuse to start a job again and again whose time limit comes before its first step.

        Raises:
            RunFailed: that has happened FRUITLESS_JOBS times in a row.
        """
        last_step_s = max((row.time_s for row in rows.steps), default=0.0)
        num_jobs = ledger.num_jobs_since(last_step_s)
        if self.reason == TIME_LIMIT and num_jobs >= FRUITLESS_JOBS:
            raise RunFailed(
                f"its time limit ended the job {num_jobs} times before one optimizer step: raise --time"
            )

    def own_end(self) -> str:
        """Say why the trainer ended without being asked to."""
        end = read_end(self._paths)
        if end is None or not end.exhausted:
            return "max_steps reached"
        self.final = True
        return (
            "every prompt is mastered (algo.curriculum = no_positive_resampling): prepare harder ones for a "
            "new run"
        )
