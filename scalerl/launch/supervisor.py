"""`scalerl run`: starts the roles of a run, keeps them up, accounts for them, and ends them cleanly.

The supervisor holds no state of its own that matters: everything is in the run folder, so it may die at any
point and the same command, or the same Slurm job started again, continues the run.
"""

import shutil
import signal
import time
from collections.abc import Callable
from functools import partial

from scalerl.cluster.slurm import SlurmError
from scalerl.config import RunConfig
from scalerl.fence import StaleAttempt, release_attempt
from scalerl.launch.bookkeeping import Bookkeeping
from scalerl.launch.budget import budget_used_up, sibling_gpu_hours
from scalerl.launch.examination import conclude, exam_stages, preflight_is_due
from scalerl.launch.place import claim, open_place
from scalerl.launch.processes import Deaths, RoleProcess, free_port
from scalerl.launch.status_line import Display
from scalerl.launch.stopping import JobEnds, RunFailed, Stopping, after_job_ends
from scalerl.paths import RunPaths
from scalerl.preflight.inputs import check_inputs, check_machine
from scalerl.preflight.report import Finding, Report, read_report
from scalerl.run_folder import check_run_folder, read_end, read_status, save_config
from scalerl.spool.best import lacks_test, request_test, withdraw_test
from scalerl.spool.evaluations import pending_evaluations

