"""Good input is read whole; bad input gets a message that names place, value and way out."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from scalerl.fits.command import main
from scalerl.fits.inputs import read_folder, read_input


def test_run_folder_takes_r0_from_the_first_evaluation(tmp_path, write_run):
    run = read_folder(write_run(tmp_path / "cispo"))
    assert run.run == "cispo" and run.r0 == 0.3 and len(run.compute) == 25
    assert run.compute[0] == 2.0 and (run.num_samples == 16_000).all() and run.fitted.all()
    assert read_folder(tmp_path / "cispo", "tokens").compute[1] == 2e6
    assert read_folder(tmp_path / "cispo", "steps").compute[-1] == 2500


def with_tasks(folder):
    """Add the pass rates of two tasks: 250 prompts of code at half the rate of all."""
    path = folder / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows[1:]:
        row |= {
            "pass_rate_code": row["pass_rate"] / 2,
            "num_prompts_code": 250,
            "pass_rate_math": 0.5,
            "num_prompts_math": 750,
        }
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_the_curve_of_one_task(tmp_path, write_run, capsys):
    folder = with_tasks(write_run(tmp_path / "sweep" / "mixed"))
    write_run(tmp_path / "sweep" / "math_only")
    both, code = read_folder(folder), read_folder(folder, task="code")
    assert code.r0 == 0.15 and (code.num_samples == 250 * 16).all()
    np.testing.assert_allclose(code.pass_rate, both.pass_rate / 2)

    table = tmp_path / "table.parquet"
    pd.DataFrame(
        {"run": "a", "gpu_hours": both.compute, "pass_rate_code": code.pass_rate, "r0": 0.15}
    ).to_parquet(table)
    (run,), _ = read_input(table, task="code")
    assert (run.pass_rate == code.pass_rate).all()
    with pytest.raises(ValueError, match="has no pass_rate_maths; tasks there: code"):
        read_input(table, task="maths")

    assert main([str(tmp_path / "sweep"), "--task", "code", "--predict", "90"]) == 1
    out = tmp_path / "sweep" / "fits-code"
    (fitted,) = pd.read_csv(out / "fits.csv").itertuples()
    assert fitted.run == "mixed" and 0.2 < fitted.A < 0.4  # half of .6
    assert (
        len(list((out / "records").glob("*/prediction.json"))) == 1
        and not (folder / "prediction.json").exists()
    )
    assert re.search("math_only.* has no pass_rate_code; tasks there: none", capsys.readouterr().err)


def test_sweep_folders_are_named_by_their_path(tmp_path, write_run):
    for name in ("loss/cispo", "loss/dapo", "base"):
        write_run(tmp_path / name)
    runs, unreadable = read_input(tmp_path)
    assert [run.key for run in runs] == ["base", "loss/cispo", "loss/dapo"] and not unreadable
    assert [run.figure for run in runs] == ["", "loss", "loss"]


def test_a_sweep_names_axis_recipe_and_seed(tmp_path, write_run, capsys):
    for name in (
        "loss_type/loss_type-cispo-seed0",
        "loss_type/loss_type-cispo-seed1",
        "again/loss_type-cispo-seed0",
    ):
        write_run(tmp_path / name)
    runs, unreadable = read_input(tmp_path)
    assert [(run.figure, run.run, run.seed) for run in runs] == [
        ("loss_type", "cispo", "0"),
        ("loss_type", "cispo", "1"),
    ]
    assert [bad.run for bad in unreadable] == ["loss_type/loss_type-cispo-seed0"]
    assert "a second run of the name 'loss_type/cispo#0'" in unreadable[0].reason
    assert [run.key for run in read_input(tmp_path / "loss_type")[0]] == [
        "loss_type/cispo#0",
        "loss_type/cispo#1",
    ]


def test_a_live_run_may_end_in_a_torn_line(tmp_path, write_run):
    folder = write_run(tmp_path / "live")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "eval", "st')
    assert len(read_folder(folder).compute) == 25


def test_csv_and_parquet_agree(tmp_path, points):
    points.to_csv(tmp_path / "p.csv", index=False)
    points.to_parquet(tmp_path / "p.parquet")
    for one, other in zip(
        read_input(tmp_path / "p.csv")[0], read_input(tmp_path / "p.parquet")[0], strict=True
    ):
        assert one.key == other.key in ("loss/high", "loss/low")
        np.testing.assert_array_equal(one.compute, other.compute)
        assert one.fitted.tolist() == [True] * 21 + [False] * 3


def test_without_r0_the_first_row_is_r0(tmp_path, points):
    points.drop(columns=["r0", "figure", "split"]).to_csv(tmp_path / "p.csv", index=False)
    run = read_input(tmp_path / "p.csv")[0][0]
    assert run.r0 == pytest.approx(points.pass_rate[0]) and len(run.compute) == 23


def test_a_training_log_of_gpu_hours_and_accuracy_is_one_run(tmp_path, points):
    log = points[points.run == "high"][["gpu_hours", "pass_rate"]]
    log.rename(columns={"pass_rate": "accuracy"}).to_csv(tmp_path / "mine.csv", index=False)
    (run,), unreadable = read_input(tmp_path / "mine.csv")
    assert run.key == "mine" and run.r0 == log.pass_rate[0] and not unreadable
    np.testing.assert_array_equal(run.pass_rate, log.pass_rate[1:])


def test_steps_without_an_evaluation_are_left_out(tmp_path, points, capsys):
    """A log has a row a step, every fourth evaluated; a bad row is still named by its line in the file."""
    evaluated = points[points.run == "high"].reset_index(drop=True)
    log = pd.DataFrame(
        {"step": np.arange(96), "gpu_hours": np.linspace(1000, 17_000, 96), "reward": 0.1, "loss": 0.2}
    )
    log["pass_rate"] = pd.Series(evaluated.pass_rate.to_numpy(), index=4 * np.arange(24))
    log.to_csv(tmp_path / "training_log.csv", index=False)
    for axis, column in (("gpu_hours", "gpu_hours"), ("steps", "step")):
        (run,), _ = read_input(tmp_path / "training_log.csv", axis)
        np.testing.assert_array_equal(run.compute, log[column][4::4])
        np.testing.assert_allclose(run.pass_rate, evaluated.pass_rate[1:])
        assert run.r0 == pytest.approx(evaluated.pass_rate[0])
    assert main([str(tmp_path / "training_log.csv"), "--axis", "steps", "--out", str(tmp_path / "out")]) == 0
    assert pd.read_csv(tmp_path / "out" / "fits.csv").run.tolist() == ["training_log"]
    log.assign(pass_rate=log.pass_rate.where(log.step != 8, 1.7)).to_csv(tmp_path / "bad.csv", index=False)
    assert main([str(tmp_path / "bad.csv"), "--out", str(tmp_path / "out")]) == 2
    assert "bad.csv: line 10: pass_rate 1.7 is outside [0, 1]" in capsys.readouterr().err


def test_seeds_of_a_run_are_kept_apart(tmp_path, points):
    both = pd.concat([points.assign(seed=1), points.assign(seed=2)])
    both.to_csv(tmp_path / "p.csv", index=False)
    assert [run.key for run in read_input(tmp_path / "p.csv")[0]] == [
        "loss/high#1",
        "loss/low#1",
        "loss/high#2",
        "loss/low#2",
    ]


def set_value(row, column, value):
    def change(table):
        table[column] = table[column].astype(object)
        table.loc[row, column] = value
        return table

    return change


def samples(count):
    return lambda table: table.assign(
        num_prompts=np.where(table.run == "high", count, 1000), samples_per_prompt=16
    )


def swap(table):
    table.loc[[4, 5], "gpu_hours"] = table.loc[[5, 4], "gpu_hours"].to_numpy()
    return table


BAD = {
    "nan": (set_value(3, "pass_rate", np.nan), "line 5: pass_rate is nan, not a finite number"),
    "text": (set_value(3, "gpu_hours", "soon"), "line 5: gpu_hours is soon, not a finite number"),
    "text for a rate": (set_value(3, "pass_rate", "?"), "line 5: pass_rate is ., not a finite number"),
    "over one": (
        set_value(3, "pass_rate", 45.3),
        r"line 5: pass_rate 45.3 is outside \[0, 1\]; is it a percentage",
    ),
    "falls": (
        swap,
        "line 7: gpu_hours falls from .* to .*; sort the points, or tell two runs of the name 'high' apart",
    ),
    "duplicate": (
        set_value(5, "gpu_hours", 1000 + 4 * 15_000 / 23),
        "line 7: a second point at gpu_hours .* duplicates",
    ),
    "one point": (lambda table: table.iloc[[0, *range(24, 48)]], "1 points; a curve needs at least 4"),
    "split": (set_value(2, "split", "test"), "line 4: split 'test'; valid: fit, extrapolation"),
    "r0 differs": (set_value(2, "r0", 0.5), "2 values of r0; two runs of one name"),
    "r0 is a percentage": (
        lambda t: t.assign(r0=np.where(t.run == "high", 40.0, t.r0)),
        r"R0 = 40.0; it must lie in \[0, 1\)",
    ),
    "r0 is text": (set_value(2, "r0", "low"), "line 4: r0 is low, not a finite number: give it in every row"),
    "r0 is missing": (
        set_value(2, "r0", np.nan),
        "line 4: r0 is nan, not a finite number: give it in every row",
    ),
    "no samples": (samples(0), "num_prompts and samples_per_prompt must be above 0"),
    "endless samples": (samples(np.inf), "num_prompts and samples_per_prompt must be above 0"),
    "no split": (set_value(2, "split", np.nan), "line 4: split 'nan'; valid: fit, extrapolation"),
    "two runs of one name": (
        lambda table: pd.concat([table.iloc[:24], table]),
        "tell two runs of the name 'high' apart by a seed or figure column",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_run_is_reported_and_the_rest_fitted(name, tmp_path, points, capsys):
    change, message = BAD[name]
    change(points).to_csv(tmp_path / "p.csv", index=False)
    assert main([str(tmp_path / "p.csv"), "--out", str(tmp_path / "out")]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("error: loss/high: ")
    assert re.search(message, printed), printed
    assert pd.read_csv(tmp_path / "out" / "fits.csv").run.tolist() == ["low"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty; it needs the columns gpu_hours and pass_rate (or accuracy)"),
        ("run,gpu_hours,pass_rate\n", "has a header but no rows"),
        ("step,gpu_hours,pass_rate\n1,.5,\n2,1,\n", "no evaluation: pass_rate is empty in every row"),
        ("run,gpu_hours\nx,1\n", "has no column pass_rate (or accuracy); it has run, gpu_hours"),
        (
            "run,hours,pass_rate\nx,1,.5\n",
            "no column gpu_hours for the axis gpu_hours; there are run, hours, pass_rate",
        ),
    ],
)
def test_a_table_of_which_nothing_can_be_read(content, message, tmp_path, capsys):
    (tmp_path / "p.csv").write_text(content)
    assert main([str(tmp_path / "p.csv"), "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err


def test_cut_off_by_epochs_and_an_axis_the_paper_does_not_know(tmp_path, points, capsys):
    points.to_csv(tmp_path / "p.csv", index=False)
    points.assign(epoch=points.gpu_hours / 1500).to_csv(tmp_path / "e.csv", index=False)
    assert main([str(tmp_path / "e.csv"), "--out", str(tmp_path / "out"), "--min-epochs", "1"]) == 0
    assert (pd.read_csv(tmp_path / "out" / "fits.csv").window_start.between(1500, 2500)).all()
    assert main([str(tmp_path / "p.csv"), "--out", str(tmp_path / "out"), "--min-epochs", "1"]) == 2
    points.assign(epoch="one").to_csv(tmp_path / "t.csv", index=False)
    assert main([str(tmp_path / "t.csv"), "--out", str(tmp_path / "out"), "--min-epochs", "1"]) == 2
    assert capsys.readouterr().err.count("has no epoch in every row; cut off by compute") == 4
    assert (
        main(
            [str(tmp_path / "p.csv"), "--out", str(tmp_path / "o"), "--estimator", "paper", "--axis", "steps"]
        )
        == 2
    )
    message = "the estimator paper fits over gpu_hours only; over steps use default or least_squares"
    assert message in capsys.readouterr().err


def test_folders_of_which_nothing_can_be_read(tmp_path, write_run, capsys):
    assert main([str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 2
    assert main([str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "no metrics.jsonl below" in capsys.readouterr().err
    write_run(tmp_path / "short", num_points=3)
    write_run(tmp_path / "late")
    lines = (tmp_path / "late" / "metrics.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "late" / "metrics.jsonl").write_text("".join(lines[2:]))
    assert main([str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr().err
    assert "short: 4 evaluations; a curve needs R0 and at least 4 more: run longer" in printed
    assert "late: the first evaluation is of step 100; R0 must be measured at step 0" in printed


def test_a_path_that_is_not_there_says_what_to_give(tmp_path, capsys):
    assert main([str(tmp_path / "nowhere")]) == 2
    message = f"error: there is no {tmp_path}/nowhere: give a folder of runs, such as `make demo` makes"
    assert message in capsys.readouterr().err


def test_a_bad_evaluation_is_named(tmp_path, write_run, capsys):
    folder = write_run(tmp_path / "run")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rows[4]["pass_rate"] = 1.7
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main([str(folder), "--out", str(tmp_path / "out")]) == 2
    assert "evaluation 3: pass_rate 1.7 is outside [0, 1]" in capsys.readouterr().err


@pytest.mark.parametrize(
    "row", [{"pass_rate": None}, {"pass_rate": True}, {"step": "1"}, {"gpu_hours": [1]}, "text"]
)
def test_a_row_that_is_no_evaluation_is_named(row, tmp_path, write_run):
    good, bad = write_run(tmp_path / "good"), write_run(tmp_path / "bad")
    rows = [json.loads(line) for line in (bad / "metrics.jsonl").read_text().splitlines()]
    rows[4] = rows[4] | row if isinstance(row, dict) else row
    (bad / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    runs, unreadable = read_input(tmp_path)
    assert [run.folder for run in runs] == [good]
    assert f"{bad / 'metrics.jsonl'}: row 5" in unreadable[0].reason


@pytest.mark.parametrize(("column", "value"), [("split", "extrapolation"), ("gpu_hours", 2000.0)])
def test_r0_must_come_first(column, value, tmp_path, points):
    table = points.drop(columns="r0")
    table.loc[0, column] = value
    table.to_csv(tmp_path / "p.csv", index=False)
    runs, unreadable = read_input(tmp_path / "p.csv")
    assert [run.run for run in runs] == ["low"]
    assert "line 2: without a column r0 a run's first row is its R0" in unreadable[0].reason


def test_names_stay_as_they_are(tmp_path, points):
    points.run = points.run.replace({"high": "None", "low": "NA"})
    points.assign(seed="01").to_csv(tmp_path / "p.csv", index=False)
    assert [run.key for run in read_input(tmp_path / "p.csv")[0]] == ["loss/None#01", "loss/NA#01"]
    points.set_index(points.run).to_parquet(tmp_path / "p.parquet")
    assert len(read_input(tmp_path / "p.parquet")[0]) == 2


def test_seeds_of_plain_names(tmp_path, write_run):
    for name in ("demo-seed0", "demo-seed1", "a/axis-some-run-seed2"):
        write_run(tmp_path / name)
    assert [run.key for run in read_input(tmp_path)[0]] == ["axis/some-run#2", "demo#0", "demo#1"]
