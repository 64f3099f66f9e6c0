"""A sweep from files to tables, records and figures."""

import json
import os
import re
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest

from scalerl.curve.compare import Ranked
from scalerl.curve.estimators.prior import PUBLISHED
from scalerl.curve.sigmoid import Sigmoid
from scalerl.fits import fit_run, predict_run
from scalerl.fits.command import main
from scalerl.fits.fit_all import _known, fit_all, slug
from scalerl.fits.inputs import read_folder, read_input
from scalerl.fits.records import Options, fit_record, signature
from scalerl.fits.tables import ranking_row


def fit(path, out, **options):
    return fit_all(path, out, Options(**options))


def test_tables_of_a_figure(tmp_path, points):
    points.to_csv(tmp_path / "p.csv", index=False)
    out = tmp_path / "out"
    assert main([str(tmp_path / "p.csv"), "--out", str(out), "--predict", "30000"]) == 0
    fits = pd.read_csv(out / "fits.csv").set_index("run")
    assert fits.identified.all() and (fits.points == 21).all() and (fits.window_end < 15_000).all()
    assert fits.A["high"] == pytest.approx(0.62, abs=0.01) and fits.A["low"] == pytest.approx(0.55, abs=0.01)
    for name in ("R0", "A", "B", "C_mid"):
        assert (fits[f"{name}_lo90"] < fits[name]).all() and (fits[name] < fits[f"{name}_hi90"]).all()
    assert (fits.correlation_A_B < 0).all()
    predictions = pd.read_csv(out / "predictions.csv")
    assert list(predictions.columns[:2]) == ["figure", "run"] and len(predictions) == 8
    scored = predictions.dropna(subset="observed")
    assert len(scored) == 6 and set(scored.gpu_hours) == set(
        points.gpu_hours[points.split == "extrapolation"]
    )
    assert ((scored.lo90 < scored.observed) & (scored.observed < scored.hi90)).all()
    ranking = pd.read_csv(out / "ranking.csv")
    assert ranking.recipe.tolist() == ["high", "low"] and ranking.above_next[0] > 0.99
    pairs = pd.read_csv(out / "pairs.csv").set_index(["recipe", "other"]).ceiling_above
    assert pairs["high", "low"] > 0.99 > 0.01 > pairs["low", "high"]
    assert set(pd.read_csv(out / "alternatives.csv").family) >= {"sigmoid", "power_law"}
    windows = pd.read_csv(out / "windows.csv")
    assert windows.num_points.tolist() == [21, 16, 15] * 2 and windows.identified.all()
    assert (
        windows.a[0] == fits.A["high"] and windows.a_lo90[0] == fits.A_lo90["high"]
    )  # the run's own estimator
    for name in (slug("loss/high"), slug("loss/low"), f"axis_{slug('loss')}"):
        assert (out / "figures" / f"{name}.png").read_bytes()[:4] == b"\x89PNG"


def test_extrapolation_points_are_never_fitted(tmp_path, points):
    """Moving them moves no parameter."""
    points.to_csv(tmp_path / "p.csv", index=False)
    points.loc[points.split == "extrapolation", "pass_rate"] -= 0.1
    points.to_csv(tmp_path / "moved.csv", index=False)
    one, other = (read_input(tmp_path / name)[0] for name in ("p.csv", "moved.csv"))
    for estimator in ("default", "paper", "least_squares"):
        for run, moved in zip(one, other, strict=True):
            options = Options(estimator=estimator)
            kept, changed = fit_record(run, options), fit_record(moved, options)
            assert kept.curve == changed.curve and kept.bounds == changed.bounds
            assert [p["observed"] for p in kept.predictions] != [p["observed"] for p in changed.predictions]


def test_paper_drops_the_first_epoch_and_stays_on_its_grid(tmp_path, points):
    points.to_csv(tmp_path / "p.csv", index=False)
    for record in fit(tmp_path / "p.csv", tmp_path / "out", estimator="paper").records:
        assert record.window[0] >= 1500
        assert record.curve["a"] == pytest.approx(round(record.curve["a"] / 0.005) * 0.005)
    cut = fit(tmp_path / "p.csv", tmp_path / "cut", min_compute=3000.0, max_compute=12_000.0).records[0]
    assert cut.window[0] >= 3000 and cut.window[1] <= 12_000


