"""`scalerl verify --input FILE --output FILE`: grades rows of response and answer, of any task."""

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from scalerl.common.files import write_atomic, write_text
from scalerl.tasks.registry import find_task
from scalerl.tasks.task import Verdict
from scalerl.verify.pool import VerifierPool

FORMATS = (".jsonl", ".parquet")


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """The result of grading one file."""

    rows: int
    correct: int
    """Number of rows graded correct."""
    reasons: dict[str, int]
    """Number of rows by the reason of their verdict (see `Verdict`)."""
    wall_s: float
    """The time it took to grade all rows, without starting the processes, reading and writing."""

    @property
    def accuracy(self) -> float:
        """Return the share of rows graded correct."""
        return self.correct / self.rows

    @property
    def answers_per_s(self) -> float:
        """Return the throughput of the grading."""
        return self.rows / self.wall_s

    def __str__(self) -> str:
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(self.reasons.items()))
        return (
            f"accuracy {self.accuracy:.4f} on {self.rows} answers ({reasons}); "
            f"{self.answers_per_s:.0f} answers/s, {self.wall_s:.1f} s"
        )


def verify_file(
    source: Path, output: Path, think_end: str = "", num_workers: int = 1, timeout_s: float = 0.5
) -> VerifyReport:
    """Write the rows of `source`, in order, to `output`, with the columns correct and reason in addition.

    A row holds "response" (text) and "answer"; without a "task" it is math, whose answer is a text, a number
    or a list of accepted forms. The answer of any other task is that of a prepared set; programs run within
    the default limits of the sandbox. Columns beyond these stay, older ones called correct and reason are
    replaced.

    Raises:
        ValueError: not both .jsonl or both .parquet, an unreadable or empty file, a bad row, or a task that
            this machine cannot grade; the message names file and row, and nothing has been written.
    """
    if source.suffix != output.suffix or source.suffix not in FORMATS:
        raise ValueError(
            f"cannot grade {source} into {output}: both names must end in .jsonl, or both in .parquet"
        )
    if not source.is_file():
        raise ValueError(f"there is no input file {source}")
    rows = _read_rows(source)
    if not rows:
        raise ValueError(f"{source} holds no row; a row is {{response, answer}}")
    parsed = [_parse_row(location, row) for location, row in rows]
    tasks = {task for *_, task in parsed}
    with VerifierPool(tasks=tasks, num_workers=num_workers, timeout_s=timeout_s, think_end=think_end) as pool:
        begin_s = time.monotonic()
        futures = [pool.submit(*row) for row in parsed]
        verdicts = [future.result() for future in futures]
        wall_s = time.monotonic() - begin_s
    if source.suffix == ".parquet":
        _write_graded_table(source, output, verdicts)
    else:
        _write_graded_lines(output, [row for _, row in rows], verdicts)
    reasons: Counter[str] = Counter(verdict.reason for verdict in verdicts)
    correct = sum(verdict.correct for verdict in verdicts)
    return VerifyReport(rows=len(rows), correct=correct, reasons=dict(reasons), wall_s=wall_s)


def _read_rows(source: Path) -> list[tuple[str, Any]]:
    """Read the rows with their locations, "FILE:LINE" or, in Parquet, the number of the row."""
    rows: list[tuple[str, Any]] = []
    if source.suffix == ".parquet":
        try:
            records = pq.read_table(source).to_pylist()
        except pa.ArrowInvalid as error:
            raise ValueError(f"{source} is not a readable Parquet file ({error})") from None
        return [(f"{source}:{number}", record) for number, record in enumerate(records, start=1)]
    with source.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                rows += [(f"{source}:{number}", json.loads(line))] if line.strip() else []
            except ValueError as error:
                raise ValueError(f"{source}:{number} is not valid JSON ({error})") from None
    return rows


def _parse_row(location: str, row: Any) -> tuple[str, str, str]:
    """Return response, reference and task of a row: what VerifierPool.submit takes."""
    try:
        task = find_task((row.get("task") or "math") if isinstance(row, dict) else "math")
    except ValueError as error:
        raise ValueError(f"{location}: {error}") from None
    try:
        if not isinstance(row, dict) or not isinstance(row.get("response"), str):
            raise ValueError("no response")
        return row["response"], task.parse_reference(row.get("answer")), task.name
    except ValueError:
        shape = f"{{response: text, answer: {task.reference_shape}}}"
        raise ValueError(
            f"{location}: a row of the task {task.name} is {shape}, this one is {row!r:.200}"
        ) from None


def _write_graded_table(source: Path, output: Path, verdicts: Sequence[Verdict]) -> None:
    # The metadata are pandas's own note of the types of columns, among them those that are replaced.
    table = pq.read_table(source).replace_schema_metadata(None)
    table = table.drop_columns([name for name in ("correct", "reason") if name in table.column_names])
    table = table.append_column("correct", pa.array([verdict.correct for verdict in verdicts]))
    table = table.append_column("reason", pa.array([verdict.reason for verdict in verdicts]))
    write_atomic(output, lambda temporary: pq.write_table(table, temporary))


def _write_graded_lines(output: Path, rows: Sequence[dict[str, Any]], verdicts: Sequence[Verdict]) -> None:
    graded = [
        row | {"correct": verdict.correct, "reason": verdict.reason}
        for row, verdict in zip(rows, verdicts, strict=True)
    ]
    write_text(output, "".join(json.dumps(row) + "\n" for row in graded))
