"""The record every other part works with: one problem of a prepared set."""

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from scalerl.files import write_atomic

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
"""Columns of train.parquet and heldout.parquet: the fields of `Problem`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One prompt with its reference answer."""

    prompt_id: str
    """First 16 hexadecimal digits of the SHA-256 of the normalised prompt."""
    prompt: str
    """Problem text, normalised; a chat template is applied later, by whoever talks to the model."""
    answer: str
    """math: reference answer; where several forms are accepted, one per line. code: unit tests, the JSON of
    unit_tests.py."""
    task: str = "math"
    """Which verifier grades it: "math" or "code"."""
    source: str
    """Name of the file it was read from."""
    difficulty: float | None = None
    """As the source gives it; a fraction such as "3/8" is .375. Scales differ between sources."""


def make_problem(
    prompt: str, answers: Sequence[str], *, source: str, difficulty: float | None = None
) -> Problem:
    """The problem of a raw prompt and its accepted answers: texts normalised, equal answers merged, the id
    computed."""
    prompt = normalise(prompt)
    forms = dict.fromkeys(" ".join(normalise(answer).split()) for answer in answers)
    return Problem(
        prompt_id=compute_prompt_id(prompt),
        prompt=prompt,
        answer="\n".join(forms),
        source=source,
        difficulty=difficulty,
    )


def make_code_problem(prompt: str, tests: str, *, source: str, difficulty: float | None = None) -> Problem:
    """The problem of a raw prompt and its unit tests, as `parse_tests` returns them."""
    prompt = normalise(prompt)
    return Problem(
        prompt_id=compute_prompt_id(prompt),
        prompt=prompt,
        answer=tests,
        task="code",
        source=source,
        difficulty=difficulty,
    )


def normalise(text: str) -> str:
    """Unicode NFC; line ends as "\\n", no blanks at line ends, at most one blank after a word, no empty lines
    at either end.

    The indentation of a line stays: it may be program text.
    """
    text = unicodedata.normalize("NFC", text).replace("\r\n", "\n").replace("\r", "\n")
    text = re.sub(r"(?<=\S)[^\S\n]+", " ", text)
    return "\n".join(line.rstrip() for line in text.split("\n")).strip()


def compute_prompt_id(prompt: str) -> str:
    """The id of a normalised prompt: the same in every file, run and sweep."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:16]


def write_problems(path: Path, problems: Sequence[Problem]) -> None:
    """Write a prepared set as Parquet, atomically; readable with plain pandas."""
    table = pa.Table.from_pylist([asdict(problem) for problem in problems], schema=SCHEMA)
    write_atomic(path, lambda temporary: pq.write_table(table, temporary))


def load_problems(path: Path) -> list[Problem]:
    """Read a prepared set, in the order of the file (by prompt_id, as `scalerl prepare` writes it).

    Raises:
        ValueError: there is no such file, or it is not one that `scalerl prepare` wrote, or it is empty.
    """
    way_out = "make one with `scalerl prepare --input FILE --output DIR`"
    if not path.is_file():
        raise ValueError(f"there is no problem file {path}; {way_out}")
    try:
        table = pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is not a readable Parquet file ({error}); {way_out}") from None
    if not table.schema.equals(SCHEMA):
        raise ValueError(
            f"{path} is not a prepared problem file: its columns are {table.schema.names}, a prepared one has "
            f"{SCHEMA.names}; {way_out}"
        )
    if table.num_rows == 0:
        raise ValueError(
            f"{path} holds no problem; prepare it again with another held-out fraction or more input"
        )
    return [Problem(**row) for row in table.to_pylist()]
