"""Preflight in a run: the processes that examine the engines, on the devices of the roles they examine."""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from scalerl.config import RunConfig
from scalerl.launch.processes import Layout, RoleProcess
from scalerl.launch.stopping import RunFailed, Stopping
from scalerl.paths import RunPaths
from scalerl.preflight.certificate import Certificate, certificate_key, find_certificate, write_certificate
from scalerl.preflight.exam import ExamName
from scalerl.preflight.judge import judge, summary_line
from scalerl.preflight.report import Finding, Report, write_report

WAY_OUT = "launch.preflight=off trains all the same"
MAX_ERROR_CHARACTERS = 600


def preflight_is_due(config: RunConfig, paths: RunPaths, note: Callable[[str], None]) -> bool:
    """Say whether the engines are to be examined; `note` shows the user why not."""
    if config.launch.preflight == "off":
        return False
    found = find_certificate(paths, config)
    if found is not None:
        folder, certificate = found
        note(f"preflight: passed already ({certificate.form}, in {folder})")
        if folder != paths.root:
            write_certificate(paths, certificate)
    return found is None


@dataclass(frozen=True)
class Stage:
    """Exams that run side by side."""

    processes: list[RoleProcess]

    def ended(self, config: RunConfig, paths: RunPaths, stopping: Stopping, end_s: float) -> bool:
        """Say whether every exam has ended well, or the run is to stop.

        end_s: deadline, on the monotonic clock.

        Raises:
            RunFailed: one of them failed, or did not end in time.
            JobEnds: the job is gone.
        """
        if stopping.reason is not None:
            return True
        for process in self.processes:
            code = process.poll()
            if code is not None and (code != 0 or self._unfinished(paths, process)):
                stopping.check_job()
                if stopping.requeue:
                    return True
                error = process.last_error()[:MAX_ERROR_CHARACTERS]
                raise _refusal(config, paths, f"{process.name} failed: {error}; log: {process.log}")
        running = [process for process in self.processes if process.running]
        if running and time.monotonic() > end_s:
            late = ", ".join(f"{process.name} (log: {process.log})" for process in running)
            limit_s = config.launch.preflight_deadline_s
            raise _refusal(config, paths, f"{late} took over {limit_s:.0f} s (launch.preflight_deadline_s)")
        return not running

    def _unfinished(self, paths: RunPaths, process: RoleProcess) -> bool:
        """Say whether a process that ended with code 0 left no figures: srun may return 0 for a lost step."""
        return not paths.exam_figures(process.arguments[-1]).exists()


def _refusal(config: RunConfig, paths: RunPaths, reason: str) -> RunFailed:
    """Write the report of a preflight that came to no end; return the error to raise."""
    report = Report.of([Finding(refuses=True, text=reason)], form=config.launch.preflight)
    write_report(paths, report)
    return RunFailed(f"preflight: {reason}")


def exam_stages(layout: Layout) -> list[Stage]:
    """Return the exams in the order in which they are held.

    Trainer and generator hand each other the base model and sequences (scalerl/exams), so they run at once;
    the reference comes after them, in the generator's place.
    """
    first, *_ = layout.generators
    trainers = [_examine(process, "trainer") for process in layout.trainers]
    return [Stage([*trainers, _examine(first, "generator")]), Stage([_examine(first, "reference")])]


def _examine(process: RoleProcess, exam: ExamName) -> RoleProcess:
    """Return the process of an exam where a role will be; the ledger counts its time as that role's."""
    name = process.name if process.role == exam else exam
    return replace(
        process,
        name=f"{name}-exam",
        arguments=[*process.arguments, "--exam", exam],
        environment=dict(process.environment),
    )


def conclude(config: RunConfig, paths: RunPaths, on_cpu: bool, note: Callable[[str], None]) -> None:
    """Judge the exams, show the report, and write the certificate.

    Raises:
        RunFailed: the run is wrong or hopeless.
    """
    shutil.rmtree(paths.examined_policy, ignore_errors=True)
    report = judge(config, paths, on_cpu)
    note(summary_line(report, paths))
    if report.verdict == "refuse":
        raise RunFailed(f"preflight refuses the run: {report.reasons[0]} ({WAY_OUT})")
    certificate = Certificate(
        key=certificate_key(config), form=report.form, verdict=report.verdict, reasons=report.reasons
    )
    write_certificate(paths, certificate)
