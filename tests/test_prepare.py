"""Reading problem files, preparing them, the arithmetic task."""

import hashlib
import json
import math
import unicodedata
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalerl.data.arithmetic import generate, worked_solution
from scalerl.data.prepare import is_heldout, prepare, prepare_arithmetic
from scalerl.data.problem import compute_prompt_id, load_problems, normalise
from scalerl.data.readers import BadRow, parse_answers, parse_difficulty, read_problem_file

SAMPLES = Path(__file__).parent / "data" / "problems"


def write_lines(path: Path, rows: list) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def math_rows(count: int) -> list[dict]:
    return [{"problem": f"What is {number} + 1?", "answer": str(number + 1)} for number in range(count)]


# Readers


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


@pytest.mark.parametrize("value", [None, "", " \n", True, [], ["1", ""], [["1"]], float("nan"), float("inf"), {"a": 1}])
def test_no_answer(value):
    with pytest.raises(BadRow, match="wanted") as caught:
        parse_answers(value)
    assert caught.value.reason == "no_answer"


@pytest.mark.parametrize(("value", "difficulty"), [(None, None), ("3/8", 0.375), ("0/8", 0.0), (5, 5.0), ("2.5", 2.5)])
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
        ({"prompt": [{"role": "assistant", "content": "p"}], "reward_model": {"ground_truth": "1"}}, "no_prompt"),
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
        ({"inputs": ["1", ["1", "2"]], "outputs": ["2", 3]}, [{"input": "1", "output": "2"}, {"input": "1\n2", "output": "3"}]),
        (
            {"inputs": [[1, [2]], [3, []]], "outputs": [[5], [1, 2]], "fn_name": "f"},
            [
                {"fn_name": "f", "arguments": [1, [2]], "accepted": [[5], 5]},
                {"fn_name": "f", "arguments": [3, []], "accepted": [[1, 2]]},
            ],
        ),
        (
            [{"input": '[1, 2]\n"a"', "output": "[3]", "testtype": "functional", "metadata": {"func_name": "f"}}],
            [{"fn_name": "f", "arguments": [[1, 2], "a"], "accepted": [[3]]}],
        ),
        (
            [{"type": "function_call", "fn_name": "f", "input": ["x"], "output": True}],
            [{"fn_name": "f", "arguments": ["x"], "accepted": [True]}],
        ),
    ],
)
@pytest.mark.parametrize(("suffix", "as_text"), [(".jsonl", False), (".jsonl", True), (".json", False), (".parquet", True)])
def test_tests_of_every_shape(tmp_path, tests, kept, as_text, suffix):
    row = {"problem": "Add.", "tests": json.dumps(tests) if as_text else tests, "difficulty": "1/2", "other": 1}
    path = tmp_path / f"rows{suffix}"
    if suffix == ".parquet":
        pd.DataFrame([row]).to_parquet(path)
    else:
        path.write_text(json.dumps([row] if suffix == ".json" else row))
    (read,) = read_problem_file(path)
    assert json.loads(read.problem.answer) == kept
    assert (read.problem.task, read.problem.prompt, read.problem.difficulty) == ("code", "Add.", 0.5)


def test_tests_as_a_parquet_column_of_records(tmp_path):
    records = [[{"input": "1", "output": "2", "fn_name": None}, {"input": "3\n", "output": "4", "fn_name": None}]]
    pd.DataFrame({"question": ["Add one."], "tests": records}).to_parquet(tmp_path / "rows.parquet")
    (row,) = read_problem_file(tmp_path / "rows.parquet")
    assert json.loads(row.problem.answer) == [{"input": "1", "output": "2"}, {"input": "3\n", "output": "4"}]


def test_starter_code_follows_the_prompt_with_its_indentation(tmp_path):
    row = {"prompt": "Add.\n", "tests": [{"input": "1", "output": "1"}], "starter_code": "class Solution:\n    def f(self): \n"}
    (read,) = read_problem_file(write_lines(tmp_path / "rows.jsonl", [row]))
    assert read.problem.prompt == "Add.\n\n```python\nclass Solution:\n    def f(self):\n```"


