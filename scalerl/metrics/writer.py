"""The one writer of metrics.jsonl: the supervisor.

It stamps every row with the GPU-hours spent up to the row's own time, from a ledger of all processes it started. A row of step n
replaces what an earlier, lost timeline said of the same step (kind="step": and of all later ones), so rows are unique and monotone.
A role or a supervisor that was fenced off may still be in the middle of a write: a row of an earlier attempt than the newest one seen
changes nothing any more.
"""

import json
import os
from typing import Any

from scalerl.files import write_text
from scalerl.metrics.ledger import ROLES, ComputeLedger
from scalerl.metrics.rows import posted_rows, read_rows
from scalerl.paths import RunPaths


class MetricsWriter:
    """The one writer of metrics.jsonl."""

    def __init__(self, paths: RunPaths, ledger: ComputeLedger, attempt: int) -> None:
        self._paths, self._ledger, self._attempt = paths, ledger, attempt
        self.rows = read_rows(paths.metrics)
        self._rewrite()

    def collect(self) -> list[dict[str, Any]]:
        """Move the rows of the inbox to metrics.jsonl, oldest first; returns the new ones."""
        new = []
        for path, row in posted_rows(self._paths).items():
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
        if row["kind"] == "eval" and any(
            old["kind"] == "eval" and old["step"] > row["step"] for old in self.rows
        ):
            return (
                False  # a run that goes back tells nothing new of steps that a lost timeline has gone beyond
            )
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
