"""Rows of problem files, as published and made up."""

import json
from pathlib import Path

SAMPLES = Path(__file__).parent / "problems"


def write_lines(path: Path, rows: list) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def math_rows(count: int) -> list[dict]:
    return [{"problem": f"What is {number} + 1?", "answer": str(number + 1)} for number in range(count)]
