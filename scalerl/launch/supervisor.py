"""`scalerl run`: starts the roles of a run, keeps them up, accounts for them, and ends them cleanly.

The supervisor holds no state of its own that matters: everything is in the run folder, so it may die at any point and the same
command continues the run.
"""

import shutil
import signal
import time
from collections.abc import Callable
from types import FrameType

from scalerl.config import RunConfig
from scalerl.fence import claim_attempt, heartbeat, release_attempt
from scalerl.files import read_json, write_json
from scalerl.launch.devices import assign_devices, visible_gpus
from scalerl.launch.folder import check_inputs, check_run_folder, save_config
from scalerl.launch.loggers import open_loggers
from scalerl.launch.processes import RoleProcess, free_port
from scalerl.launch.progress import Progress, status_line
from scalerl.metrics import ComputeLedger, MetricsWriter
from scalerl.paths import RunPaths
from scalerl.spool.policy import pending_evaluations

POLL_S = 0.1
SAVE_EVERY_S = 1.0
GENERATOR_STOP_S = 10.0
EXIT_FINISHED, EXIT_FAILED, EXIT_INTERRUPTED = 0, 1, 130


class RunFailed(RuntimeError):
    """A role cannot be kept up; the message names it, its last error and its log."""


class Supervisor:
    """One attempt at a run."""

    def __init__(self, config: RunConfig, paths: RunPaths) -> None:
        """Claim the folder and lay out the processes.

        Raises:
            ValueError: bad input, a folder in use, or too few GPUs; nothing was started.
        """
        gpus = visible_gpus()
        devices = assign_devices(config, gpus)
        check_inputs(config, on_cpu=not gpus)
        check_run_folder(paths, config)
        self.config, self.paths = config, paths
        paths.create()
        self.attempt = claim_attempt(paths)
        save_config(paths, config)
        self.ledger = ComputeLedger(paths)
        self.metrics = MetricsWriter(paths, self.ledger)
        self.progress = Progress()
        self.loggers = open_loggers(paths, config)
        self.trainers = [self._process("trainer", index, devices) for index in range(config.trainer.num_ranks)]
        self.generators = [self._process("generator", index, devices) for index in range(config.generator.num)]
        self.evaluator = self._process("evaluator", None, devices)
        self._stop_reason: str | None = None
        self._final = False
        """Whether the run has ended for good: a larger budget would not make it go on."""
        self._stop_deadline_s = 0.0
        self._saved_s = 0.0
        self._interrupts = 0

    def _process(self, role, index: int | None, devices: dict[str, list[str]]) -> RoleProcess:
        name = role if index is None else f"{role}-{index}"
        arguments = [role] if index is None else [role, "--index", str(index)]
        return RoleProcess(name=name, role=role, arguments=arguments, gpus=devices[name], log=self.paths.log(self.attempt, name))

    @property
    def processes(self) -> list[RoleProcess]:
        return [*self.trainers, *self.generators, self.evaluator]

    def run(self) -> int:
        """Run to the end of the budget, an interrupt or a failure; returns the exit code."""
        self.paths.stop.unlink(missing_ok=True)
        self._link_logs()
        handlers = {number: signal.signal(number, self._interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
        state, reason = "failed", "the supervisor ended unexpectedly"
        try:
            self._start_trainers()
            for process in [*self.generators, self.evaluator]:
                process.start(self.paths.root, self.attempt, self.ledger)
            state, reason = self._watch()
        except RunFailed as error:
            reason = str(error)
        finally:
            for number in handlers:
                signal.signal(number, signal.SIG_IGN)  # nothing may cut the clean-up short
            self._stop_all()
            self._save(state, reason)
            release_attempt(self.paths)
            for number, handler in handlers.items():
                signal.signal(number, handler)
        self.progress.note(f"run {state}: {reason} | {status_line(self.config, self.metrics.rows, self.ledger.gpu_hours())}")
        return {"finished": EXIT_FINISHED, "stopped": EXIT_INTERRUPTED}.get(state, EXIT_FAILED)

    def _link_logs(self) -> None:
        latest = self.paths.logs / "latest"
        latest.unlink(missing_ok=True)
        latest.symlink_to(self.paths.log(self.attempt, "any").parent.name)

    def _start_trainers(self) -> None:
        rendezvous = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(len(self.trainers))}
        for rank, process in enumerate(self.trainers):
            # each rank sees just its own GPU, so its local rank is always 0
            process.environment = rendezvous | {"RANK": str(rank), "LOCAL_RANK": "0"}
            process.start(self.paths.root, self.attempt, self.ledger)

    def _watch(self) -> tuple[str, str]:
        """Keep the roles up until the trainer has ended by itself; then let the evaluator finish. Returns (state, reason)."""
        self._loop(until=self._trainers_ended, watched=[*self.generators, self.evaluator])
        reason = self._stop_reason or self._own_end()
        for process in self.generators:
            process.signal(signal.SIGTERM)
        if self._interrupts:
            return "stopped", f"{reason}; the same command continues it"
        for process in self.generators:
            process.stop(GENERATOR_STOP_S)
        deadline_s = time.monotonic() + self.config.launch.evaluation_deadline_s
        self._loop(until=lambda: self._evaluated(deadline_s), watched=[self.evaluator])
        if self._interrupts:
            return "stopped", f"interrupted before the last evaluation ({reason}); the same command continues it"
        return "finished", reason

    def _own_end(self) -> str:
        """Why the trainer ended without being asked to."""
        self._collect()
        max_steps = self.config.budget.max_steps
        if max_steps is not None and self._last_step() >= max_steps:
            return "max_steps reached"
        self._final = True
        return "every prompt is mastered (algo.curriculum = no_positive_resampling): prepare harder ones for a new run"

    def _last_step(self) -> int:
        return max((row["step"] for row in self.metrics.rows if row["kind"] == "step"), default=0)

    def _loop(self, until: Callable[[], bool], watched: list[RoleProcess]) -> None:
        while not until():
            for process in watched:
                self._restart_if_dead(process)
            self._collect()
            self._check_limits()
            if time.monotonic() - self._saved_s > SAVE_EVERY_S:
                self._save("running", "")
            if self.progress.due():
                self.progress.show(status_line(self.config, self.metrics.rows, self.ledger.gpu_hours()))
            time.sleep(POLL_S)

    def _trainers_ended(self) -> bool:
        """Whether every rank has ended well. One that died takes the others along, and all start again from the checkpoint."""
        codes = {process.name: process.poll() for process in self.trainers}
        dead = [process for process in self.trainers if codes[process.name] not in (None, 0)]
        if dead:
            # the other ranks wait in a collective for the dead one
            for process in self.trainers:
                process.stop(0)
            self._count_death(dead[0], codes[dead[0].name])
            self._start_trainers()
        return not any(process.running for process in self.trainers)

    def _restart_if_dead(self, process: RoleProcess) -> None:
        code = process.poll()
        if code is not None:
            self._count_death(process, code)
            process.start(self.paths.root, self.attempt, self.ledger)

    def _count_death(self, process: RoleProcess, code: int | None) -> None:
        process.num_deaths += 1
        cause = f"{process.name} died with exit code {code} ({process.last_error()}); log: {process.log}"
        if self._stop_reason is not None and process.role == "trainer":
            raise RunFailed(f"while stopping ({self._stop_reason}), {cause}")
        if process.num_deaths > self.config.launch.max_restarts:
            raise RunFailed(f"{cause}; it had been restarted {process.num_deaths - 1} times already (launch.max_restarts)")
        self.progress.note(f"{cause}; starting it again")

    def _evaluated(self, deadline_s: float) -> bool:
        if self._interrupts or not pending_evaluations(self.paths):
            return True
        if time.monotonic() > deadline_s:
            waited_s = self.config.launch.evaluation_deadline_s
            raise RunFailed(
                f"waited {waited_s:.0f} s for the last evaluations (launch.evaluation_deadline_s); log: {self.evaluator.log}"
            )
        return False

    def _collect(self) -> None:
        for row in self.metrics.collect():
            for log in self.loggers:
                log(row)
            if row["kind"] == "eval":
                self.progress.note(
                    f"held-out pass rate {row['pass_rate']:.4f} at step {row['step']}, {row['gpu_hours']:.4g} GPU-hours"
                )

    def _check_limits(self) -> None:
        """Ask the trainer to end when a budget is used up; a trainer that does not end in time is an error."""
        if self._stop_reason is None:
            reason = self._limit_reached()
            if reason is not None:
                self._request_stop(reason)
        elif self.trainers[0].running and time.monotonic() > self._stop_deadline_s:
            limit_s = self.config.launch.stop_deadline_s
            raise RunFailed(
                f"stopping ({self._stop_reason}): the trainer did not end within {limit_s:.0f} s (launch.stop_deadline_s)"
            )

    def _limit_reached(self) -> str | None:
        if self._interrupts:
            return "interrupted"
        limit = self.config.budget.max_gpu_hours
        if limit is not None and self.ledger.gpu_hours()["total"] >= limit:
            return f"max_gpu_hours = {limit} reached"
        patience = self.config.evaluation.early_stop_evaluations
        pass_rates = [row["pass_rate"] for row in self.metrics.rows if row["kind"] == "eval"]
        if patience and len(pass_rates) > patience and max(pass_rates[-patience:]) <= max(pass_rates[:-patience]):
            self._final = True
            return f"no better pass rate in {patience} evaluations"
        return None

    def _request_stop(self, reason: str) -> None:
        self._stop_reason = reason
        self._stop_deadline_s = time.monotonic() + self.config.launch.stop_deadline_s
        write_json(self.paths.stop, {"reason": reason})
        self.progress.note(f"stopping: {reason}; the trainer ends its step and checkpoints")

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self._interrupts += 1
        if self._interrupts > 1:
            raise RunFailed(
                "interrupted twice: stopped without a last checkpoint; the same command continues from the one before"
            )

    def _stop_all(self) -> None:
        for process in self.processes:
            process.signal(signal.SIGTERM)
        for process in self.processes:
            process.stop(GENERATOR_STOP_S)
        for pinned in self.paths.weights.glob(".generator-*"):  # of a generator that was killed
            shutil.rmtree(pinned)
        self._collect()

    def _save(self, state: str, reason: str) -> None:
        self._saved_s = time.monotonic()
        heartbeat(self.paths)
        self.ledger.save()
        pids = {process.name: process.pid for process in self.processes if process.running}
        status = {
            "state": state,
            "reason": reason,
            "final": self._final,
            "attempt": self.attempt,
            "step": self._last_step(),
            "pids": pids,
        }
        write_json(self.paths.status, status | {"updated_s": time.time(), "gpu_hours": self.ledger.gpu_hours()})


def budget_used_up(config: RunConfig, paths: RunPaths) -> bool:
    """Whether the run in the folder has ended by itself, for good or because its budget allows no further step."""
    if not paths.status.exists() or pending_evaluations(paths):
        return False
    status = read_json(paths.status)
    if status["state"] != "finished" or status["final"]:
        return status["state"] == "finished"
    max_steps, max_gpu_hours = config.budget.max_steps, config.budget.max_gpu_hours
    return (max_steps is not None and status["step"] >= max_steps) or (
        max_gpu_hours is not None and status["gpu_hours"]["total"] >= max_gpu_hours
    )


def run(config: RunConfig, paths: RunPaths) -> int:
    """Run or continue the run in the folder `paths`; returns the exit code.

    Raises:
        ValueError: bad input; nothing was started.
    """
    if paths.config.exists():
        check_run_folder(paths, config)
        if budget_used_up(config, paths):
            print(f"{paths.root} has finished ({read_json(paths.status)['reason']}); raise budget.* to go beyond a budget")
            return EXIT_FINISHED
    return Supervisor(config, paths).run()