def test_only_what_changed_is_fitted_again(tmp_path, write_run):
    for name in ("loss/cispo", "loss/dapo"):
        write_run(tmp_path / "sweep" / name)
    out = tmp_path / "out"
    assert fit(tmp_path / "sweep", out).num_fitted == 2
    before = {path.name: path.stat().st_mtime_ns for path in (out / "figures").iterdir()}
    assert fit(tmp_path / "sweep", out).num_fitted == 0
    write_run(tmp_path / "sweep" / "loss" / "dapo", end=80.0)
    again = fit(tmp_path / "sweep", out)
    assert again.num_fitted == 1 and len(again.records) == 2
    after = {path.name: path.stat().st_mtime_ns for path in (out / "figures").iterdir()}
    assert {name for name in after if after[name] != before[name]} == {
        f"{slug('loss/dapo')}.png",
        f"axis_{slug('loss')}.png",
    }
    assert fit(tmp_path / "sweep", out, estimator="least_squares").num_fitted == 2


def test_seeds_of_a_sweep_are_pooled(tmp_path, write_run):
    for seed in range(3):
        write_run(tmp_path / "sweep" / f"loss_type-cispo-seed{seed}", a=0.6 + 0.008 * seed, seed=seed)
        write_run(tmp_path / "sweep" / f"loss_type-dapo-seed{seed}", a=0.5 + 0.008 * seed, seed=seed)
    fit(tmp_path / "sweep", tmp_path / "out")
    ranking = pd.read_csv(tmp_path / "out" / "ranking.csv").set_index("recipe")
    assert ranking.num_seeds.tolist() == [3, 3] and ranking["rank"].to_dict() == {"cispo": 1, "dapo": 2}
    assert ranking.a["cispo"] == pytest.approx(0.608, abs=0.008)
    assert len(pd.read_csv(tmp_path / "out" / "fits.csv")) == 6


def test_a_ceiling_that_is_not_identified_is_not_printed(tmp_path, write_run, capsys):
    write_run(tmp_path / "young", c_mid=200.0)
    assert main([str(tmp_path / "young"), "--out", str(tmp_path / "out")]) == 0
    row = pd.read_csv(tmp_path / "out" / "fits.csv").iloc[0]
    assert not row.identified and np.isnan(row.A) and np.isnan(row.B)
    assert row.A_hi90 - row.A_lo90 > 0.1 and row.needed_compute > 60
    assert "not yet identified: " in capsys.readouterr().out


@pytest.mark.parametrize("estimator", ["default", "paper", "least_squares"])
def test_no_estimator_prints_a_ceiling_that_no_bend_shows(estimator, tmp_path, points):
    """Neither in fits.csv nor, where only a part of the window shows none, in windows.csv."""
    compute = np.linspace(300.0, 6000.0, 20)
    young, seen = (Sigmoid(r0=0.4, a=0.6, b=2.0, c_mid=c)(compute) for c in (9000.0, 1500.0))
    tables = [
        pd.DataFrame(dict(run=n, gpu_hours=compute, pass_rate=p, r0=0.4))
        for n, p in (("young", young), ("seen", seen))
    ]
    noise = np.random.default_rng(0).normal(0, 0.0035, 40)
    pd.concat(tables).assign(pass_rate=lambda table: table.pass_rate + noise).to_csv(
        tmp_path / "p.csv", index=False
    )
    fit(tmp_path / "p.csv", tmp_path / "out", estimator=estimator, min_compute=0.0)
    fits = pd.read_csv(tmp_path / "out" / "fits.csv").set_index("run")
    assert fits.identified.to_dict() == {"young": False, "seen": True}
    assert (
        fits.loc["young", ["A", "B", "C_mid"]].isna().all()
        and fits.loc["seen", ["A", "B", "C_mid"]].notna().all()
    )
    assert fits.loc["young", ["A_lo90", "A_hi90", "reason"]].notna().all()
    windows = pd.read_csv(tmp_path / "out" / "windows.csv")
    assert (windows.run == "young").sum() == 3 and (windows.a.notna() == windows.identified).all()
    assert not windows.identified[windows.run == "young"].any() and windows.a_hi90.notna().all()


