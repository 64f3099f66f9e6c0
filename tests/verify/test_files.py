"""`scalerl verify`: grading files of responses."""

import json

import pandas as pd
import pytest

from scalerl.verify.files import verify_file

ROWS = [
    {"response": "a</think>\\boxed{5}", "answer": "5", "id": 1},
    {"response": "a</think>\\boxed{0.5}", "answer": ["\\frac{1}{2}", "x"], "id": 2},
    {"response": "a</think>6", "answer": ["5"], "id": 3},
    {"response": "still thinking \u2028 of 5", "answer": ["5"], "id": 4},
]


def test_grading_lines(tmp_path):
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(
        "\n".join(
            json.dumps(row, ensure_ascii=False) for row in [*ROWS, {"response": "</think>7", "answer": 7.0}]
        )
    )
    report = verify_file(source, output, "</think>")
    graded = [json.loads(line) for line in output.read_bytes().splitlines()]
    assert [row["correct"] for row in graded] == [True, True, False, False, True]
    assert [row["reason"] for row in graded] == ["equal", "equal", "different", "no_answer", "equal"]
    assert [row["id"] for row in graded[:4]] == [1, 2, 3, 4]
    assert report.accuracy == 3 / 5
    assert report.reasons == {"equal": 3, "different": 1, "no_answer": 1}
    assert str(report).startswith("accuracy 0.6000 on 5 answers (different 1, equal 3, no_answer 1); ")


def test_grading_parquet_keeps_the_other_columns(tmp_path):
    source, output = tmp_path / "in.parquet", tmp_path / "out.parquet"
    frame = pd.DataFrame(ROWS[1:]).assign(correct="old", id=lambda table: table["id"].astype("int16"))
    frame.to_parquet(source)
    verify_file(source, output, "</think>", num_workers=2)
    graded = pd.read_parquet(output)
    assert graded["correct"].tolist() == [True, False, False]
    assert graded["id"].tolist() == [2, 3, 4]
    assert graded["id"].dtype == "int16"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '{"response": "5", "answer": "5", "task": "maths"}',
            ":1: there is no task 'maths'; did you mean math?",
        ),
        ('{"response": "5", "answer": "5"}\n{"response": "5"}\n', ":2: a row of the task math is {response"),
        ('\n{"response": 5, "answer": "5"}\n', ":2: a row of the task math is {response"),
        ('{"response": "5", "answer": []}\n', ":1: a row of the task math is {response"),
        (
            '{"response": "5", "answer": "5", "task": "reasoning_gym"}',
            ":1: a row of the task reasoning_gym is",
        ),
        ("[1]\n", ":1: a row of the task math is {response"),
        ("{\n", ":1 is not valid JSON"),
        ("", "holds no row"),
    ],
)
def test_a_bad_row_is_refused_before_anything_is_written(tmp_path, content, message):
    source = tmp_path / "in.jsonl"
    source.write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        verify_file(source, tmp_path / "out.jsonl")
    assert str(source) in str(caught.value)
    assert list(tmp_path.iterdir()) == [source]


def test_other_formats_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"both names must end in \.jsonl, or both in \.parquet"):
        verify_file(tmp_path / "in.csv", tmp_path / "out.csv")


def test_code_rows_beside_math(bubblewrap, tmp_path):
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    tests = json.dumps([{"input": "1  2", "output": "1  2"}])
    rows = [
        {"response": "```python\nprint(input())\n```", "answer": tests, "task": "code"},
        {"response": "print(input())", "answer": tests, "task": "code"},
        {"response": "\\boxed{5}", "answer": 5, "task": "math"},
    ]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = verify_file(source, output)
    assert [json.loads(line)["reason"] for line in output.read_text().splitlines()] == [
        "passed",
        "no_code",
        "equal",
    ]
    assert report.accuracy == 2 / 3
    source.write_text(json.dumps(rows[0] | {"answer": "5"}))
    with pytest.raises(ValueError, match=":1: a row of the task code"):
        verify_file(source, output)
