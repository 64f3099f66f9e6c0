"""Reading problem files: the rows of every shape, and what is dropped and why."""

import json
import math

import pandas as pd
import pytest
from problem_rows import SAMPLES, math_rows, write_lines

from scalerl.data.prepare import prepare
from scalerl.data.readers import BadRow, parse_answers, parse_difficulty, read_problem_file


@pytest.mark.parametrize(
    ("name", "answers"),
    [
        ("gsm8k.jsonl", ["72", "10", "1080"]),
        ("aime.json", ["60", "15", "20"]),
        ("verl_string.parquet", ["204", "025"]),
        ("verl_degrees.parquet", ["336^\\circ"]),
        ("verl_number.parquet", ["142", "-4"]),
        ("verl_array.parquet", ["9.6", "0.01\n0.02", "\\arcsin{\\frac{1}{1.3}}\n\\arcsin{\\frac{10}{13}}"]),
    ],
)
def test_real_rows_of_every_shape(name, answers):
    problems = [row.problem for row in read_problem_file(SAMPLES / name)]
    assert [problem.answer for problem in problems] == answers
    assert {problem.source for problem in problems} == {name}
    assert all(len(problem.prompt) > 40 for problem in problems)


def test_a_chat_prompt_becomes_its_text():
    (row, _) = read_problem_file(SAMPLES / "verl_string.parquet")
    assert row.problem.prompt.startswith("Every morning Aya goes for a $9$-kilometer-long walk")
    assert row.problem.prompt.endswith("within \\boxed{}.")


@pytest.mark.parametrize(
    ("value", "answers"),
    [
        ("x", ["x"]),
        (27.0, ["27"]),
        (0.5, ["0.5"]),
        (-3, ["-3"]),
        (["1", 2.0], ["1", "2"]),
    ],
)
def test_answers(value, answers):
    assert parse_answers(value) == answers


@pytest.mark.parametrize(
    "value", [None, "", " \n", True, [], ["1", ""], [["1"]], float("nan"), float("inf"), {"a": 1}]
)
def test_no_answer(value):
    with pytest.raises(BadRow, match="wanted") as caught:
        parse_answers(value)
    assert caught.value.reason == "no_answer"


@pytest.mark.parametrize(
    ("value", "difficulty"), [(None, None), ("3/8", 0.375), ("0/8", 0.0), (5, 5.0), ("2.5", 2.5)]
)
def test_difficulty(value, difficulty):
    assert parse_difficulty(value) == difficulty


@pytest.mark.parametrize("value", ["hard", "3/0", "nan", [3], float("inf")])
def test_bad_difficulty(value):
    with pytest.raises(BadRow, match="3/8"):
        parse_difficulty(value)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ([1], "malformed"),
        ({"problem": "p"}, "unknown_shape"),
        ({"text": "p", "label": "1"}, "unknown_shape"),
        ({"problem": "", "answer": "1"}, "no_prompt"),
        ({"problem": 3, "answer": "1"}, "no_prompt"),
        ({"problem": "p", "answer": None}, "no_answer"),
        ({"problem": "half \ud800", "answer": "1"}, "malformed"),
        ({"problem": "p", "answer": "1", "difficulty": "hard"}, "bad_difficulty"),
        ({"question": "p", "answer": "so it is 72"}, "no_answer"),
        ({"question": "p", "answer": "so it is ####  "}, "no_answer"),
        ({"prompt": [], "reward_model": {"ground_truth": "1"}}, "no_prompt"),
        (
            {"prompt": [{"role": "assistant", "content": "p"}], "reward_model": {"ground_truth": "1"}},
            "no_prompt",
        ),
        ({"prompt": [{"role": "user", "content": "p"}], "reward_model": {"style": "rule"}}, "no_answer"),
        ({"tests": [{"input": "1", "output": "2"}]}, "no_prompt"),
        ({"problem": "p", "tests": []}, "bad_tests"),
        ({"problem": "p", "tests": "[{"}, "bad_tests"),
        ({"problem": "p", "tests": {"inputs": ["1"], "outputs": []}}, "bad_tests"),
        ({"problem": "p", "tests": [{"input": "1"}]}, "bad_tests"),
        ({"problem": "p", "tests": [{"input": {}, "output": "1"}]}, "bad_tests"),
        ({"problem": "p", "tests": [{"input": "1", "output": "1", "testtype": "functional"}]}, "bad_tests"),
        ({"problem": "p", "tests": [{"input": "[1", "output": "1", "fn_name": "f"}]}, "bad_tests"),
        ({"problem": "p", "tests": [{"input": [1], "output": 1, "fn_name": "f()"}]}, "bad_tests"),
        ({"problem": "p", "tests": [{"input": [math.nan], "output": 1, "fn_name": "f"}]}, "bad_tests"),
        ({"problem": "p", "tests": [{"input": "\ud800", "output": "1"}]}, "malformed"),
        ({"problem": "p", "tests": [{"input": "1" * 5_000_000, "output": "1"}]}, "tests_too_large"),
        ({"problem": "p", "tests": [{"input": "1", "output": "1"}], "starter_code": 5}, "malformed"),
    ],
)
def test_a_bad_row_is_named_and_counted_and_refused_by_strict(tmp_path, record, reason):
    rows = [*math_rows(2), record]
    path = write_lines(tmp_path / "rows.jsonl", rows)
    report = prepare([path], tmp_path / "out", heldout_fraction=0.0)
    assert {name: dropped.count for name, dropped in report.inputs[0].dropped.items()} == {reason: 1}
    assert report.inputs[0].dropped[reason].examples[0].startswith(f"{path}:3: ")
    with pytest.raises(ValueError, match=f"{path}:3: .*--strict"):
        prepare([path], tmp_path / "strict", heldout_fraction=0.0, strict=True)
    assert not (tmp_path / "strict").exists()


