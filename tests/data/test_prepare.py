"""Preparing problems: the split, duplicates, ids; and the arithmetic task."""

import hashlib
import json
import re
import unicodedata

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problem_rows import SAMPLES, math_rows, write_lines

from scalerl.data.arithmetic import generate, worked_solution
from scalerl.data.prepare import SPLITS, Split, prepare, prepare_generated, question_key
from scalerl.data.problem import compute_prompt_id, load_problems, normalise


def test_real_rows_prepared_with_their_report(tmp_path):
    paths = [SAMPLES / "math.json", SAMPLES / "gsm8k.jsonl"]
    report = prepare(paths, tmp_path, heldout_fraction=0.5, test_fraction=0.25)
    first = report.inputs[0]
    assert (first.rows, first.kept, first.train + first.heldout + first.test) == (6, 4, 4)
    assert {reason: dropped.count for reason, dropped in first.dropped.items()} == {
        "no_answer": 1,
        "duplicate": 1,
    }
    assert first.dropped["no_answer"].examples[0].startswith(f"{paths[0]}:5: its answer is None")
    sizes = [pd.read_parquet(tmp_path / f"{name}.parquet").shape[0] for name in SPLITS]
    assert sizes == [report.train, report.heldout, report.test]
    assert sum(sizes) == 7
    assert report.table().splitlines()[1].split() == [
        *("math.json", "6", "4", str(first.train), str(first.heldout), str(first.test)),
        *("duplicate", "1,", "no_answer", "1"),
    ]
    saved = json.loads((tmp_path / "report.json").read_text())
    assert saved["inputs"][0]["dropped"]["duplicate"]["count"] == 1
    frame = pd.read_parquet(tmp_path / "train.parquet")
    assert list(frame.columns) == ["prompt_id", "prompt", "answer", "task", "source", "difficulty"]


def test_code_beside_math_in_one_prepared_set(tmp_path):
    tests = [{"input": "1  2\n\n", "output": "3"}]
    code = write_lines(
        tmp_path / "code.jsonl", [{"problem": f"Write {n}.", "tests": tests} for n in range(5)]
    )
    maths = write_lines(tmp_path / "math.jsonl", math_rows(7))
    seen = []
    count_tokens = lambda text, task: seen.append(task) or 1  # noqa: E731
    report = prepare(
        [maths, code], tmp_path / "out", heldout_fraction=0.0, count_tokens=count_tokens, max_prompt_tokens=2
    )
    problems = load_problems(tmp_path / "out" / "train.parquet")
    assert sorted(problem.task for problem in problems) == ["code"] * 5 + ["math"] * 7
    assert seen == ["math"] * 7 + ["code"] * 5
    assert {problem.answer for problem in problems if problem.task == "code"} == {
        json.dumps(tests)
    }  # its blanks stay
    assert [entry.kept for entry in report.inputs] == [7, 5]


@pytest.mark.parametrize("split", ["heldout", "test"])
def test_the_split_is_of_the_question_alone(tmp_path, split):
    few = write_lines(tmp_path / "few.jsonl", math_rows(200))
    more = write_lines(tmp_path / "more.jsonl", math_rows(400)[::-1])
    prepare([few], tmp_path / "few", heldout_fraction=0.1, test_fraction=0.1)
    prepare([more], tmp_path / "more", heldout_fraction=0.1, test_fraction=0.1)
    prepare([few], tmp_path / "wider", heldout_fraction=0.3, test_fraction=0.3)
    few_ids, more_ids, wider_ids = (
        {problem.prompt_id for problem in load_problems(tmp_path / name / f"{split}.parquet")}
        for name in ("few", "more", "wider")
    )
    all_few = {
        problem.prompt_id
        for name in SPLITS
        for problem in load_problems(tmp_path / "few" / f"{name}.parquet")
    }
    assert len(all_few) == 200
    assert 5 <= len(few_ids) <= 40  # 20 expected, standard deviation 4.2
    assert more_ids & all_few == few_ids
    assert few_ids < wider_ids