def test_code_beside_math_in_one_prepared_set(tmp_path):
    tests = [{"input": "1  2\n\n", "output": "3"}]
    code = write_lines(tmp_path / "code.jsonl", [{"problem": f"Write {n}.", "tests": tests} for n in range(5)])
    maths = write_lines(tmp_path / "math.jsonl", math_rows(7))
    seen = []
    count_tokens = lambda text, task: seen.append(task) or 1  # noqa: E731
    report = prepare([maths, code], tmp_path / "out", heldout_fraction=0.0, count_tokens=count_tokens, max_prompt_tokens=2)
    problems = load_problems(tmp_path / "out" / "train.parquet")
    assert sorted(problem.task for problem in problems) == ["code"] * 5 + ["math"] * 7
    assert seen == ["math"] * 7 + ["code"] * 5
    assert {problem.answer for problem in problems if problem.task == "code"} == {json.dumps(tests)}  # its blanks stay
    assert [entry.kept for entry in report.inputs] == [7, 5]


# Preparing


def test_real_rows_prepared_with_their_report(tmp_path):
    paths = [SAMPLES / "math.json", SAMPLES / "gsm8k.jsonl"]
    report = prepare(paths, tmp_path, heldout_fraction=0.5)
    first = report.inputs[0]
    assert (first.rows, first.kept, first.train + first.heldout) == (6, 4, 4)
    assert {reason: dropped.count for reason, dropped in first.dropped.items()} == {"no_answer": 1, "duplicate": 1}
    assert first.dropped["no_answer"].examples[0].startswith(f"{paths[0]}:5: its answer is None")
    train, heldout = load_problems(tmp_path / "train.parquet"), load_problems(tmp_path / "heldout.parquet")
    assert (len(train), len(heldout)) == (report.train, report.heldout)
    assert len(train) + len(heldout) == 7
    assert report.table().splitlines()[1].split() == [
        *("math.json", "6", "4", str(first.train), str(first.heldout)),
        *("duplicate", "1,", "no_answer", "1"),
    ]
    saved = json.loads((tmp_path / "report.json").read_text())
    assert saved["inputs"][0]["dropped"]["duplicate"]["count"] == 1
    frame = pd.read_parquet(tmp_path / "train.parquet")
    assert list(frame.columns) == ["prompt_id", "prompt", "answer", "task", "source", "difficulty"]


def test_the_split_is_of_the_prompt_alone(tmp_path):
    few = write_lines(tmp_path / "few.jsonl", math_rows(200))
    more = write_lines(tmp_path / "more.jsonl", math_rows(400)[::-1])
    prepare([few], tmp_path / "few", heldout_fraction=0.1)
    prepare([more], tmp_path / "more", heldout_fraction=0.1)
    prepare([few], tmp_path / "wider", heldout_fraction=0.3)
    few_ids, more_ids, wider_ids = (
        {problem.prompt_id for problem in load_problems(tmp_path / name / "heldout.parquet")} for name in ("few", "more", "wider")
    )
    all_few = few_ids | {problem.prompt_id for problem in load_problems(tmp_path / "few" / "train.parquet")}
    assert 5 <= len(few_ids) <= 40  # 20 expected, standard deviation 4.2
    assert more_ids & all_few == few_ids
    assert few_ids < wider_ids