def test_lines_are_counted_with_the_blank_and_broken_ones(tmp_path):
    good = json.dumps(math_rows(1)[0])
    (tmp_path / "rows.jsonl").write_bytes(b"\n" + good.encode() + b"\n\n{not json\n\xff\xfe\n")
    rows = list(read_problem_file(tmp_path / "rows.jsonl"))
    assert [row.location.rpartition(":")[2] for row in rows] == ["2", "4", "5"]
    assert [isinstance(row.problem, BadRow) for row in rows] == [False, True, True]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.csv", b"a,b", "cannot tell the format"),
        ("rows.json", b'{"problem": 1}', "holds a JSON dict"),
        ("rows.json", b'[{"problem": "p"', "not valid JSON"),
        ("rows.parquet", b"PAR1 torn", "not a readable Parquet file"),
        ("rows.jsonl", b"", "yields no problem: it has no rows"),
        ("rows.jsonl", b"nonsense\n", "yields no problem: 1 rows read, all dropped"),
    ],
)
def test_an_unusable_file_is_an_error_that_names_it(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        prepare([path], tmp_path / "out", heldout_fraction=0.0)
    assert str(path) in str(caught.value)
    assert not (tmp_path / "out").exists()


# Code


@pytest.mark.parametrize(
    ("tests", "kept"),
    [
        ([{"input": "1 2\n", "output": "3\n", "testtype": "stdin"}], [{"input": "1 2\n", "output": "3\n"}]),
        (
            {"inputs": ["1", ["1", "2"]], "outputs": ["2", 3]},
            [{"input": "1", "output": "2"}, {"input": "1\n2", "output": "3"}],
        ),
        (
            {"inputs": [[1, [2]], [3, []]], "outputs": [[5], [1, 2]], "fn_name": "f"},
            [
                {"fn_name": "f", "arguments": [1, [2]], "accepted": [[5], 5]},
                {"fn_name": "f", "arguments": [3, []], "accepted": [[1, 2]]},
            ],
        ),
        (
            [
                {
                    "input": '[1, 2]\n"a"',
                    "output": "[3]",
                    "testtype": "functional",
                    "metadata": {"func_name": "f"},
                }
            ],
            [{"fn_name": "f", "arguments": [[1, 2], "a"], "accepted": [[3]]}],
        ),
        (
            [{"type": "function_call", "fn_name": "f", "input": ["x"], "output": True}],
            [{"fn_name": "f", "arguments": ["x"], "accepted": [True]}],
        ),
    ],
)
@pytest.mark.parametrize(
    ("suffix", "as_text"), [(".jsonl", False), (".jsonl", True), (".json", False), (".parquet", True)]
)
def test_tests_of_every_shape(tmp_path, tests, kept, as_text, suffix):
    row = {
        "problem": "Add.",
        "tests": json.dumps(tests) if as_text else tests,
        "difficulty": "1/2",
        "other": 1,
    }
    path = tmp_path / f"rows{suffix}"
    if suffix == ".parquet":
        pd.DataFrame([row]).to_parquet(path)
    else:
        path.write_text(json.dumps([row] if suffix == ".json" else row))
    (read,) = read_problem_file(path)
    assert json.loads(read.problem.answer) == kept
    assert (read.problem.task, read.problem.prompt, read.problem.difficulty) == ("code", "Add.", 0.5)


def test_tests_as_a_parquet_column_of_records(tmp_path):
    records = [
        [{"input": "1", "output": "2", "fn_name": None}, {"input": "3\n", "output": "4", "fn_name": None}]
    ]
    pd.DataFrame({"question": ["Add one."], "tests": records}).to_parquet(tmp_path / "rows.parquet")
    (row,) = read_problem_file(tmp_path / "rows.parquet")
    assert json.loads(row.problem.answer) == [{"input": "1", "output": "2"}, {"input": "3\n", "output": "4"}]


def test_starter_code_follows_the_prompt_with_its_indentation(tmp_path):
    row = {
        "prompt": "Add.\n",
        "tests": [{"input": "1", "output": "1"}],
        "starter_code": "class Solution:\n    def f(self): \n",
    }
    (read,) = read_problem_file(write_lines(tmp_path / "rows.jsonl", [row]))
    assert read.problem.prompt == "Add.\n\n```python\nclass Solution:\n    def f(self):\n```"
