"""metrics.jsonl and the ledger of compute.

Roles post rows into the inbox; the supervisor is the only writer of metrics.jsonl. It stamps every row with the GPU-hours spent
up to the row's own time, from a ledger of all processes it started. A row of step n replaces what an earlier, lost timeline said
of the same step (kind="step": and of all later ones), so rows are unique and monotone. A role or a supervisor that was fenced off may
still be in the middle of a write: a row of an earlier attempt than the newest one seen changes nothing any more.
"""

import json
import os
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from scalerl.files import read_json, write_json, write_text
from scalerl.paths import RunPaths

Role = Literal["generator", "trainer", "evaluator"]
ROLES: tuple[Role, ...] = ("generator", "trainer", "evaluator")


def post_row(paths: RunPaths, row: dict[str, Any]) -> None:
    """Hand a row to the supervisor. It needs `kind` ("step" or "eval"), `step`, `attempt` and `time_s` (unix)."""
    write_json(paths.inbox / f"{row['kind']}-{row['step']:08d}-{row['attempt']}.json", row)


def _posted_rows(paths: RunPaths) -> dict[Path, dict[str, Any]]:
    """The rows in the inbox, oldest first."""
    posted = {}
    for path in paths.inbox.glob("[!.]*.json"):
        with suppress(FileNotFoundError):  # taken by the supervisor of an earlier attempt that does not know yet that it is over
            posted[path] = read_json(path)
    return dict(sorted(posted.items(), key=lambda item: item[1]["time_s"]))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """All rows of a metrics.jsonl; a torn last line (a writer died) is left out.

    Raises:
        ValueError: another line is not JSON; the message names it.
    """
    if not path.exists():
        return []
    rows = []
    lines = path.read_text().splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise ValueError(f"{path}:{number} is not JSON ({error}); remove that line") from None
    return rows


@dataclass(kw_only=True)
class Interval:
    """Wall time of one process, or of a Slurm job, that holds `devices` devices; end_s is None while it runs. Unix seconds."""

    role: Role | Literal["allocation"]
    devices: int
    start_s: float
    end_s: float | None = None
    job_id: str | None = None
    """The Slurm job it belongs to."""

    def device_s(self, until_s: float) -> float:
        end_s = until_s if self.end_s is None else min(self.end_s, until_s)
        return self.devices * max(0.0, end_s - self.start_s)


class ComputeLedger:
    """Device time of a run over all its attempts: devices x wall time, a CPU process counting as one device.

    A Slurm job costs all its devices from its start to its end, whoever uses them: what no role held is "idle".
    """

    def __init__(self, paths: RunPaths, job_id: str | None = None) -> None:
        """Read the ledger of earlier attempts.

        A process that was never closed ran until its attempt's last sign of life: the last save of the ledger, or a later row. Else
        a row of a supervisor that was killed, or hung while its trainer went on, would have cost more than the rows after it.
        """
        self._path = paths.compute
        self._job_id = job_id
        self._intervals: list[Interval] = []
        if self._path.exists():
            saved = read_json(self._path)
            self._intervals = [Interval(**interval) for interval in saved["intervals"]]
            rows = [*read_rows(paths.metrics), *_posted_rows(paths).values()]
            alive_s = max([saved["saved_s"], *(row["time_s"] for row in rows)])
            for interval in self._intervals:
                if interval.end_s is None:
                    interval.end_s = max(alive_s, interval.start_s)

    def open(self, role: Role | Literal["allocation"], devices: int, start_s: float | None = None) -> Interval:
        """Start the clock of one process, or of this job; close it by setting `end_s`."""
        start_s = time.time() if start_s is None else start_s
        interval = Interval(role=role, devices=devices, start_s=start_s, job_id=self._job_id)
        self._intervals.append(interval)
        self.save()
        return interval

    def save(self) -> None:
        write_json(self._path, {"saved_s": time.time(), "intervals": [asdict(interval) for interval in self._intervals]})

    def num_jobs_since(self, time_s: float) -> int:
        """Slurm jobs, or starts of one, that began after a unix time."""
        return sum(interval.role == "allocation" and interval.start_s > time_s for interval in self._intervals)

    def gpu_hours(self, until_s: float | None = None) -> dict[str, float]:
        """GPU-hours up to a unix time (default: now): one entry a role, "idle", and their sum as "total"."""
        until_s = time.time() if until_s is None else until_s
        hours: dict[str, float] = dict.fromkeys((*ROLES, "allocation"), 0.0)
        in_jobs = 0.0
        for interval in self._intervals:
            interval_hours = interval.device_s(until_s) / 3600
            hours[interval.role] += interval_hours
            if interval.job_id is not None and interval.role != "allocation":
                in_jobs += interval_hours
        idle = max(0.0, hours.pop("allocation") - in_jobs)
        return {**hours, "idle": idle, "total": sum(hours.values()) + idle}


class MetricsWriter:
    """The one writer of metrics.jsonl."""

    def __init__(self, paths: RunPaths, ledger: ComputeLedger, attempt: int) -> None:
        self._paths, self._ledger, self._attempt = paths, ledger, attempt
        self.rows = read_rows(paths.metrics)
        self._rewrite()

    def collect(self) -> list[dict[str, Any]]:
        """Move the rows of the inbox to metrics.jsonl, oldest first; returns the new ones."""
        new = []
        for path, row in _posted_rows(self._paths).items():
            if row["attempt"] > self._attempt:
                continue  # its own supervisor takes it
            if self._add(row):
                new.append(self.rows[-1])
            path.unlink(missing_ok=True)
        return new

    def _add(self, row: dict[str, Any]) -> bool:
        key = ("kind", "step", "time_s")
        if any([old[name] for name in key] == [row[name] for name in key] for old in self.rows[-100:]):
            return False  # appended just before an earlier supervisor died
        if row["attempt"] < max((old["attempt"] for old in self.rows), default=0):
            return False
        if row["kind"] == "eval" and any(old["kind"] == "eval" and old["step"] > row["step"] for old in self.rows):
            return False  # a run that goes back tells nothing new of steps that a lost timeline has gone beyond
        hours = self._ledger.gpu_hours(row["time_s"])
        row |= {"gpu_hours": hours["total"]} | {f"{role}_gpu_hours": hours[role] for role in (*ROLES, "idle")}
        kept = [old for old in self.rows if not _superseded(old, row)]
        if len(kept) < len(self.rows):
            self.rows = kept
            self._rewrite()
        self.rows.append(row)
        self._file.write(json.dumps(row, allow_nan=False) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        return True

    def _rewrite(self) -> None:
        write_text(self._paths.metrics, "".join(json.dumps(row, allow_nan=False) + "\n" for row in self.rows))
        # held open: once another attempt has rewritten the file, what this one still appends goes nowhere
        self._file = self._paths.metrics.open("a")


def _superseded(old: dict[str, Any], new: dict[str, Any]) -> bool:
    if old["kind"] != new["kind"]:
        return False
    return old["step"] >= new["step"] if new["kind"] == "step" else old["step"] == new["step"]