def test_files_do_not_depend_on_the_order_of_rows(tmp_path):
    forward = write_lines(tmp_path / "rows.jsonl", math_rows(50))
    (tmp_path / "turned").mkdir()
    backward = write_lines(tmp_path / "turned" / "rows.jsonl", math_rows(50)[::-1])
    prepare([forward], tmp_path / "a", heldout_fraction=0.3)
    prepare([backward], tmp_path / "b", heldout_fraction=0.3)
    for name in ("train.parquet", "heldout.parquet"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_duplicates_conflicts_and_long_prompts(tmp_path):
    rows = [
        {"problem": "What is  1 + 1?\r\n", "answer": "2"},
        {"problem": "What is 1 + 1?", "answer": " 2 "},
        {"problem": "What is 1\u00a0+ 1?", "answer": "3"},
        {"problem": "one two three four five", "answer": "5"},
        {"problem": "one two three four five six", "answer": "6"},
    ]
    path = write_lines(tmp_path / "rows.jsonl", rows)
    report = prepare(
        [path], tmp_path / "out", heldout_fraction=0.0, count_tokens=lambda text, task: len(text.split()), max_prompt_tokens=5
    )
    dropped = report.inputs[0].dropped
    assert {reason: entry.count for reason, entry in dropped.items()} == {
        "duplicate": 1,
        "conflicting_answer": 1,
        "too_long": 1,
    }
    assert "'3'" in dropped["conflicting_answer"].examples[0]
    assert "'2'" in dropped["conflicting_answer"].examples[0]
    assert "6 tokens, over the limit of 5" in dropped["too_long"].examples[0]


def test_fractions(tmp_path):
    path = write_lines(tmp_path / "rows.jsonl", math_rows(3))
    with pytest.raises(ValueError, match=r"held-out fraction 1\.5"):
        prepare([path], tmp_path / "out", heldout_fraction=1.5)
    assert not (tmp_path / "out").exists()
    assert prepare([path], tmp_path / "out", heldout_fraction=0.0).train == 3
    assert prepare([path], tmp_path / "out", heldout_fraction=1.0).heldout == 3


def test_loading_what_is_not_prepared(tmp_path):
    with pytest.raises(ValueError, match="no problem file"):
        load_problems(tmp_path / "nothing.parquet")
    with pytest.raises(ValueError, match="not a prepared problem file"):
        load_problems(SAMPLES / "verl_string.parquet")
    (tmp_path / "torn.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="not a readable Parquet"):
        load_problems(tmp_path / "torn.parquet")
    prepare([write_lines(tmp_path / "rows.jsonl", math_rows(3))], tmp_path / "out", heldout_fraction=0.0)
    with pytest.raises(ValueError, match="holds no problem"):
        load_problems(tmp_path / "out" / "heldout.parquet")


def test_the_id_is_sixteen_digits_of_sha256():
    assert compute_prompt_id("7*3?") == hashlib.sha256(b"7*3?").hexdigest()[:16]
    assert is_heldout("7fffffffffffffff", 0.5)
    assert not is_heldout("8000000000000000", 0.5)


def test_normalising_keeps_lines_and_their_indentation():
    assert normalise("  Cafe\u0301 \t is   open \r\n    code  here\r\n\n ") == "Café is open\n    code here"


@given(st.text())
def test_normalising_twice_changes_nothing(text):
    once = normalise(text)
    assert normalise(once) == once
    assert unicodedata.is_normalized("NFC", once)


# Arithmetic


def test_the_worked_chain_of_the_documentation():
    assert worked_solution("7*3-4+8?") == "<7*3=1;1-4=7;7+8=5>5"


def value_modulo_10(prompt: str) -> int:
    """The chain over the integers, left to right, reduced at the very end: an independent way to the same digit."""
    total = int(prompt[0])
    for operator, digit in zip(prompt[1:-1:2], prompt[2:-1:2], strict=True):
        total = {"+": total + int(digit), "-": total - int(digit), "*": total * int(digit)}[operator]
    return total % 10


@settings(max_examples=30)
@given(seed=st.integers(0, 1000), steps=st.lists(st.integers(1, 12), min_size=2, max_size=2).map(sorted))
def test_generated_chains(seed, steps):
    problems = generate(60, seed=seed, min_steps=steps[0], max_steps=steps[1])
    assert len({problem.prompt for problem in problems}) == 60
    for problem in problems:
        assert steps[0] <= problem.difficulty <= steps[1]
        assert problem.difficulty == sum(problem.prompt.count(operator) for operator in "+-*")
        assert problem.answer == str(value_modulo_10(problem.prompt))
        assert worked_solution(problem.prompt).endswith(">" + problem.answer)


def test_every_short_chain_can_be_had():
    assert len(generate(300, seed=0, max_steps=1)) == 300
    with pytest.raises(ValueError, match="there are 300"):
        generate(301, seed=0, max_steps=1)
    with pytest.raises(ValueError, match="1 to 12 steps"):
        generate(10, seed=0, max_steps=13)


def test_preparing_arithmetic_is_reproducible(tmp_path):
    for name in ("a", "b"):
        report = prepare_arithmetic(tmp_path / name, count=500, seed=3, heldout_fraction=0.2)
    assert report.train + report.heldout == 500
    assert (tmp_path / "a" / "train.parquet").read_bytes() == (tmp_path / "b" / "train.parquet").read_bytes()
    assert len(load_problems(tmp_path / "a" / "heldout.parquet")) == report.heldout
