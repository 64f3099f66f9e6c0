"""A window without a bend must never yield a confident ceiling; other families are told apart."""

import numpy as np
import pytest

from scalerl.curve.alternatives import FAMILIES, compare_families
from scalerl.curve.fit import fit_curve
from scalerl.curve.identification import Identification
from scalerl.curve.sigmoid import Sigmoid
from scalerl.curve.window import Window


def window(curve, compute, seed=0, scatter=0.0035, r0=0.4) -> Window:
    noise = np.random.default_rng(seed).normal(0, scatter, len(compute))
    return Window(compute=compute, pass_rate=np.clip(curve(compute) + noise, 0, 1), r0=r0)


@pytest.mark.parametrize(("end", "share"), [(0.4, 0.4), (0.7, 0.4), (1.0, 1.0)])
@pytest.mark.parametrize(("estimator", "seeds"), [("default", 40), ("least_squares", 40), ("paper", 12)])
def test_before_c_mid_nothing_is_identified(end, share, estimator, seeds):
    """C_mid itself is the hardest end and has most seeds; well before it, not one run may be identified."""
    identified, seeds = 0, round(share * seeds)
    for seed in range(seeds):
        b = (1.2, 1.7, 2.0, 2.6)[seed % 4]
        curve = Sigmoid(r0=0.4, a=0.62, b=b, c_mid=5000.0)
        fit = fit_curve(window(curve, np.linspace(500, 5000 * end, 30), seed), estimator)
        identified += fit.identification.identified
    assert identified <= (end == 1.0)


def test_reason_and_way_out_are_given():
    curve = Sigmoid(r0=0.4, a=0.62, b=1.8, c_mid=10_000.0)
    found = fit_curve(window(curve, np.linspace(500, 4000, 20))).identification
    assert not found.identified
    assert "before C_mid" in found.reason and "no bend" in found.reason
    assert found.needed_compute is not None and found.needed_compute > 10_000


def test_the_compute_asked_for_identifies_most_runs():
    done = []
    for seed in range(30):
        curve = Sigmoid(r0=0.4, a=0.6, b=1.9, c_mid=4000.0)
        found = fit_curve(window(curve, np.arange(400, 4400, 200.0), seed)).identification
        if found.needed_compute is not None:
            longer = np.arange(400, found.needed_compute, 200.0)
            done.append(fit_curve(window(curve, longer, 100 + seed)).identification.identified)
    assert len(done) > 20 and np.mean(done) > 0.8


def test_a_bend_that_is_seen_is_identified():
    fit = fit_curve(window(Sigmoid(r0=0.4, a=0.6, b=2.0, c_mid=2500.0), np.linspace(1000, 15_000, 40)))
    assert fit.identification == Identification(identified=True, reason="", needed_compute=None)
    assert fit.curve.a == pytest.approx(0.6, abs=0.01)


def test_another_law_is_not_taken_for_a_sigmoid():
    """A power law with its ceiling at .70, far above the sigmoid that fits it best."""
    for seed in range(5):
        fit = fit_curve(window(lambda c: 0.7 - 0.3 * (c / 1000) ** -0.5, np.linspace(1200, 16_000, 75), seed))
        assert not fit.identification.identified
        assert "power_law fits better" in fit.identification.reason
        assert fit.identification.needed_compute is None


def test_a_run_that_collapses_in_its_window_has_no_ceiling():
    rising = Sigmoid(r0=0.4, a=0.61, b=2.0, c_mid=2500.0)
    fit = fit_curve(
        window(lambda c: rising(c) - np.maximum(0.0, c - 9000) * 2e-5, np.linspace(1000, 16_000, 75))
    )
    assert not fit.identification.identified
    assert "do not follow a sigmoid" in fit.identification.reason


def test_no_gain_and_a_ceiling_at_one_are_named():
    flat = fit_curve(window(lambda c: np.full(len(c), 0.4), np.linspace(500, 5000, 20))).identification
    assert "no gain" in flat.reason
    compute = np.linspace(500, 5000, 20)
    steep = fit_curve(window(lambda c: 0.4 + 0.55 * (c / 5000) ** 1.5, compute)).identification
    assert not steep.identified and "bound 1" in steep.reason
    falling = fit_curve(window(lambda c: 0.4 - 0.1 * c / 5000, compute)).identification
    assert not falling.identified and "no gain" in falling.reason


def test_few_points_show_no_bend():
    """Five points and a sigmoid of four free numbers: it fits, and that says nothing."""
    curve = Sigmoid(r0=0.4, a=0.6, b=2.0, c_mid=2500.0)
    for estimator in ("default", "least_squares"):
        short = fit_curve(window(curve, np.geomspace(1000, 15_000, 5)), estimator).identification
        assert not short.identified and "5 points are too few to show a bend" in short.reason
    assert fit_curve(window(curve, np.geomspace(1000, 15_000, 12))).identification.identified


def test_a_run_that_ends_below_a_measured_r0_has_no_gain():
    """R0 = .9 by few answers, then a fall: the posterior may put R0 lower, the gain is not there all the
    same."""
    falling = Window(
        compute=np.geomspace(1, 4, 6),
        pass_rate=np.array([0.9, 0.9, 0.9, 0.1, 0.1, 0.1]),
        r0=0.9,
        num_samples=1.0,
    )
    found = fit_curve(falling).identification
    assert not found.identified and "no gain over R0" in found.reason


def test_what_the_points_do_not_tell_is_uncertain():
    """All points on the ceiling: least squares fits them exactly enough, and knows neither B nor C_mid."""
    flat = window(lambda c: np.full(len(c), 0.6), np.linspace(5000, 20_000, 30))
    fit = fit_curve(flat, "least_squares")
    low, high = fit.parameters.interval("c_mid")
    assert high / low > 100 and not fit.identification.identified


EXACT = {
    "sigmoid": Sigmoid(r0=0.4, a=0.6, b=2.2, c_mid=2500.0),
    "power_law": lambda c: 0.6 - 12.0 / c**0.6,
    "stretched_exponential": lambda c: 0.4 + 0.2 * (1 - np.exp(-((c / 2500) ** 1.2))),
    "no_ceiling": lambda c: 0.4 + 1e-3 * c**0.55,
    "logarithm": lambda c: 0.1 + 0.05 * np.log(c),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_wins_on_its_own_points(family):
    fits = compare_families(window(EXACT[family], np.geomspace(800, 20_000, 60), scatter=0.001))
    assert fits[0].family == family
    assert fits[0].rmse == pytest.approx(0.001, rel=0.25)
    if family in ("sigmoid", "power_law", "stretched_exponential"):
        assert fits[0].ceiling == pytest.approx(0.6, abs=0.01)
    else:
        assert fits[0].ceiling is None


def test_information_criteria_are_the_textbook_ones():
    """n log(SSE / n) + 2 k and + k log n, with k = 4 for the sigmoid (A, B, C_mid, scatter)."""
    fits = {
        fit.family: fit for fit in compare_families(window(EXACT["sigmoid"], np.geomspace(800, 20_000, 20)))
    }
    sigmoid = fits["sigmoid"]
    assert sigmoid.aic == pytest.approx(20 * np.log(sigmoid.rmse**2) + 8)
    assert sigmoid.bic - sigmoid.aic == pytest.approx(4 * (np.log(20) - 2))
    assert fits["logarithm"].bic - fits["logarithm"].aic == pytest.approx(3 * (np.log(20) - 2))
