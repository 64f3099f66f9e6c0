"""`scalerl run`: starts the roles of a run, keeps them up, accounts for them, and ends them cleanly.
 The supervisor holds no state of its own that matters: everything is in the run folder, so it may die at any
point and the same command, or the same Slurm job started again, continues the run.
"""

import shutil
import signal
import time
from collections.abc import Callable

from scalerl.alarms import standing_alarms
from scalerl.cluster.slurm import SlurmError
from scalerl.config import RunConfig
from scalerl.fence import StaleAttempt, check_attempt, heartbeat, release_attempt
from scalerl.launch.backlog import Backlog
from scalerl.launch.budget import budget_used_up, sibling_gpu_hours
from scalerl.launch.place import claim, open_place
from scalerl.launch.preflight import check_inputs, check_machine
from scalerl.launch.processes import RoleProcess, free_port
from scalerl.launch.snapshot import latest, predicted_ceiling
from scalerl.launch.status_line import Progress, status_line
from scalerl.launch.stopping import JobEnds, RunFailed, Stopping, after_job_ends
from scalerl.metrics.ledger import ComputeLedger
from scalerl.metrics.loggers import open_loggers
from scalerl.metrics.rows import EvalRow
from scalerl.metrics.writer import MetricsWriter
from scalerl.paths import RunPaths
from scalerl.run_folder import RunStatus, check_run_folder, read_end, read_status, save_config, write_status
from scalerl.spool.evaluations import pending_evaluations

POLL_S = 0.1
SAVE_EVERY_S = 1.0
ROLE_STOP_S = 10.0
EXIT_CODES = {"finished": 0, "requeued": 75, "stopped": 130}
EXIT_FINISHED, EXIT_FAILED, EXIT_INTERRUPTED = EXIT_CODES["finished"], 1, EXIT_CODES["stopped"]


