"""What the supervisor writes down of a run: metric rows, the ledger and status.json; and what it shows."""

import time
from collections.abc import Sequence

import numpy as np

from scalerl.alarms import standing_alarms
from scalerl.config import RunConfig
from scalerl.curve.window import MIN_FIT_POINTS, Window
from scalerl.fence import check_attempt, heartbeat
from scalerl.launch.backlog import Backlog
from scalerl.launch.place import Place
from scalerl.launch.processes import RoleProcess
from scalerl.launch.status_line import Display, status_line
from scalerl.metrics.ledger import ComputeLedger
from scalerl.metrics.loggers import open_loggers
from scalerl.metrics.rows import EvalRow, Rows
from scalerl.metrics.writer import MetricsWriter
from scalerl.paths import RunPaths
from scalerl.run_folder import Latest, PredictedCeiling, RunStatus, write_status
from scalerl.spool.best import read_test

SAVE_EVERY_S = 1.0


class Bookkeeping:
    """The records of one attempt at a run; every write looks at the fence first."""

    def __init__(
        self, config: RunConfig, paths: RunPaths, attempt: int, place: Place, display: Display
    ) -> None:
        """Read what earlier attempts have left, and start the clock of the Slurm job."""
        self._config, self._paths, self._attempt, self._place = config, paths, attempt, place
        self._display = display
        self.ledger = ComputeLedger(paths, place.job_id)
        self._metrics = MetricsWriter(paths, self.ledger, attempt)
        self._loggers = open_loggers(paths, config)
        self.backlog = Backlog(paths, display.note, has_test=bool(config.data.test))
        self.allocation = place.open_ledger(config, self.ledger)
        self.alarms = standing_alarms(self.rows)
        """Alarms that stand at the newest step."""
        self.last_error = ""
        self._curve = predicted_ceiling(self.rows)
        self._reserved_gpu_hours = 0.0
        self._saved_s = 0.0

    @property
    def rows(self) -> Rows:
        """Return all rows of the run so far."""
        return self._metrics.rows

    @property
    def step(self) -> int:
        """Return the newest optimizer step."""
        return max((row.step for row in self.rows.steps), default=0)

    def budgeted_gpu_hours(self) -> float:
        """Return the GPU-hours spent so far, and those that evaluations still due will cost a Slurm job."""
        return self.ledger.gpu_hours().total + self._reserved_gpu_hours

    def collect(self) -> None:
        """Take the rows that the roles have posted, and tell of evaluations and new alarms.

        Raises:
            StaleAttempt: a newer attempt owns the folder.
        """
        check_attempt(self._paths, self._attempt)
        new = self._metrics.collect()
        for row in new:
            for logger in self._loggers:
                logger.log(row)
            if isinstance(row, EvalRow):
                self.backlog.evaluated(row)
                self._curve = predicted_ceiling(self.rows)
                self._display.note(
                    f"held-out pass rate {row.pass_rate:.4f} at step {row.step}, "
                    f"{row.gpu_hours:.4g} GPU-hours"
                )
        if new:
            # after an evaluation, too: the last one, which comes after the last step, may end an alarm
            self._renew_alarms()

    def _renew_alarms(self) -> None:
        before = {alarm.kind for alarm in self.alarms}
        self.alarms = standing_alarms(self.rows)
        for alarm in self.alarms:
            if alarm.kind not in before:
                self._display.note(f"alarm: {alarm}; {alarm.advice}")

    def show(self) -> None:
        """Show the status line if one is due."""
        if self._display.due(self.step):
            self._display.show(self.status_line(), self.step)

    def status_line(self) -> str:
        """Return one line on where the run is."""
        return status_line(
            self._config, self.rows, self.ledger.gpu_hours(), self.alarms, read_test(self._paths)
        )

    def save_if_due(self, processes: Sequence[RoleProcess]) -> None:
        """Save every SAVE_EVERY_S while the run goes on."""
        if time.monotonic() - self._saved_s > SAVE_EVERY_S:
            if self.allocation is not None:
                self._reserved_gpu_hours = self.backlog.gpu_hours(self.rows, self.allocation.devices)
            self.save("running", "", processes)

    def save(self, state: str, reason: str, processes: Sequence[RoleProcess], *, final: bool = False) -> None:
        """Write heartbeat, ledger and status.

        Args:
            state, reason, final: as in RunStatus.
            processes: all processes of the run, whether they run or not.

        Raises:
            StaleAttempt: a newer attempt owns the folder.
        """
        self._saved_s = time.monotonic()
        check_attempt(self._paths, self._attempt)
        heartbeat(self._paths)
        self.ledger.save()
        status = RunStatus(
            state=state,
            reason=reason,
            final=final,
            attempt=self._attempt,
            job_id=self._place.job_id,
            step=self.step,
            pids={process.name: pid for process in processes if (pid := process.pid) is not None},
            latest=latest(self.rows),
            curve=self._curve,
            last_error=self.last_error,
            alarms=self.alarms,
            limits=self._config.budget.model_dump(),
            updated_s=time.time(),
            gpu_hours=self.ledger.gpu_hours(),
        )
        # the fsync of the ledger may have hung for minutes, and a newer attempt may have begun meanwhile
        check_attempt(self._paths, self._attempt)
        write_status(self._paths, status)

    def close(self) -> None:
        """Take the last rows, close the loggers and stop the clock of the Slurm job.

        Raises:
            StaleAttempt: a newer attempt owns the folder.
        """
        self.collect()
        for logger in self._loggers:
            logger.close()
        if self.allocation is not None:
            self.allocation.end_s = time.time()


def latest(rows: Rows) -> Latest:
    """Return the numbers of the newest evaluation and step."""
    evaluations, steps = rows.evaluations, rows.steps
    return Latest(
        pass_rate=evaluations[-1].pass_rate if evaluations else None,
        off_policyness_mean=steps[-1].off_policyness_mean if steps else None,
        dropped_share=steps[-1].dropped_share if steps else None,
    )


def predicted_ceiling(rows: Rows) -> PredictedCeiling | None:
    """Fit the evaluations so far over GPU-hours with the default estimator; None while they make no curve."""
    evaluations = sorted(rows.evaluations, key=lambda row: row.step)
    after = evaluations[1:]
    if len(after) < MIN_FIT_POINTS:
        return None
    from scalerl.curve.fit import fit_curve  # SciPy takes a second to import

    try:
        window = Window(
            compute=np.array([row.gpu_hours for row in after], dtype=float),
            pass_rate=np.array([row.pass_rate for row in after]),
            r0=evaluations[0].pass_rate,
            num_samples=np.array([(row.num_prompts or 0) * (row.samples_per_prompt or 0) for row in after]),
        )
    except ValueError:
        return None
    fit = fit_curve(window)
    low, high = np.quantile(fit.parameters.a, [0.05, 0.95])
    return PredictedCeiling(
        a=float(fit.curve.a),
        lo90=float(low),
        hi90=float(high),
        identified=fit.identification.identified,
        reason=fit.identification.reason,
    )
