"""scalerl evaluate: a model on several problem files, on an engine of its own."""

import sys

import pandas as pd
import pytest

from scalerl.cli import main
from scalerl.data.problem import load_problems, make_problem, write_problems
from scalerl.evaluator import downstream
from scalerl.evaluator.downstream import evaluate_files, to_csv, to_table
from scalerl.evaluator.standalone import load_data_sets, read_answers
from scalerl.settings import load_config
from scalerl.spool.best import keep_if_best


def published(number: int, answers: list[str]) -> dict:
    """A row as verl's benchmarks are published, with an array of answers as Minerva's."""
    prompt = [{"role": "user", "content": f"{number}*{number}?"}]
    return {"data_source": "", "prompt": prompt, "ability": "math", "reward_model": {"ground_truth": answers}}


@pytest.fixture
def files(tmp_path):
    """A prepared set of four problems, and a published file of five and two rows that are none."""
    problems = [make_problem(f"{number}+{number}+1?", [str(number)], source="test") for number in range(4)]
    write_problems(tmp_path / "held.parquet", problems)
    rows = [published(number, [f"{number}.0", str(number)]) for number in (2, 3, 4, 5, 6, 2)]
    pd.DataFrame([*rows, published(7, [])]).to_parquet(tmp_path / "public.parquet")
    return [tmp_path / "held.parquet", tmp_path / "public.parquet"]


def test_one_table_of_two_files_for_the_best_policy_of_a_run(make_run, open_engine, files, tmp_path, capsys):
    open_engine.close()
    trainer = make_run()
    name, _ = trainer.publish_weights(3)
    keep_if_best(trainer.paths, trainer.paths.weights / name, {"pass_rate": 0.5})
    command = ["evaluate", "--model", str(trainer.paths.best), "--data", *map(str, files)]
    options = ["--output", str(tmp_path / "table.csv"), "--answers", str(tmp_path / "answers")]
    assert main([*command, "length.max_solution_tokens=9", *options, "--samples-per-prompt", "3"]) == 0
    said = capsys.readouterr().out
    assert f"asked as {trainer.paths.best}/run_config.json says" in said
    assert f"{files[1]}: of 7 rows dropped: duplicate 1, no_answer 1" in said
    assert said.splitlines()[-3].split()[:4] == ["data", "set", "prompts", "mean@3"]
    table = pd.read_csv(tmp_path / "table.csv").set_index("data_set")
    assert dict(table.prompts) == {"held": 4, "public": 5}
    for data_set, line in table.iterrows():
        answers = pd.read_parquet(tmp_path / "answers" / f"{data_set}.parquet")
        assert set(answers["responses"].map(len)) == {3}
        assert answers["num_tokens"].explode().max() <= 30 + 9
        rates = answers["correct"].map(lambda correct: sum(correct) / 3)
        assert line["mean@3"] == pytest.approx(rates.mean())
        assert line["standard_error"] == pytest.approx(rates.std() / len(rates) ** 0.5)
        assert line["pass@3"] == pytest.approx((rates > 0).mean())
        assert line["no_answer"] == pytest.approx((answers["verdicts"].explode() == "no_answer").mean())
        assert line["truncated"] == pytest.approx(answers["truncated"].explode().mean())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--output", "a.parquet"], "--output a.parquet: the name must end with .csv"),
        (["--samples-per-prompt", "0"], "--samples-per-prompt 0: at least 1 is needed"),
        (["--data", "nowhere.parquet"], "nowhere.parquet: there is no such input file"),
        (["--config", "nowhere.toml"], "there is no file nowhere.toml"),
    ],
)
def test_what_is_refused_before_anything_starts(tmp_path, files, capsys, options, message):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "a.toml").write_text("")
    command = ["evaluate", "--model", str(tmp_path), "--config", str(tmp_path / "a.toml")]
    assert main([*command, "--data", str(files[0]), *options]) == 2
    assert message in capsys.readouterr().err


def test_what_a_reader_of_the_table_has_to_know(files, tmp_path):
    write_problems(tmp_path / "train.parquet", [make_problem("$1 + 1$ + 1 ?", ["1"], source="test")])
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / "held.parquet"
    write_problems(other, [make_problem("0+0?", ["0"], source="test")])
    config = load_config([], [f"data.train={tmp_path}/train.parquet"])
    first, second, third = load_data_sets([*files, other], config)
    assert first.remarks == [f"{files[0]}: 1 of 4 questions are in data.train of the config"]
    assert [first.name, second.name, third.name] == [str(files[0]), "public", str(other)]
    assert [problem.prompt for problem in second.problems] == [f"{n}*{n}?" for n in range(2, 7)]
    assert third.remarks == []
    with pytest.raises(ValueError, match="names a file twice"):
        load_data_sets([files[0], files[0]], config)


