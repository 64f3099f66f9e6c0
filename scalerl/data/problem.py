"""The record every other part works with: one problem of a prepared set."""

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from scalerl.common.files import write_atomic
from scalerl.tasks.registry import TASKS, find_task

SCHEMA = pa.schema(
    [
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("answer", pa.string(), nullable=False),
        pa.field("task", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("difficulty", pa.float64()),
    ]
)
"""The columns of a prepared set: the fields of `Problem`."""

PANDAS_INDEX = "__index_level_0__"
"""What pandas calls the column of the rows' numbers, where it writes them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One prompt with its reference answer."""

    prompt_id: str
    """The first 16 hexadecimal digits of the SHA-256 of the prompt."""
    prompt: str
    """The text of the problem, normalised if read from a file; instruction and chat template follow."""
    answer: str
    """The reference a response is graded against, in the form its task wants: scalerl/tasks says which."""
    task: str = "math"
    """Name of the task it belongs to, a key of `TASKS`."""
    source: str
    """Name of the file it was read from, or of the generator that made it."""
    difficulty: float | None = None
    """Difficulty as the source gives it; a fraction such as "3/8" is .375. Scales differ between sources."""


def make_problem(
    prompt: str, answers: Sequence[str], *, source: str, difficulty: float | None = None
) -> Problem:
    """Return the math problem of a raw prompt and its accepted answers.

    Their texts are normalised, and equal answers merged.
    """
    reference = TASKS["math"].parse_reference([normalise(answer) for answer in answers])
    return make_task_problem(prompt, reference, task="math", source=source, difficulty=difficulty)


def make_task_problem(
    prompt: str, reference: str, *, task: str, source: str, difficulty: float | None = None
) -> Problem:
    """Return the problem of a raw prompt, which is normalised, and a reference as its task wants it."""
    prompt = normalise(prompt)
    return Problem(
        prompt_id=compute_prompt_id(prompt),
        prompt=prompt,
        answer=reference,
        task=task,
        source=source,
        difficulty=difficulty,
    )


def normalise(text: str) -> str:
    """Return a text in Unicode NFC with "\n" as line end, without needless blanks and empty lines.

    No blanks stay at line ends, at most one after a word, no empty lines at either end. The indentation of a
    line stays: it may be program text.
    """
    # NFC first: an accent typed as a character of its own must not make another prompt.
    text = unicodedata.normalize("NFC", text).replace("\r\n", "\n").replace("\r", "\n")
    text = re.sub(r"(?<=\S)[^\S\n]+", " ", text)
    return "\n".join(line.rstrip() for line in text.split("\n")).strip()


def compute_prompt_id(prompt: str) -> str:
    """Return the id of a prompt: the same in every file, run and sweep."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:16]


def write_problems(path: Path, problems: Sequence[Problem]) -> None:
    """Write a prepared set as Parquet, atomically; readable with plain pandas."""
    table = pa.Table.from_pylist([asdict(problem) for problem in problems], schema=SCHEMA)
    write_atomic(path, lambda temporary: pq.write_table(table, temporary))


def is_prepared(path: Path) -> bool:
    """Say whether a Parquet file has the columns of a prepared set; False for one that cannot be read."""
    try:
        return set(SCHEMA.names) <= set(pq.read_schema(path).names)
    except (pa.ArrowInvalid, OSError):
        return False


def load_problems(path: Path) -> list[Problem]:
    """Read a prepared set, in the order of the file (by prompt_id, as `scalerl prepare` writes it).

    Raises:
        ValueError: there is no such file, or it is not one that `scalerl prepare` wrote (though it may have
            been cut or sorted with pandas since), or it is empty.
    """
    way_out = "make one with `scalerl prepare --input FILE --output DIR`"
    if not path.is_file():
        raise ValueError(f"there is no problem file {path}; {way_out}")
    try:
        table = pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is not a readable Parquet file ({error}); {way_out}") from None
    try:
        table = _with_schema(table)
        # Here, where the file can be named: later, an unknown task would end some process of the run.
        for task in table["task"].unique().to_pylist():
            find_task(task)
    except ValueError as error:
        raise ValueError(f"{path} is not a prepared problem file: {error}; {way_out}") from None
    if table.num_rows == 0:
        raise ValueError(
            f"{path} holds no problem; prepare it again with another held-out fraction or more input"
        )
    return [Problem(**row) for row in table.to_pylist()]


def _with_schema(table: pa.Table) -> pa.Table:
    """Return a table with the columns of SCHEMA in the types of SCHEMA.

    pandas writes texts as large_string or dictionary, all difficulties missing as null, and the rows' old
    numbers as a column of their own.

    Raises:
        ValueError: another column, one of another type, or a missing value; the message says which.
    """
    if PANDAS_INDEX in table.column_names:
        table = table.drop_columns([PANDAS_INDEX])
    if sorted(table.column_names) != sorted(SCHEMA.names):
        raise ValueError(f"its columns are {table.column_names}, a prepared one has {SCHEMA.names}")
    return pa.table([_as_field(table[field.name], field) for field in SCHEMA], schema=SCHEMA)


def _as_field(column: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
    # A dictionary stores every text once: what it is a dictionary of decides. A column without any value has
    # the type null, whatever it was before.
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_string(field.type):
        same = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    else:
        same = pa.types.is_floating(kind) or pa.types.is_integer(kind)
    if not same and not pa.types.is_null(kind):
        raise ValueError(f"its column {field.name} is of type {column.type}, a prepared one of {field.type}")
    if column.null_count and not field.nullable:
        raise ValueError(f"its column {field.name} misses {column.null_count} of {len(column)} values")
    return column.cast(field.type)
