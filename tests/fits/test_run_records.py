"""Runs unlike any published one: every one gets a record that can be written, drawn and compared, without a
warning."""

import json
import warnings
from dataclasses import asdict
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalerl.curve.estimators import ESTIMATORS
from scalerl.fits.drawing import MAX_LEGEND, draw_run, draw_together, save
from scalerl.fits.points import RunPoints
from scalerl.fits.records import Options, RunRecord, fit_record
from scalerl.fits.tables import compare, fit_rows, nested_rows, prediction_rows, ranking_row

SHAPES = {
    "falling": lambda u: 0.8 - 0.7 * u,
    "never right": lambda u: 0 * u,
    "always right": lambda u: 0 * u + 1,
    "constant": lambda u: 0 * u + 0.4,
    "step up": lambda u: np.where(u < 0.4, 0.1, 0.9),
    "step down": lambda u: np.where(u < 0.4, 0.9, 0.1),
    "last only": lambda u: np.where(u < 1, 0.0, 1.0),
    "first only": lambda u: np.where(u > 0, 0.0, 1.0),
    "zigzag": lambda u: np.arange(len(u)) % 2.0,
    "line": lambda u: u,
    "late": lambda u: u**8,
    "all but constant": lambda u: 0.4 + 1e-12 * u,
    "peak": lambda u: 0.5 + 0.4 * np.sin(3 * u),
    "sigmoid": lambda u: 0.4 + 0.2 / (1 + np.exp(-8 * (u - 0.4))),
}
SPACINGS = {
    "even": lambda n: np.arange(1.0, n + 1),
    "decades": lambda n: np.geomspace(1, 1e12, n),
    "close": lambda n: 1 + 1e-9 * np.arange(n),
    "closer": lambda n: 1 + 1e-13 * np.arange(n),
    "one far off": lambda n: np.append(1e-6, 1 + 1e-6 * np.arange(1, n)),
}


def record(
    shape: str,
    spacing: str,
    n: int,
    unit: float = 1.0,
    r0: float = 0.4,
    estimator: str = "default",
    answers: float = 16.0,
):
    compute = unit * SPACINGS[spacing](n)
    place = np.log(compute / compute[0]) / np.log(compute[-1] / compute[0])
    points = RunPoints(
        figure="all",
        run=f"{shape} {spacing} {n}",
        seed="",
        compute=compute,
        pass_rate=np.clip(SHAPES[shape](place), 0, 1),
        fitted=np.arange(n) < max(n - 2, 4),
        num_samples=np.full(n, answers),
        epoch=None,
        r0=r0,
        folder=None,
    )
    return fit_record(
        points, Options(estimator=estimator, min_compute=0.0, predict=(compute[0] / 100, 100 * compute[-1]))
    )


def assert_sound(made: RunRecord) -> None:
    json.dumps(asdict(made), allow_nan=False)
    for rows in (
        fit_rows([made]),
        prediction_rows([made]),
        *(nested_rows([made], n) for n in ("alternatives", "windows")),
    ):
        assert all(np.isfinite(value) for row in rows for value in row.values() if isinstance(value, float))
    assert all(low <= high for low, high in made.bounds.values())
    assert made.bounds["a"][0] >= 0 and made.bounds["a"][1] <= 1
    assert all(p["lo90"] <= p["predicted"] <= p["hi90"] for p in made.predictions)
    assert made.identified == (made.reason == "") and abs(made.correlation_ab) <= 1 + 1e-9


@settings(max_examples=120, deadline=None)
@given(
    shape=st.sampled_from(sorted(SHAPES)),
    spacing=st.sampled_from(sorted(SPACINGS)),
    n=st.sampled_from([4, 5, 8, 20, 70]),
    unit=st.sampled_from([1e-9, 1.0, 1e12, 1e25]),
    r0=st.sampled_from([0.0, 1e-12, 0.4, 0.999, 1 - 1e-12]),
    estimator=st.sampled_from(sorted(ESTIMATORS)),
    answers=st.sampled_from([1.0, 16_000.0, 1e9]),
)
def test_any_run_makes_a_sound_record(shape, spacing, n, unit, r0, estimator, answers):
    """Windows of over 60 points are coarsened here, real ones of over 400: the same steps, much sooner."""
    n = min(n, 12) if estimator == "paper" else n  # its cost is that of its grid times the points
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patched:
        warnings.simplefilter("error")
        patched.setattr("scalerl.curve.estimators.posterior.MAX_POINTS", 60)
        assert_sound(record(shape, spacing, n, unit, r0, estimator, answers))


@pytest.mark.parametrize("spacing", ["decades", "closer", "one far off"])
def test_a_run_of_450_points_makes_a_sound_record(spacing):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_sound(record("sigmoid", spacing, 450, answers=16_000.0))


def test_runs_of_every_shape_are_compared_and_drawn(tmp_path):
    spacings = ("even", "decades", "closer")
    pairs = product(enumerate(SHAPES), enumerate(spacings))
    records = [record(shape, spacing, 12) for (i, shape), (j, spacing) in pairs if (i + j) % 3]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ranked, paired = compare(records)
        together = draw_together("all", records)
        save(tmp_path / "axis.png", together)
        save(tmp_path / "run.png", draw_run(records[0]))
    rows = [ranking_row(row) for row in ranked["all"]]
    assert len(rows) == len(records) > MAX_LEGEND
    assert all(np.isfinite(value) for row in rows for value in row.values() if isinstance(value, float))
    assert all(0 <= pair.ceiling_above <= 1 for pair in paired["all"])
    assert len(together.axes[0].get_legend().get_texts()) == MAX_LEGEND


@pytest.mark.parametrize("shape", sorted(set(SHAPES) - {"sigmoid", "step up"}))
def test_no_ceiling_where_there_is_none(shape):
    for estimator in ESTIMATORS:
        made = record(shape, "decades", 30, estimator=estimator, answers=16_000.0)
        assert not made.identified, made.curve


def test_numbers_on_the_compute_axis_do_not_run_into_each_other():
    picture = draw_run(record("sigmoid", "even", 5, unit=0.2))
    picture.canvas.draw()
    axis = picture.axes[0].xaxis
    boxes = [label.get_window_extent() for label in axis.get_ticklabels(which="both") if label.get_text()]
    low, high = picture.axes[0].bbox.intervalx
    boxes = sorted((box.x0, box.x1) for box in boxes if low <= (box.x0 + box.x1) / 2 <= high)
    assert len(boxes) >= 3
    assert all(left[1] < right[0] for left, right in pairwise(boxes))