POLL_S = 0.1
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
        # everything above only reads: from here on the folder is ours, and its config is what we run
        self.attempt = claim(paths, self.place)
        save_config(paths, config)
        self.display = Display()
        self.books = Bookkeeping(config, paths, self.attempt, self.place, self.display)
        self.stopping = Stopping(config, paths, self.attempt, self.place, self.display.note)
        self.deaths = Deaths()
        self.exams: list[RoleProcess] = []

    @property
    def processes(self) -> list[RoleProcess]:
        """Return all processes of the attempt."""
        return [*self.exams, *self.layout.processes]

    def run(self, *, only_preflight: bool = False) -> int:
        """Run to the end of the budget, of the job, an interrupt or a failure; return the exit code.

        only_preflight: end after that, with exit code 0 if it was passed.
        """
        self.paths.stop.unlink(missing_ok=True)
        withdraw_test(self.paths)
        self._link_logs()
        state, reason = "failed", "the supervisor ended unexpectedly"
        with self.stopping.signals() as ignore_signals:
            try:
                self._preflight(again=only_preflight)
                if only_preflight and self.stopping.reason is None:
                    state, reason = "stopped", "preflight passed; `scalerl run` goes on from here"
                else:
                    state, reason = self._watch()
            except RunFailed as error:
                reason = str(error)
            except (JobEnds, StaleAttempt) as error:
                # the steps end with the job, and otherwise with their attempt: an srun that were asked to end
                # its step now would end that of the same number in the job's next start
                for process in self.processes:
                    process.abandon()
                state, reason = after_job_ends(str(error))
            except Exception as error:
                reason = f"the supervisor failed: {error!r}"
                raise
            finally:
                ignore_signals()  # nothing may cut the clean-up short
                state, reason = self._end(state, reason)
        self.display.note(f"run {state}: {reason} | {self.books.status_line()}")
        passed = only_preflight and state == "stopped" and self.stopping.reason is None
        return EXIT_FINISHED if passed else EXIT_CODES.get(state, EXIT_FAILED)

    def _link_logs(self) -> None:
        self.paths.latest_logs.unlink(missing_ok=True)
        self.paths.latest_logs.symlink_to(self.paths.log(self.attempt, "any").parent.name)

    def _start(self, process: RoleProcess) -> None:
        process.start(self.paths, self.attempt, self.books.ledger)

    def _start_trainers(self) -> None:
        # of ranks before these; else they would seem to have ended well
        self.paths.end.unlink(missing_ok=True)
        self._start_together(self.layout.trainers)

    def _start_together(self, processes: list[RoleProcess]) -> None:
        rendezvous = {"MASTER_ADDR": self.layout.trainer_address, "MASTER_PORT": str(free_port())}
        for process in processes:
            process.environment |= rendezvous
            self._start(process)

    def _preflight(self, again: bool) -> None:
        """Have the engines examined, unless that was done.

        again: whatever was done.

        Raises:
            RunFailed: the run is wrong or hopeless, or an exam failed.
        """
        if not again and not preflight_is_due(self.config, self.paths, self.display.note):
            return
        shutil.rmtree(self.paths.preflight, ignore_errors=True)  # of an attempt that was killed
        end_s = time.monotonic() + self.config.launch.preflight_deadline_s
        for stage in exam_stages(self.layout):
            self.exams = stage.processes
            self.display.note(f"preflight: {', '.join(process.name for process in self.exams)}")
            self._start_together(self.exams)
            self._loop(until=partial(stage.ended, self.config, self.paths, self.stopping, end_s), watched=[])
            self._stop(self.exams)
            if self.stopping.reason is not None:
                return
        conclude(self.config, self.paths, self.place.on_cpu, self.display.note)

    def _watch(self) -> tuple[str, str]:
        """Keep the roles up until the trainer has ended by itself; then let the evaluators finish.

        Returns:
            (state, reason) of the run.
        """
        if self.stopping.reason is None:
            self._start_trainers()
            for process in [*self.layout.generators, *self.layout.evaluators]:
                self._start(process)
            watched = [*self.layout.generators, *self.layout.evaluators]
            self._loop(until=self._trainers_ended, watched=watched)
        if self.stopping.reason is None:
            self.books.collect()
        reason = self.stopping.reason or self.stopping.own_end()
        for process in self.layout.generators:
            process.signal(signal.SIGTERM)
        if self.stopping.requeue:
            self.stopping.check_progress(self.books.rows, self.books.ledger)
            return "requeued", reason
        if self.stopping.interrupts:
            return "stopped", f"{reason}; the same command continues it"
        self._stop(self.layout.generators)
        return self._finish_evaluations(reason)

    def _finish_evaluations(self, reason: str) -> tuple[str, str]:
        self._await_evaluations()
        if lacks_test(self.paths, self.config.data.test) and not self._interrupted():
            request_test(self.paths, self.config.data.test)
            self._await_evaluations()
        if self.stopping.requeue and pending_evaluations(self.paths):
            return "requeued", f"{self.stopping.reason} before the last evaluation ({reason})"
        if self.stopping.interrupts:
            why = f"interrupted before the last evaluation ({reason})"
            return "stopped", f"{why}; the same command continues it"
        return "finished", reason

    def _await_evaluations(self) -> None:
        """Let the evaluators answer what is asked for, within launch.evaluation_deadline_s.

        Raises:
            RunFailed: they did not.
        """
        deadline_s = time.monotonic() + self.config.launch.evaluation_deadline_s
        self._loop(until=lambda: self._evaluated(deadline_s), watched=self.layout.evaluators)

    def _loop(self, until: Callable[[], bool], watched: list[RoleProcess]) -> None:
        while not until():
            for process in watched:
                self._restart_if_dead(process)
            self.books.collect()
            self.stopping.check(self.books, self.layout.trainers[0].running)
            self.books.save_if_due(self.processes)
            self.books.show()
            time.sleep(POLL_S)

    def _trainers_ended(self) -> bool:
        """Say whether every rank has ended well. One that died takes the others along, and all start again
        from the checkpoint."""
        trainers = self.layout.trainers
        codes = {process.name: process.poll() for process in trainers}
        dead = [process for process in trainers if codes[process.name] not in (None, 0)]
        if not dead and any(process.running for process in trainers):
            return False
        if not dead and read_end(self.paths) is not None:
            return True
        # all ended with code 0, but none said that it was done: srun does so for a step it lost with its node
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
            self._start(process)

    def _may_restart(self, process: RoleProcess, code: int | None) -> bool:
        """Say whether a role that died is to be started again; not when Slurm ends it.

        Raises:
            RunFailed: it died too often, or while the run was stopping.
            JobEnds: the job is gone.
        """
        self.stopping.check_job()
        if self.stopping.requeue:
            return False
        cause, told = self.deaths.count(process, code)
        self.books.last_error = cause
        if self.stopping.reason is not None and process.role == "trainer":
            raise RunFailed(f"while stopping ({self.stopping.reason}), {cause}")
        if process.num_deaths > self.config.launch.max_restarts:
            raise RunFailed(
                f"{cause}; it had been restarted {process.num_deaths - 1} times already (launch.max_restarts)"
            )
        self.display.note(f"{told}; starting it again")
        return True

    def _interrupted(self) -> bool:
        return bool(self.stopping.interrupts) or self.stopping.requeue

    def _evaluated(self, deadline_s: float) -> bool:
        pending = pending_evaluations(self.paths)
        if self._interrupted() or not pending:
            return True
        if time.monotonic() > deadline_s:
            limit_s = self.config.launch.evaluation_deadline_s
            lacking = self.books.backlog.lacking(pending[0], self.layout.evaluators)
            raise RunFailed(
                f"waited {limit_s:.0f} s for the last evaluations (launch.evaluation_deadline_s): {lacking}"
            )
        return False

    def _end(self, state: str, reason: str) -> tuple[str, str]:
        """End every process, write the last word and give the folder free, unless a newer attempt owns it.

        Returns:
            (state, reason) as they turned out.
        """
        self._stop(self.processes)
        try:
            self.books.close()
            for pinned in self.paths.pinned_by_generators():  # by one that was killed
                shutil.rmtree(pinned)
            self._save(state, reason)
            if state == "requeued":
                state, reason = self._requeue_job(reason)
            # last: whoever finds the folder free may claim it, and we write nothing after that
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
        self.books.save(state, reason, self.processes, final=self.stopping.final)


def run(config: RunConfig, paths: RunPaths) -> int:
    """Run or continue the run in the folder `paths`; return the exit code.

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
            f"the other runs of the sweep have used its budget.sweep_max_gpu_hours = {limit}: raise it to go "
            f"on"
        )
    return Supervisor(config, paths).run()


def preflight(config: RunConfig, paths: RunPaths) -> Report | None:
    """Examine the engines of a run in the folder `paths`, and train nothing; None if it was interrupted.

    Raises:
        ValueError: another run owns the folder, or the machine has too few devices; nothing was started.
    """
    try:
        check_inputs(config)
    except ValueError as error:
        return Report.of([Finding(refuses=True, text=str(error))], form=config.launch.preflight)
    Supervisor(config, paths).run(only_preflight=True)
    return read_report(paths)
