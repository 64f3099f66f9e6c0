"""Rows of code problems as others publish them."""

import base64
import json
import os
import pickle
import re
import zlib
from pathlib import Path

import pytest

from scalerl.data.readers import BadRow, read_problem_file


def write_row(folder: Path, *rows: dict) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_verl_row_of_ability_code_has_its_tests_as_ground_truth(tmp_path):
    truth = json.dumps({"inputs": ["1 2"], "outputs": ["3"]})
    row = {
        "prompt": [{"role": "user", "content": "Add."}],
        "ability": "code",
        "reward_model": {"ground_truth": truth},
    }
    math_row = row | {"ability": "math", "reward_model": {"ground_truth": "3"}}
    code, math = read_problem_file(write_row(tmp_path, row, math_row))
    assert (code.problem.task, code.problem.prompt, json.loads(code.problem.answer)) == (
        "code",
        "Add.",
        [{"input": "1 2", "output": "3"}],
    )
    assert (math.problem.task, math.problem.answer) == ("math", "3")


def live_code_bench_row(private: str, func_name: str = "") -> dict:
    """A row as published: every column but the prompt is a text."""
    test = {"input": "[1]", "output": "2", "testtype": "functional" if func_name else "stdin"}
    metadata = {"func_name": func_name} if func_name else {}
    return {
        "question_title": "t",
        "question_content": "Add one.",
        "starter_code": "def f(x):" if func_name else "",
        "public_test_cases": json.dumps([test]),
        "private_test_cases": private,
        "metadata": json.dumps(metadata),
        "difficulty": "easy",
    }


def packed(value: object) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(value))).decode()


PRIVATE_TESTS = json.dumps([{"input": "[3]", "output": "4", "testtype": "functional"}])


@pytest.mark.parametrize("private", [PRIVATE_TESTS, packed(PRIVATE_TESTS)], ids=["JSON", "packed"])
def test_rows_of_live_code_bench_as_published(tmp_path, private):
    rows = write_row(tmp_path, live_code_bench_row(private, "f"), live_code_bench_row(""))
    call, program = read_problem_file(rows)
    assert call.problem.prompt == "Add one.\n\n```python\ndef f(x):\n```"
    assert json.loads(call.problem.answer) == [
        {"fn_name": "f", "arguments": [[1]], "accepted": [2]},
        {"fn_name": "f", "arguments": [[3]], "accepted": [4]},
    ]
    assert json.loads(program.problem.answer) == [{"input": "[1]", "output": "2"}]


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("made-by-a-pickle",)


@pytest.mark.parametrize(
    ("private", "reason"),
    [
        (packed(Harmful()), r"names posix.mkdir, where only a text is wanted"),
        (packed({"a": 1}), r"hold \{'a': 1\}, where a text is wanted"),
        (packed("no JSON"), "is not valid JSON"),
        (packed(PRIVATE_TESTS)[:-8], "neither JSON nor a packed text"),
        ("%%%", "neither JSON nor a packed text"),
        (packed("[" + " " * (65 << 20) + "]"), "over 67108864 bytes unpacked"),
    ],
    ids=["code", "other", "text", "cut", "garbage", "bomb"],
)
def test_a_packed_text_is_unpacked_and_nothing_else(tmp_path, monkeypatch, private, reason):
    monkeypatch.chdir(tmp_path)
    (row,) = read_problem_file(write_row(tmp_path, live_code_bench_row(private)))
    assert isinstance(row.problem, BadRow) and re.search(reason, str(row.problem))
    assert not (tmp_path / "made-by-a-pickle").exists()