def answer(number: int, correct: list[bool]) -> dict:
    return {
        "prompt_id": f"p{number}",
        "task": "math",
        "correct": correct,
        "verdicts": ["equal" if right else "no_answer" for right in correct],
        "num_tokens": [4, 6],
        "truncated": [False, True],
        "interrupted": [False, False],
    }


def test_the_table_by_hand(files, tmp_path):
    """Pass rates 1, .5 and 0."""
    (data_set,) = load_data_sets(files[1:], load_config([]))
    rows = [answer(0, [True, True]), answer(1, [True, False]), answer(2, [False, False])]
    line = downstream._line(tmp_path, data_set, rows)
    cells = to_table([line]).splitlines()[1].split()
    assert cells == ["public", "3", "0.5", "0.2887", "0.6667", "0.3333", "0.5", "0.5", "5"]
    header, first = (text.split(",") for text in to_csv([line]).splitlines())
    assert (
        dict(zip(header, first, strict=True)).items()
        >= {
            "data_set": "public",
            "file": str(files[1]),
            "prompts": "3",
            "samples_per_prompt": "2",
            "mean@2": "0.5",
            "interrupted": "0.0",
        }.items()
    )


ENGINE = """
import os, sys
from pathlib import Path
import pyarrow as pa, pyarrow.parquet as pq
options = {name: value for name, value in zip(sys.argv, sys.argv[1:]) if name.startswith("--")}
index, num = map(int, options["--share"].split("/"))
if index == int(os.environ.get("FAILS", -1)):
    sys.exit("no memory left")
folder = Path(options["--answers"])
folder.mkdir()
measured = dict(task="math", correct=[index == 1, True], verdicts=["equal", "equal"], num_tokens=[1, 1])
measured |= dict(truncated=[False, False], interrupted=[False, False])
for file in map(Path, sys.argv[sys.argv.index("--data") + 1 : sys.argv.index("--config")]):
    ids = pq.read_table(file)["prompt_id"].to_pylist()[index::num]
    device = os.environ["CUDA_VISIBLE_DEVICES"]
    rows = [measured | dict(prompt_id=prompt_id, device=device) for prompt_id in ids]
    pq.write_table(pa.Table.from_pylist(rows), folder / file.name)
"""


@pytest.fixture
def scripted_engines(tmp_path, monkeypatch):
    (tmp_path / "engine.py").write_text(ENGINE)
    executable = tmp_path / "interpreter"
    executable.write_text(f'#!/bin/bash\nexec {sys.executable} {tmp_path}/engine.py "$@"\n')
    executable.chmod(0o755)
    monkeypatch.setattr(downstream.sys, "executable", str(executable))


@pytest.mark.usefixtures("scripted_engines")
def test_several_engines_share_every_data_set(files, tmp_path, monkeypatch):
    config = load_config([])
    five = [make_problem(f"{number}*{number}?", [str(number)], source="test") for number in range(5)]
    write_problems(tmp_path / "five.parquet", five)
    data_sets = load_data_sets([files[0], tmp_path / "five.parquet"], config)
    options = {"devices": ["0,1", "2,3", "4,5"], "answers": tmp_path / "answers", "show": print}
    table = evaluate_files(tmp_path, data_sets, config, 2, **options)
    # problems 1 and 4 are those of engine 1: one of four, two of five
    assert [line.split()[:3] for line in table.splitlines()[1:]] == [
        ["held", "4", "0.625"],
        ["five", "5", "0.7"],
    ]
    rows = read_answers(tmp_path / "answers" / "held.parquet")
    assert [row["prompt_id"] for row in rows] == [problem.prompt_id for problem in load_problems(files[0])]
    assert [row["device"] for row in rows] == ["0,1", "2,3", "4,5", "0,1"]
    monkeypatch.setenv("FAILS", "2")
    with pytest.raises(ValueError, match="engine 2 ended with exit code 1: no memory left"):
        evaluate_files(tmp_path, data_sets, config, 2, **options)
