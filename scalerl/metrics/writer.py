"""The one writer of metrics.jsonl: the supervisor.

It stamps every row with the GPU-hours spent up to the row's own time, from a ledger of all processes it
started. A trainer that died goes on from its last checkpoint and measures the same steps once more: a row of
step n replaces what the lost timeline said of step n, and a StepRow of all later ones, so that rows are
unique and monotone. A role or a supervisor that was fenced off may still be in the middle of a write: a row
of an earlier attempt than the newest one seen changes nothing any more.
"""

import os

from scalerl.common.files import write_text
from scalerl.metrics.ledger import ComputeLedger
from scalerl.metrics.rows import (
    EvalRow,
    Row,
    Rows,
    StepRow,
    format_rows,
    posted_rows,
    read_rows,
    stamp,
)
from scalerl.paths import RunPaths

RECENT_ROWS = 100
"""Newest rows among which a row may be that is still in the inbox."""


class MetricsWriter:
    """The rows of one run and the open file they are appended to."""

    def __init__(self, paths: RunPaths, ledger: ComputeLedger, attempt: int) -> None:
        """Read the rows of earlier attempts and take the file over.

        Raises:
            ValueError: a line of metrics.jsonl is no row.
        """
        self._paths, self._ledger, self._attempt = paths, ledger, attempt
        self.rows = read_rows(paths.metrics)
        # also drops a torn last line, which a next row would be appended to
        self._rewrite()

    def collect(self) -> Rows:
        """Move the rows of the inbox to metrics.jsonl, oldest first; return the new ones."""
        new = Rows()
        for path, row in posted_rows(self._paths).items():
            if row.attempt > self._attempt:
                continue  # this process is fenced off: the newer attempt's supervisor takes it
            if self._is_news(row):
                new.append(self._add(row))
            # only now: a crash before this line leaves a row that `_is_news` knows again
            path.unlink(missing_ok=True)
        return new

    def _is_news(self, row: Row) -> bool:
        key = (row.kind, row.step, row.time_s)
        if any((old.kind, old.step, old.time_s) == key for old in self.rows[-RECENT_ROWS:]):
            return False  # appended just before an earlier supervisor died
        if row.attempt < max((old.attempt for old in self.rows), default=0):
            return False  # a fenced-off role went on writing
        # a run that goes back tells nothing new of steps that a lost timeline has gone beyond: their
        # evaluations are of other weights, and the run already has later ones
        beyond = isinstance(row, EvalRow) and any(old.step > row.step for old in self.rows.evaluations)
        return not beyond

    def _add(self, row: Row) -> Row:
        row = stamp(row, self._ledger.gpu_hours(row.time_s))
        kept = Rows(old for old in self.rows if not _superseded(old, row))
        if len(kept) < len(self.rows):
            self.rows = kept
            self._rewrite()
        self.rows.append(row)
        self._file.write(format_rows([row]))
        self._file.flush()
        os.fsync(self._file.fileno())
        return row

    def _rewrite(self) -> None:
        write_text(self._paths.metrics, format_rows(self.rows))
        # held open: once another attempt has replaced the file, what this one still appends goes to the old
        # one, which has no name any more
        self._file = self._paths.metrics.open("a")


def _superseded(old: Row, new: Row) -> bool:
    """Say whether a new row replaces an old one: a step also later steps, which a replay measures again."""
    if type(old) is not type(new):
        return False
    return old.step >= new.step if isinstance(new, StepRow) else old.step == new.step