def test_figures_of_runs_that_are_gone_go_too(tmp_path, write_run):
    for name in ("loss/cispo", "loss/dapo", "base"):
        write_run(tmp_path / "sweep" / name)
    fit(tmp_path / "sweep", tmp_path / "out")
    figures = tmp_path / "out" / "figures"
    (figures / "mine.png").write_bytes(b"")
    (tmp_path / "sweep" / "loss" / "dapo" / "metrics.jsonl").unlink()
    fit(tmp_path / "sweep", tmp_path / "out")
    assert {path.name for path in figures.iterdir()} == {
        f"{slug('base')}.png",
        f"{slug('loss/cispo')}.png",
        "mine.png",
    }


def test_a_prediction_is_written_once_and_scored_after_the_extension(tmp_path, write_run, capsys):
    folder = write_run(tmp_path / "run", end=40.0)
    command = [str(folder), "--out", str(tmp_path / "out"), "--predict", "80,120"]
    assert main(command) == 0
    written = (folder / "prediction.json").read_bytes()
    content = json.loads(written)
    assert [p["compute"] for p in content["predictions"]] == [80, 120] and content["window"][1] == 40
    assert (
        not (tmp_path / "out" / "scores.csv").exists()
        or pd.read_csv(tmp_path / "out" / "scores.csv").observed.isna().all()
    )
    write_run(folder, end=100.0, num_points=50)
    assert main(command) == 0
    assert (folder / "prediction.json").read_bytes() == written
    scores = pd.read_csv(tmp_path / "out" / "scores.csv").set_index("compute")
    # the curve at 80 with C_mid 10, B 2: .3 + .3 / (1 + 1/64) = .5954
    assert scores.observed[80] == pytest.approx(0.5954, abs=0.01) and scores.hit[80]
    assert scores.error[80] == pytest.approx(scores.observed[80] - scores.predicted[80], abs=1e-5)
    assert np.isnan(scores.observed[120])
    assert "inside" in capsys.readouterr().out


def test_a_farther_target_adds_a_file_and_none_is_predicted_twice(tmp_path, write_run):
    folder = write_run(tmp_path / "run", end=40.0)
    command = [str(folder), "--out", str(tmp_path / "out"), "--predict"]
    assert main([*command, "80"]) == 0
    first = (folder / "prediction.json").read_bytes()
    write_run(folder, end=75.0)
    assert main([*command, "80,120"]) == 0
    second = json.loads((folder / "prediction-2.json").read_text())
    assert [p["compute"] for p in second["predictions"]] == [120] and second["window"][1] == 75
    assert main([*command, "80,120"]) == 0 and (folder / "prediction.json").read_bytes() == first
    assert sorted(path.name for path in folder.glob("prediction*")) == [
        "prediction-2.json",
        "prediction.json",
    ]
    scores = pd.read_csv(tmp_path / "out" / "scores.csv").set_index("compute")
    assert scores.foretold_at.to_dict() == {80: 40, 120: 75}
    # 75 is within 10 % of 80: the run's budget ended it there, and its last evaluation is held against the
    # curve at 75
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])["pass_rate"]
    assert scores.observed[80] == pytest.approx(last, abs=1e-12) and np.isnan(scores.observed[120])
    written = json.loads(first)
    curve, target = Sigmoid(**written["curve"]), written["predictions"][0]
    moved = float(curve(80) - curve(75))
    assert moved > 1e-4
    for name in ("predicted", "lo90", "hi90"):
        assert scores[name][80] == pytest.approx(target[name] - moved, abs=1e-9)


def test_two_writers_of_one_target_leave_one_file(tmp_path, write_run, monkeypatch):
    """The other writer comes between the look into the folder and the writing."""
    folder = write_run(tmp_path / "run")
    link, rivals = os.link, [(80.0, 90.0)]

    def slow_link(source, target):
        if rivals:
            predict_run(folder, rivals.pop())
        link(source, target)

    monkeypatch.setattr("scalerl.common.files.os.link", slow_link)
    assert predict_run(folder, (80.0,)) is None
    assert [path.name for path in folder.glob("prediction*")] == ["prediction.json"]


def test_fit_run_and_predict_run(tmp_path, write_run):
    folder = write_run(tmp_path / "demo", num_points=12)
    result = fit_run(folder)
    assert result.run == "demo" and result.num_points == 12
    assert json.loads((folder / "fit.json").read_text())["identified"] == result.identified
    assert (folder / "curve.png").read_bytes()[:4] == b"\x89PNG"
    young = fit_run(write_run(tmp_path / "young", c_mid=300.0, num_points=12))
    assert "not yet identified" in str(young) and young.needed_compute > 60
    assert (
        predict_run(folder, (100.0,)) == folder / "prediction.json" and predict_run(folder, (100.0,)) is None
    )
    with pytest.raises(ValueError, match="no target lies beyond the last point, 60"):
        predict_run(write_run(tmp_path / "other"), (50.0,))


