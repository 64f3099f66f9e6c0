"""The record of one path's log-probabilities: preflight/<path>.parquet of a run folder, one row a sequence.

The generator's exam makes the sequences; every other path scores the same ones, at the temperature of the
run, and preflight compares the paths token by token.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from scalerl.common.files import read_json, write_atomic, write_json
from scalerl.paths import RunPaths

ExamPath = Literal[
    "generator",
    "generator_reloaded",
    "trainer_alone",
    "trainer_packed",
    "reference",
    "reference_twin",
    "reference_fp32",
]
"""The generator's engine as it started, and after an in-flight reload of the same weights; the trainer's
engine with each sequence in a row of its own, and packed; plain transformers in the dtype of the body, the
same with the trainer's kernels of attention, and in fp32."""
GENERATOR_PATHS: tuple[ExamPath, ExamPath] = ("generator", "generator_reloaded")
"""The paths that make sequences; what another path scores has the log-probabilities of one of these."""

ExamName = Literal["trainer", "generator", "reference"]
"""The processes that examine; scalerl/exams says which paths each of them writes."""

_SCHEMA = pa.schema(
    [
        ("sequence", pa.string()),
        ("token_ids", pa.list_(pa.int32())),
        ("scored_from", pa.int32()),
        ("logprobs", pa.list_(pa.float32())),
    ]
)


@dataclass(frozen=True, kw_only=True)
class ScoredSequence:
    """One sequence of N tokens and what a path says of its tokens from `scored_from` on."""

    sequence: str
    """Name of the sequence, the same in every path."""
    token_ids: Sequence[int]
    """[N] token ids, prompt included."""
    scored_from: int
    """Index of the first token with a log-probability, at least 1: nothing predicts the first token."""
    logprobs: Sequence[float]
    """[N - scored_from] natural logarithms at algo.temperature; NaN where the path has none, as a generator
    has none of a token that was forced."""


def write_exam(paths: RunPaths, path: ExamPath, sequences: Iterable[ScoredSequence]) -> None:
    """Write what one path says, atomically.

    Raises:
        ValueError: a sequence has not one log-probability for each token from `scored_from` on.
    """
    rows = list(sequences)
    for row in rows:
        if row.scored_from < 1 or row.scored_from + len(row.logprobs) != len(row.token_ids):
            raise ValueError(
                f"{path}, sequence {row.sequence}: {len(row.token_ids)} tokens, scored from "
                f"{row.scored_from}, have {len(row.logprobs)} log-probabilities"
            )
    columns = {name: [getattr(row, name) for row in rows] for name in _SCHEMA.names}
    table = pa.table(columns, schema=_SCHEMA)
    paths.preflight.mkdir(exist_ok=True)
    write_atomic(paths.exam(path), lambda temporary: pq.write_table(table, temporary))


def read_exam(paths: RunPaths, path: ExamPath) -> dict[str, ScoredSequence]:
    """Return the sequences that a path has scored, by name.

    Raises:
        FileNotFoundError: the path has not been examined.
    """
    rows = pq.read_table(paths.exam(path), schema=_SCHEMA).to_pylist()
    return {row["sequence"]: ScoredSequence(**row) for row in rows}


def sequences_to_score(paths: RunPaths) -> list[ScoredSequence]:
    """Return the sequences of the generator's exam, which every other path scores, longest last.

    Raises:
        FileNotFoundError: the generator has not been examined.
    """
    made: dict[str, ScoredSequence] = {}
    for path in GENERATOR_PATHS:
        made |= read_exam(paths, path)
    return sorted(made.values(), key=lambda row: len(row.token_ids))


def write_figures(paths: RunPaths, exam: ExamName, figures: dict[str, Any]) -> None:
    """Write what the process of an exam has measured beside the log-probabilities, atomically."""
    paths.preflight.mkdir(exist_ok=True)
    write_json(paths.exam_figures(exam), figures)


def read_figures(paths: RunPaths, exam: ExamName) -> dict[str, Any]:
    """Return what the process of an exam has measured.

    Raises:
        FileNotFoundError: it has not ended.
    """
    return read_json(paths.exam_figures(exam))
