"""The record every other part works with: one problem of a prepared set."""

import hashlib
import unicodedata
from dataclasses import asdict, dataclass, fields
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    prompt_id: str
    """First 16 hexadecimal digits of the SHA-256 of the normalised prompt."""
    prompt: str
    """Problem text, normalised; a chat template is applied later, by whoever talks to the model."""
    answer: str
    """Reference answer; where several forms are accepted, one per line."""
    task: str = "math"
    """Which verifier grades it."""
    source: str
    """Name of the file it was read from."""
    difficulty: float | None = None
    """As the source gives it; a fraction such as "3/8" becomes .375. Scales differ between sources."""

    @classmethod
    def of(cls, *, prompt: str, answer: str, source: str, difficulty: float | None = None) -> "Problem":
        """The problem of a raw prompt and answer: both normalised, the id computed."""
        prompt = normalise_prompt(prompt)
        answer = "\n".join(normalise_line(line) for line in answer.splitlines() if line.strip())
        return cls(prompt_id=prompt_id(prompt), prompt=prompt, answer=answer, source=source, difficulty=difficulty)


def normalise_line(text: str) -> str:
    """NFC, with every run of white space made one blank, and none at the ends."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def normalise_prompt(text: str) -> str:
    """NFC, lines kept: blanks within a line are collapsed, empty lines at the ends and beyond one in a row are dropped."""
    lines: list[str] = []
    for line in map(normalise_line, text.splitlines()):
        if line or (lines and lines[-1]):
            lines.append(line)
    return "\n".join(lines).rstrip("\n")


def prompt_id(prompt: str) -> str:
    """The id of a normalised prompt: a problem keeps it in every file, run and sweep."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:16]


def write_problems(path: Path, problems: list[Problem]) -> None:
    """Write a prepared set as Parquet, atomically; readable with plain pandas."""
    table = pa.Table.from_pylist([asdict(problem) for problem in problems], schema=SCHEMA)
    write_atomic(path, lambda temporary: pq.write_table(table, temporary))


def load_problems(path: Path) -> list[Problem]:
    """Read a prepared set.

    Raises:
        ValueError: there is no such file, or it is not one that `scalerl prepare` wrote, or it is empty.
    """
    way_out = "make it with `scalerl prepare --input FILE --output DIR`"
    if not path.is_file():
        raise ValueError(f"there is no problem file {path}; {way_out}")
    try:
        table = pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is not a readable Parquet file ({error}); {way_out}") from None
    missing = [field.name for field in fields(Problem) if field.name not in table.column_names]
    if missing:
        raise ValueError(f"{path} lacks the columns {missing}, it has {table.column_names}; {way_out}")
    if table.num_rows == 0:
        raise ValueError(f"{path} holds no problem; {way_out}")
    return [Problem(**row) for row in table.select(SCHEMA.names).to_pylist()]
