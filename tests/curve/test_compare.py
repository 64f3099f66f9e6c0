"""Ranking by the paper's rules, with hand-worked probabilities."""

from dataclasses import replace

import numpy as np
import pytest

from scalerl.curve.compare import (
    NUM_QUANTILES,
    PAPER_MARGIN,
    SEED_SD,
    Recipe,
    linearised_slope,
    margin,
    pairs,
    probability_above,
    quantiles,
    rank,
    seed_sd,
)
from scalerl.curve.sigmoid import Sigmoid
from scalerl.curve.window import Window

COMPUTE = np.linspace(800.0, 12_000.0, 40)


def recipe(name, a=0.6, b=2.0, seeds=1, a_sd=0.004, shift=(0.0, 0.0, 0.0)) -> Recipe:
    """A recipe whose seeds lie exactly on their curves; A known to `a_sd`."""
    curves = [Sigmoid(r0=0.4, a=a + shift[i], b=b, c_mid=2500.0) for i in range(seeds)]
    windows = [Window(compute=COMPUTE, pass_rate=curve(COMPUTE), r0=0.4) for curve in curves]
    spread = np.random.default_rng(1).normal(0, a_sd, 20_000)
    return Recipe(
        name=name, windows=windows, a_quantiles=[quantiles(c.a + spread) for c in curves], identified=True
    )


def test_probability_counts_pairs_and_splits_ties():
    # of the 3 x 2 pairs (1,0) (2,0) (3,0) (3,2) are above, (2,2) ties, (1,2) is below: 4.5 / 6
    assert probability_above(np.array([1.0, 2.0, 3.0]), np.array([2.0, 0.0])) == pytest.approx(0.75)


def test_quantiles_stand_for_the_draws():
    draws = np.random.default_rng(0).normal(0.6, 0.01, 50_000)
    values = quantiles(draws)
    assert len(values) == NUM_QUANTILES
    assert values.mean() == pytest.approx(0.6, abs=2e-4) and values.std() == pytest.approx(0.01, rel=0.03)


def test_pair_probability_is_that_of_two_normals():
    """A .61 and .60, each +-.004 of fit and .0075 between seeds: P = Phi(.01 / (.0085 sqrt 2)) = .797."""
    (above, below) = pairs([recipe("one", a=0.61), recipe("two", a=0.60)])
    assert above.ceiling_above == pytest.approx(0.797, abs=0.012)
    assert above.ceiling_above + below.ceiling_above == pytest.approx(1.0, abs=0.02)


def test_within_the_margin_b_decides():
    rows = rank([recipe("slow", a=0.61, b=1.5), recipe("quick", a=0.60, b=2.2), recipe("low", a=0.55, b=4.0)])
    assert [row.recipe for row in rows] == ["quick", "slow", "low"]
    assert [row.tier for row in rows] == [1, 1, 2]
    assert rows[0].common_a == pytest.approx(0.605, abs=1e-3)
    assert rows[0].slope > 1.9 > rows[1].slope > 1.4
    assert rows[0].b > 2.0 > rows[1].b and rows[0].above_next > 0.95
    assert rows[1].above_next > 0.99  # .61 against .55, a tier apart
    assert rows[2].above_next is None


def test_two_seeds_that_happen_to_agree_do_not_end_the_margin():
    assert margin([recipe("lucky", seeds=2), recipe("one")]) > 0.013


def test_equal_recipes_are_seldom_told_apart():
    """Noise with the wander of real runs: P > .95 for one of two equal recipes about as often as it says, 1
    in 10."""
    rng = np.random.default_rng(1)
    covariance = np.exp(-np.abs(np.subtract.outer(np.log(COMPUTE), np.log(COMPUTE))) / 0.3) + 1e-9 * np.eye(
        len(COMPUTE)
    )
    wander = 0.0055 * np.linalg.cholesky(covariance)
    curve = Sigmoid(r0=0.4, a=0.6, b=1.9, c_mid=2600.0)

    def noisy(name) -> Recipe:
        points = (
            curve(COMPUTE)
            + 0.0035 * rng.standard_normal(len(COMPUTE))
            + wander @ rng.standard_normal(len(COMPUTE))
        )
        window = Window(compute=COMPUTE, pass_rate=points, r0=0.4 + 0.0035 * rng.standard_normal())
        a_quantiles = [quantiles(rng.normal(0.6, 0.005, 5000))]
        return Recipe(name=name, windows=[window], a_quantiles=a_quantiles, identified=True)

    claims = sum(rank([noisy("one"), noisy("two")])[0].above_next > 0.95 for _ in range(30))
    assert claims <= 7  # the 99 % quantile of 30 throws at 1 in 10


def test_beyond_the_margin_the_ceiling_decides():
    rows = rank([recipe("quick", a=0.57, b=3.0), recipe("high", a=0.60, b=1.5)])
    assert [(row.recipe, row.tier) for row in rows] == [("high", 1), ("quick", 2)]


def test_seeds_are_pooled_and_give_the_margin():
    """Seeds at A -.01, 0, +.01 have sd .01, two degrees of freedom beside the paper's .0075 with four:
    sqrt(.000425 / 6)."""
    pooled = recipe("three", seeds=3, shift=(-0.01, 0.0, 0.01))
    assert seed_sd([pooled]) == pytest.approx(0.008416, rel=1e-3)
    assert margin([pooled, recipe("one")]) == pytest.approx(0.01683, rel=1e-3)
    assert margin([recipe("one"), recipe("two")]) == PAPER_MARGIN and seed_sd([recipe("one")]) == SEED_SD
    row = rank([pooled, recipe("low", a=0.5)])[0]
    # sd of the pooled ceiling: sqrt((.008416^2 + .004^2) / 3) = .00538
    assert (row.a_hi90 - row.a_lo90) / 2 == pytest.approx(1.645 * 0.00538, rel=0.05)
    assert row.num_seeds == 3 and row.a == pytest.approx(0.6, abs=1e-3)


def test_slope_of_the_linearised_form_is_b():
    window = recipe("one", a=0.605, b=1.82).windows[0]
    assert linearised_slope(window, 0.605) == pytest.approx(1.82, abs=1e-9)
    above = replace(window, pass_rate=np.where(COMPUTE > 11_000, 0.61, window.pass_rate))
    assert linearised_slope(above, 0.605) == pytest.approx(1.82, abs=1e-9)  # no F at or above the ceiling
    assert linearised_slope(window, 0.41) is None