def test_a_question_typed_in_another_way_is_in_the_same_split(tmp_path):
    """Two files that hold the same questions with other blanks, dollars, braces and capitals."""
    plain = [{"problem": f"If x_1 = {n} and y = {n * n}, find x_1 + y", "answer": "1"} for n in range(100)]
    other = [
        {"problem": f"If $x_{{1}}={n}$ and\n$y={n * n}$,  FIND $x_{{1}}+y$.", "answer": "1"}
        for n in range(100)
    ]
    files = [write_lines(tmp_path / f"{number}.jsonl", rows) for number, rows in enumerate((plain, other))]
    report = prepare(files, tmp_path / "out", heldout_fraction=0.3, test_fraction=0.3)
    assert (report.train + report.heldout + report.test, min(report.heldout, report.test) > 30) == (200, True)
    first, second = report.inputs
    assert (first.train, first.heldout, first.test) == (second.train, second.heldout, second.test)
    pools = [load_problems(tmp_path / "out" / f"{name}.parquet") for name in SPLITS]
    numbers = [{re.search(r"\d\d?(?=\$? and)", problem.prompt)[0] for problem in pool} for pool in pools]
    assert sum(map(len, numbers)) == len(set.union(*numbers)) == 100


def test_files_do_not_depend_on_the_order_of_rows(tmp_path):
    forward = write_lines(tmp_path / "rows.jsonl", math_rows(50))
    (tmp_path / "turned").mkdir()
    backward = write_lines(tmp_path / "turned" / "rows.jsonl", math_rows(50)[::-1])
    prepare([forward], tmp_path / "a", heldout_fraction=0.3, test_fraction=0.3)
    prepare([backward], tmp_path / "b", heldout_fraction=0.3, test_fraction=0.3)
    for name in SPLITS:
        file = f"{name}.parquet"
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


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
        [path],
        tmp_path / "out",
        heldout_fraction=0.0,
        count_tokens=lambda text, task: len(text.split()),
        max_prompt_tokens=5,
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
    with pytest.raises(ValueError, match=r"test fraction -0\.1"):
        prepare([path], tmp_path / "out", heldout_fraction=0.0, test_fraction=-0.1)
    with pytest.raises(ValueError, match=r"0\.6 and test fraction 0\.5 are more than 1 together"):
        prepare([path], tmp_path / "out", heldout_fraction=0.6, test_fraction=0.5)
    assert not (tmp_path / "out").exists()
    assert prepare([path], tmp_path / "out", heldout_fraction=0.0).train == 3
    assert prepare([path], tmp_path / "out", heldout_fraction=1.0).heldout == 3
    assert prepare([path], tmp_path / "out", heldout_fraction=0.0, test_fraction=1.0).test == 3


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


def test_the_split_by_hand():
    # 0cd69da7... is 0.05015 of 2^64
    assert question_key(" 7 * 3?") == hashlib.sha256(b"7*3?").hexdigest()[:16] == "0cd69da733249ad9"
    assert Split(heldout_fraction=0.0502).of(" 7 * 3?") == "heldout"
    assert Split(heldout_fraction=0.0501, test_fraction=0.9498).of("7*3?") == "train"
    assert Split(heldout_fraction=0.0, test_fraction=0.9499).of("7*3?") == "test"


@given(st.text())
def test_every_prompt_has_one_split_and_blanks_do_not_matter(text):
    split = Split(heldout_fraction=0.25, test_fraction=0.25)
    assert split.of(text) in SPLITS
    assert question_key(" " + text.replace(" ", "\n\t") + "\u00a0") == question_key(text)


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
    """The chain over the integers, left to right, reduced at the very end: an independent way to the same
    digit."""
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
        report = prepare_generated(tmp_path / name, "arithmetic", count=500, seed=3, heldout_fraction=0.2)
    assert report.train + report.heldout == 500
    assert (tmp_path / "a" / "train.parquet").read_bytes() == (tmp_path / "b" / "train.parquet").read_bytes()
    assert len(load_problems(tmp_path / "a" / "heldout.parquet")) == report.heldout