class Supervisor:
    """One attempt at a run."""

    def __init__(self, config: RunConfig, paths: RunPaths) -> None:
        """Claim the folder and lay out the processes.

        Raises:
            ValueError: bad input, a folder in use, or too few GPUs; nothing was started.
        """
        self.place = open_place()
        self.layout = self.place.layout(config)
        check_inputs(config)
        check_machine(config, on_cpu=self.place.on_cpu)
        check_run_folder(paths, config)
        self.config, self.paths = config, paths
        paths.create()
        self.attempt = claim(paths, self.place)
        save_config(paths, config)
        self.ledger = ComputeLedger(paths, self.place.job_id)
        self.metrics = MetricsWriter(paths, self.ledger, self.attempt)
        self.progress = Progress()
        self.loggers = open_loggers(paths, config)
        self.backlog = Backlog(paths, self.progress.note)
        self._allocation = self.place.open_ledger(config, self.ledger)
        self._reserved_gpu_hours = 0.0
        self.stopping = Stopping(config, paths, self.attempt, self.place, self.progress.note)
        self.stopping.alarms = standing_alarms(self.metrics.rows)
        self._saved_s = 0.0
        self._curve = predicted_ceiling(self.metrics.rows)
        self._last_error = ""

    def run(self) -> int:
        """Run to the end of the budget, of the job, an interrupt or a failure; returns the exit code."""
        self.paths.stop.unlink(missing_ok=True)
        self._link_logs()
        state, reason = "failed", "the supervisor ended unexpectedly"
        with self.stopping.signals() as ignore_signals:
            try:
                self._start_trainers()
                for process in [*self.layout.generators, *self.layout.evaluators]:
                    process.start(self.paths, self.attempt, self.ledger)
                state, reason = self._watch()
            except RunFailed as error:
                reason = str(error)
            except (JobEnds, StaleAttempt) as error:
                # the steps end with the job, and otherwise with their attempt: an srun that were asked to end
                # its step now would end that of the same number in the job's next start
                for process in self.layout.processes:
                    process.abandon()
                state, reason = after_job_ends(str(error))
            except Exception as error:
                reason = f"the supervisor failed: {error!r}"
                raise
            finally:
                ignore_signals()  # nothing may cut the clean-up short
                state, reason = self._end(state, reason)
        self.progress.note(f"run {state}: {reason} | {self._status_line()}")
        return EXIT_CODES.get(state, EXIT_FAILED)

    def _link_logs(self) -> None:
        self.paths.latest_logs.unlink(missing_ok=True)
        self.paths.latest_logs.symlink_to(self.paths.log(self.attempt, "any").parent.name)

    def _start_trainers(self) -> None:
        rendezvous = {"MASTER_ADDR": self.layout.trainer_address, "MASTER_PORT": str(free_port())}
        self.paths.end.unlink(missing_ok=True)
        for process in self.layout.trainers:
            process.environment |= rendezvous
            process.start(self.paths, self.attempt, self.ledger)

    def _watch(self) -> tuple[str, str]:
        """Keep the roles up until the trainer has ended by itself; then let the evaluators finish. Returns
        (state, reason)."""
        self._loop(until=self._trainers_ended, watched=[*self.layout.generators, *self.layout.evaluators])
        if self.stopping.reason is None:
            self._collect()
        reason = self.stopping.reason or self.stopping.own_end()
        for process in self.layout.generators:
            process.signal(signal.SIGTERM)
        if self.stopping.requeue:
            self.stopping.check_progress(self.metrics.rows, self.ledger)
            return "requeued", reason
        if self.stopping.interrupts:
            return "stopped", f"{reason}; the same command continues it"
        self._stop(self.layout.generators)
        deadline_s = time.monotonic() + self.config.launch.evaluation_deadline_s
        self._loop(until=lambda: self._evaluated(deadline_s), watched=self.layout.evaluators)
        if self.stopping.requeue and pending_evaluations(self.paths):
            return "requeued", f"{self.stopping.reason} before the last evaluation ({reason})"
        if self.stopping.interrupts:
            return (
                "stopped",
                f"interrupted before the last evaluation ({reason}); the same command continues it",
            )
        return "finished", reason

    def _last_step(self) -> int:
        return max((row.step for row in self.metrics.rows.steps), default=0)

    def _loop(self, until: Callable[[], bool], watched: list[RoleProcess]) -> None:
        while not until():
            for process in watched:
                self._restart_if_dead(process)
            self._collect()
            total = self.ledger.gpu_hours().total + self._reserved_gpu_hours
            self.stopping.check(self.metrics.rows, total, self.layout.trainers[0].running)
            if time.monotonic() - self._saved_s > SAVE_EVERY_S:
                if self._allocation is not None:
                    self._reserved_gpu_hours = self.backlog.gpu_hours(
                        self.metrics.rows, self._allocation.devices
                    )
                self._save("running", "")
            if self.progress.due():
                self.progress.show(self._status_line())
            time.sleep(POLL_S)

    def _trainers_ended(self) -> bool:
        """Whether every rank has ended well. One that died takes the others along, and all start again from
        the checkpoint."""
        trainers = self.layout.trainers
        codes = {process.name: process.poll() for process in trainers}
        dead = [process for process in trainers if codes[process.name] not in (None, 0)]
        if not dead and any(process.running for process in trainers):
            return False
        if not dead and read_end(self.paths) is not None:
            return True
        dead = dead or trainers
        # the other ranks wait in a collective for the dead one
        for process in trainers:
            process.stop(0)
        if self._may_restart(dead[0], codes[dead[0].name]):
            self._start_trainers()
        return self.stopping.requeue

    def _restart_if_dead(self, process: RoleProcess) -> None:
        code = process.poll()
        if code is not None and self._may_restart(process, code):
            process.start(self.paths, self.attempt, self.ledger)

    def _may_restart(self, process: RoleProcess, code: int | None) -> bool:
        """Whether a role that died is to be started again; not when Slurm ends it.

        Raises:
            RunFailed: it died too often, or while the run was stopping. JobEnds: the job is gone.
        """
        self.stopping.check_job()
        if self.stopping.requeue:
            return False
        process.num_deaths += 1
        cause = f"{process.name} died with exit code {code} ({process.last_error()}); log: {process.log}"
        self._last_error = cause
        if self.stopping.reason is not None and process.role == "trainer":
            raise RunFailed(f"while stopping ({self.stopping.reason}), {cause}")
        if process.num_deaths > self.config.launch.max_restarts:
            raise RunFailed(
                f"{cause}; it had been restarted {process.num_deaths - 1} times already (launch.max_restarts)"
            )
        self.progress.note(f"{cause}; starting it again")
        return True

    def _evaluated(self, deadline_s: float) -> bool:
        pending = pending_evaluations(self.paths)
        if self.stopping.interrupts or self.stopping.requeue or not pending:
            return True
        if time.monotonic() > deadline_s:
            waited = f"waited {self.config.launch.evaluation_deadline_s:.0f} s for the last evaluations (launch.evaluation_deadline_s)"
            raise RunFailed(f"{waited}: {self.backlog.lacking(pending[0].step, self.layout.evaluators)}")
        return False

    def _status_line(self) -> str:
        return status_line(self.config, self.metrics.rows, self.ledger.gpu_hours(), self.stopping.alarms)

    def _collect(self) -> None:
        check_attempt(self.paths, self.attempt)
        new = self.metrics.collect()
        if new.steps:
            self._check_stability()
        for row in new:
            for log in self.loggers:
                log(row)
            if isinstance(row, EvalRow):
                self.backlog.evaluated(row)
                self._curve = predicted_ceiling(self.metrics.rows)
                self.progress.note(
                    f"held-out pass rate {row.pass_rate:.4f} at step {row.step}, {row.gpu_hours:.4g} GPU-hours"
                )

    def _check_stability(self) -> None:
        before = {alarm.kind for alarm in self.stopping.alarms}
        self.stopping.alarms = standing_alarms(self.metrics.rows)
        for alarm in self.stopping.alarms:
            if alarm.kind not in before:
                self.progress.note(f"alarm: {alarm}; {alarm.advice}")

    def _end(self, state: str, reason: str) -> tuple[str, str]:
        """End every process, write the last word and give the folder free; unless a newer attempt owns it."""
        self._stop(self.layout.processes)
        try:
            self._collect()
            for pinned in self.paths.pinned_by_generators():  # of a generator that was killed
                shutil.rmtree(pinned)
            if self._allocation is not None:
                self._allocation.end_s = time.time()
            self._save(state, reason)
            if state == "requeued":
                state, reason = self._requeue_job(reason)
            release_attempt(self.paths, self.attempt)
        except StaleAttempt as error:
            return "fenced off", str(error)
        return state, reason

    def _stop(self, processes: list[RoleProcess]) -> None:
        for process in processes:
            process.signal(signal.SIGTERM)
        end_s = time.monotonic() + ROLE_STOP_S
        for process in processes:
            process.stop(max(0.0, end_s - time.monotonic()))

    def _requeue_job(self, reason: str) -> tuple[str, str]:
        try:
            self.place.requeue()
        except SlurmError as error:
            self._save("stopped", f"{reason}, and the job could not be requeued ({error}); submit it again")
            return "stopped", f"{reason}; not requeued: {error}"
        return "requeued", reason

    def _save(self, state: str, reason: str) -> None:
        self._saved_s = time.monotonic()
        check_attempt(self.paths, self.attempt)
        heartbeat(self.paths)
        self.ledger.save()
        status = RunStatus(
            state=state,
            reason=reason,
            final=self.stopping.final,
            attempt=self.attempt,
            job_id=self.place.job_id,
            step=self._last_step(),
            pids={process.name: pid for process in self.layout.processes if (pid := process.pid) is not None},
            latest=latest(self.metrics.rows),
            curve=self._curve,
            last_error=self._last_error,
            alarms=self.stopping.alarms,
            limits=self.config.budget.model_dump(),
            updated_s=time.time(),
            gpu_hours=self.ledger.gpu_hours(),
        )
        check_attempt(self.paths, self.attempt)  # the ledger's fsync may have taken its time
        write_status(self.paths, status)


def run(config: RunConfig, paths: RunPaths) -> int:
    """Run or continue the run in the folder `paths`; returns the exit code.

    Raises:
        ValueError: bad input; nothing was started.
    """
    if paths.config.exists():
        check_run_folder(paths, config)
        if budget_used_up(config, paths):
            status = read_status(paths)
            reason = status.reason if status else ""
            print(f"{paths.root} has finished ({reason}); raise budget.* to go beyond a budget")
            return EXIT_FINISHED
    limit = config.budget.sweep_max_gpu_hours
    if limit is not None and sibling_gpu_hours(paths) >= limit:
        raise ValueError(
            f"the other runs of the sweep have used its budget.sweep_max_gpu_hours = {limit}: raise it to go on"
        )
    return Supervisor(config, paths).run()
