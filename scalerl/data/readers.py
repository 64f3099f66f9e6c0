"""Reads problem files in the shapes people have.

A bad row is an item that names its file and line, not an exception.

| shape    | row                                                                        |
|----------|----------------------------------------------------------------------------|
| Polaris  | problem, answer, optionally difficulty (a number or a fraction "3/8")      |
| GSM8K    | question, answer ending in "#### 72"                                       |
| verl     | prompt (chat messages), reward_model.ground_truth (string, number, array)  |
| code     | problem, question or prompt, tests, optionally starter_code and difficulty |

A row with tests is a code problem; unit_tests.py says what they look like. So is a verl row whose ability is
"code", its ground truth being the tests, and a row as LiveCodeBench publishes it (livecodebench.py). The
files are a JSON list of objects (.json), one object a line (.jsonl) or Parquet (.parquet). Other columns are
ignored.
"""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from scalerl.data.bad_row import BadRow, short
from scalerl.data.livecodebench import unpack_record
from scalerl.data.problem import Problem, make_problem, make_task_problem
from scalerl.data.unit_tests import parse_tests
from scalerl.tasks.code import Code

SHAPES = (
    '{problem, answer[, difficulty]}, {question, answer ending in "#### 72"}, '
    "{prompt: chat messages, reward_model: {ground_truth}}, {problem, tests[, starter_code]} or "
    "LiveCodeBench's own columns"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One row of an input file, in its order."""

    location: str
    """Its place, "FILE:LINE" counted from 1; for JSON and Parquet the number of the row."""
    problem: Problem | BadRow


def read_problem_file(path: Path) -> Iterator[Row]:
    """Yield every row of a .json, .jsonl or .parquet file.

    Raises:
        ValueError: the file cannot be read as what its name says, or its name says nothing.
    """
    readers: dict[str, Callable[[Path], Iterator[Any]]] = {
        ".json": _read_json,
        ".jsonl": _read_json_lines,
        ".parquet": _read_parquet,
    }
    if path.suffix not in readers:
        raise ValueError(
            f"{path}: cannot tell the format of {path.suffix!r}; name the file {', '.join(readers)}"
        )
    if not path.is_file():
        raise ValueError(f"{path}: there is no such input file")
    for number, record in enumerate(readers[path.suffix](path), start=1):
        if record is not _BLANK_LINE:
            yield Row(location=f"{path}:{number}", problem=_problem_or_bad_row(record, source=path.name))


_BLANK_LINE = object()


def _read_json(path: Path) -> Iterator[Any]:
    try:
        rows = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); one object a line is .jsonl") from None
    if not isinstance(rows, list):
        raise ValueError(f"{path} holds a JSON {type(rows).__name__}, where a list of objects is wanted")
    yield from rows


def _read_json_lines(path: Path) -> Iterator[Any]:
    with path.open("rb") as lines:
        for line in lines:
            if not line.strip():
                yield _BLANK_LINE
                continue
            try:
                yield json.loads(line)
            except ValueError as error:
                yield BadRow("malformed", f"not valid JSON ({error})")


def _read_parquet(path: Path) -> Iterator[Any]:
    try:
        file = pq.ParquetFile(path)
        for batch in file.iter_batches():
            yield from batch.to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(
            f"{path} is not a readable Parquet file ({error}); download or write it again"
        ) from None


def _problem_or_bad_row(record: Any, *, source: str) -> Problem | BadRow:
    try:
        return parse_record(record, source=source)
    except BadRow as bad_row:
        return bad_row


def parse_record(record: Any, *, source: str) -> Problem:
    """Return the problem of one row in any of the shapes.

    Raises:
        BadRow: what is wrong with it, and what is valid.
    """
    if isinstance(record, BadRow):
        raise record
    if not isinstance(record, dict):
        raise BadRow("malformed", f"a JSON {type(record).__name__} where an object is wanted")
    # Code first: its rows may have an answer, too, such as a reference solution.
    if "public_test_cases" in record:
        record = unpack_record(record)
    elif record.get("ability") == Code.name and isinstance(record.get("reward_model"), dict):
        record = record | {"tests": record["reward_model"].get("ground_truth")}
    if record.get("tests") is not None:
        return _parse_code(record, source=source)
    if "problem" in record and "answer" in record:
        prompt, answers = record["problem"], parse_answers(record["answer"])
    elif "question" in record and "answer" in record:
        prompt, answers = record["question"], [_final_answer_of_gsm8k(record["answer"])]
    elif "prompt" in record and isinstance(record.get("reward_model"), dict):
        prompt, answers = (
            _parse_messages(record["prompt"]),
            parse_answers(record["reward_model"].get("ground_truth")),
        )
    else:
        raise BadRow("unknown_shape", f"has the keys {sorted(map(str, record))}; a row is {SHAPES}")
    _check_texts(prompt, *answers)
    return make_problem(prompt, answers, source=source, difficulty=parse_difficulty(record.get("difficulty")))


def _parse_code(record: dict[str, Any], *, source: str) -> Problem:
    """Return the problem of a row with unit tests; starter code follows the prompt, as a Python block."""
    prompt = next((record[name] for name in ("problem", "question", "prompt") if record.get(name)), "")
    prompt = _parse_messages(prompt) if isinstance(prompt, list) else prompt
    starter = record.get("starter_code") or ""
    if not isinstance(starter, str):
        raise BadRow("malformed", f"its starter_code is {short(starter)}, where a text is wanted")
    _check_texts(prompt, starter)
    prompt = f"{prompt.rstrip()}\n\n```python\n{starter.rstrip()}\n```" if starter.strip() else prompt
    difficulty = parse_difficulty(record.get("difficulty"))
    tests = parse_tests(record["tests"])
    return make_task_problem(prompt, tests, task=Code.name, source=source, difficulty=difficulty)


def _check_texts(prompt: Any, *others: str) -> None:
    if not isinstance(prompt, str) or not prompt.strip():
        raise BadRow("no_prompt", f"its prompt is {short(prompt)}, where a text is wanted")
    # JSON can write these ("\\ud800"); neither Parquet nor a tokenizer takes them.
    if any("\ud800" <= character <= "\udfff" for text in (prompt, *others) for character in text):
        raise BadRow("malformed", "its text holds half a surrogate pair, where valid Unicode is wanted")


def parse_answers(value: Any) -> list[str]:
    """Return the accepted forms of an answer: of an array each element, of a whole float its integer.

    Raises:
        BadRow: there is none, or it is neither text nor a finite number.
    """
    values = value if isinstance(value, list) else [value]
    answers = [_answer_text(item) for item in values]
    if not answers:
        raise BadRow("no_answer", "its answer is an empty array, where at least one text or number is wanted")
    return answers


def _answer_text(value: Any) -> str:
    if isinstance(value, str) and value.strip():
        return value
    # To Python, True is the integer 1: as an answer it is a mistake of whoever wrote the file.
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, float) and math.isfinite(value):
        # Parquet turns integers into floats where another row lacks its answer: 27.0 was 27.
        return str(int(value)) if value.is_integer() else repr(value)
    raise BadRow("no_answer", f"its answer is {short(value)}, where a text or a finite number is wanted")


def _final_answer_of_gsm8k(text: Any) -> str:
    """Return what follows the last "####", thousands commas removed."""
    final = (
        text.rpartition("####")[2].replace(",", "").strip()
        if isinstance(text, str) and "####" in text
        else ""
    )
    if not final:
        raise BadRow("no_answer", f'its answer is {short(text)}, which does not end in "#### 72"')
    return final


def _parse_messages(messages: Any) -> str:
    """Return the text of a chat of one user message, after a system message where there is one."""
    wanted = "a list of one user message {role, content}, optionally after a system message"
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise BadRow("no_prompt", f"its prompt is {short(messages)}, where {wanted} is wanted")
    roles = [message.get("role") for message in messages]
    contents = [message.get("content") for message in messages]
    if roles not in (["user"], ["system", "user"]) or not all(
        isinstance(content, str) for content in contents
    ):
        raise BadRow("no_prompt", f"its prompt has messages of the roles {roles}, where {wanted} is wanted")
    return "\n\n".join(contents)


def parse_difficulty(value: Any) -> float | None:
    """Return a number as it is, a fraction such as "3/8" as .375; None where the row has none.

    Raises:
        BadRow: neither of these.
    """
    if value is None:
        return None
    try:
        numerator, _, denominator = str(value).partition("/")
        difficulty = float(numerator) / float(denominator or 1)
    except (ValueError, ZeroDivisionError):
        difficulty = math.nan
    if not math.isfinite(difficulty):
        raise BadRow("bad_difficulty", f'its difficulty is {short(value)}, where a number or "3/8" is wanted')
    return difficulty
