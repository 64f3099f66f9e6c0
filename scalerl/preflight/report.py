"""The report of preflight: a verdict with its reasons, as JSON and as a table."""

from dataclasses import dataclass, field
from typing import Any, Literal

from scalerl.common.files import read_json, write_json
from scalerl.common.json_record import JsonRecord
from scalerl.paths import RunPaths

Verdict = Literal["pass", "warn", "refuse"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that speaks against a run."""

    refuses: bool
    """Whether the run is wrong or hopeless; else it is poor."""
    text: str
    """What was found, and what to set."""


@dataclass(frozen=True, kw_only=True)
class Report(JsonRecord):
    """preflight/report.json of a run folder."""

    verdict: Verdict
    """refuse: the run is wrong or hopeless; warn: poor."""
    reasons: list[str]
    """Why, with what to set; first what refuses."""
    form: str
    """full or short."""
    max_logprob_difference: dict[str, float | None] = field(default_factory=dict)
    """Greatest difference of log-probabilities between two paths, nats, by their names; None: not finite."""
    figures: dict[str, Any] = field(default_factory=dict)
    """What was measured, and what follows from it; nested tables of numbers and texts."""

    @classmethod
    def of(cls, findings: list[Finding], **fields: Any) -> "Report":
        """Make a report of what was found."""
        ordered = sorted(findings, key=lambda finding: not finding.refuses)
        refused = any(finding.refuses for finding in findings)
        verdict: Verdict = "refuse" if refused else "warn" if findings else "pass"
        return cls(verdict=verdict, reasons=[finding.text for finding in ordered], **fields)


def write_report(paths: RunPaths, report: Report) -> None:
    """Write the report into the run folder."""
    paths.preflight.mkdir(exist_ok=True)
    write_json(paths.preflight_report, report.to_json())


def read_report(paths: RunPaths) -> Report | None:
    """Read the report of a run folder; None before there is one."""
    file = paths.preflight_report
    return Report.from_json(read_json(file), str(file)) if file.exists() else None