def test_file_names_of_different_runs_differ():
    names = ["a/b", "a_b", "a b", "a:b", "ä", "a+b", ".", "..", "", "x" * 300, "x" * 301]
    assert len({slug(name) for name in names}) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,120}", slug(name)) for name in names)
    assert slug("fig1/8B 100k").startswith("fig1_8B_100k-")


def test_an_interrupted_call_leaves_no_stale_figure(tmp_path, write_run, monkeypatch):
    folder, out = write_run(tmp_path / "run"), tmp_path / "out"
    fit(folder, out)
    figure = out / "figures" / f"{slug('run')}.png"
    before = figure.read_bytes()
    write_run(folder, end=80.0)
    with monkeypatch.context() as patched:
        patched.setattr("scalerl.fits.fit_all._draw", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            fit(folder, out)
    fit(folder, out)
    assert figure.read_bytes() != before


def test_predictions_that_cannot_be_scored(tmp_path, write_run, capsys):
    for name in ("good", "other", "torn"):
        write_run(tmp_path / "sweep" / name)
    command = [str(tmp_path / "sweep"), "--out", str(tmp_path / "out"), "--predict"]
    assert main([*command, "80"]) == 0
    path = tmp_path / "sweep" / "other" / "prediction.json"
    path.write_text(path.read_text().replace("gpu_hours", "tokens"))
    (tmp_path / "sweep" / "torn" / "prediction.json").write_text("[]")
    assert main(command[:-1]) == 1
    printed = capsys.readouterr().err
    assert (
        "error: other: " in printed and "predicts over tokens" in printed and "holds no prediction" in printed
    )
    assert len(pd.read_csv(tmp_path / "out" / "fits.csv")) == 3
    assert pd.read_csv(tmp_path / "out" / "scores.csv").key.tolist() == ["good"]


@pytest.mark.parametrize("content", ["", "{", "[1]", "{}", '["x"]', '[{"signature": []}]', "null", "[{}]"])
def test_a_broken_record_is_nothing_known(content, tmp_path):
    (tmp_path / "fits.json").write_text(content)
    assert _known(tmp_path / "fits.json") == {}


def test_arguments_that_cannot_be_met(tmp_path, write_run, capsys):
    folder = str(write_run(tmp_path / "run"))
    (tmp_path / "file").write_text("")
    assert main([folder, "--out", str(tmp_path / "file")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert main([folder, "--max-compute", "0"]) == 2
    assert "--max-compute 0 leaves nothing to fit" in capsys.readouterr().err
    assert main([folder, "--estimator", "paper"]) == 2
    assert "drops points before 1500 GPU-hours; --min-compute 0 keeps them" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([folder, "--predict", "abc"])
    assert "'abc' is not compute above 0" in capsys.readouterr().err


def test_signature_holds_prior_and_name(tmp_path, write_run, monkeypatch):
    run = read_folder(write_run(tmp_path / "run"))
    signatures = {signature(run, Options()), signature(replace(run, figure="a"), Options())}
    signatures |= {signature(replace(run, run="a/run"), Options())}
    monkeypatch.setattr("scalerl.fits.records.PUBLISHED", replace(PUBLISHED, drift=0.005))
    assert len(signatures | {signature(run, Options())}) == 4


def test_a_ranking_gives_no_number_for_a_ceiling_nobody_has_seen():
    seen = Ranked(
        rank=1, recipe="x", num_seeds=1, identified=True, a=0.6, a_lo90=0.59, a_hi90=0.61, tier=1,
        common_a=0.6, b=2.0, b_lo90=1.5, b_hi90=2.5, slope=2.0, above_next=None,
    )  # fmt: skip
    assert ranking_row(seen)["a"] == 0.6
    unseen = ranking_row(replace(seen, identified=False))
    assert [unseen[name] for name in ("a", "common_a", "b", "slope")] == [None] * 4
    assert (unseen["a_lo90"], unseen["a_hi90"]) == (0.59, 0.61)
