"""The law and its least-squares fits, against hand-worked numbers and scipy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import least_squares

from scalerl.curve.estimators.least_squares import fit_least_squares
from scalerl.curve.estimators.paper import MIN_GPU_HOURS, fit_paper
from scalerl.curve.sigmoid import Sigmoid
from scalerl.curve.window import Window

COMPUTE = np.geomspace(500.0, 20_000.0, 30)


def test_half_the_gain_is_reached_at_c_mid():
    curve = Sigmoid(r0=0.4, a=0.6, b=2.0, c_mid=1000.0)
    # (1000 / 2000)^2 = 1/4 -> 1 / (1 + 1/4) = .8 of the gain; 3 * c_mid: 1 / (1 + 1/9) = .9
    np.testing.assert_allclose(curve([1000.0, 2000.0, 3000.0]), [0.5, 0.56, 0.58], atol=1e-12)


@given(
    a=st.floats(0.45, 0.95),
    b=st.floats(0.7, 5.0),
    c_mid=st.floats(800.0, 12_000.0),
    r0=st.floats(0.0, 0.4),
    unit=st.sampled_from([1e-6, 1.0, 1e15]),
)
def test_least_squares_recovers_an_exact_curve_in_any_unit(a, b, c_mid, r0, unit):
    truth = Sigmoid(r0=r0, a=a, b=b, c_mid=c_mid * unit)
    fit = fit_least_squares(COMPUTE * unit, truth(COMPUTE * unit), r0)
    np.testing.assert_allclose(fit(COMPUTE * unit), truth(COMPUTE * unit), atol=2e-6)


def test_least_squares_is_as_good_as_scipy_from_many_starts():
    rng = np.random.default_rng(0)
    for _ in range(12):
        truth = Sigmoid(r0=0.4, a=rng.uniform(0.5, 0.8), b=rng.uniform(1, 4), c_mid=rng.uniform(1000, 6000))
        pass_rate = truth(COMPUTE) + rng.normal(0, 0.005, len(COMPUTE))
        fit = fit_least_squares(COMPUTE, pass_rate, 0.4)

        def residual(p, pass_rate=pass_rate):
            return 0.4 + (p[0] - 0.4) / (1 + (np.exp(p[2]) / COMPUTE) ** np.exp(p[1])) - pass_rate

        bounds = ([0, np.log(0.05), 2], [1, np.log(20), 14])
        starts = [(0.6, b, c) for b in (0.0, 1.0) for c in (6.5, 8.0, 9.5)]
        best = min(2 * least_squares(residual, start, bounds=bounds, xtol=1e-12).cost for start in starts)
        assert np.sum((fit(COMPUTE) - pass_rate) ** 2) <= best * (1 + 1e-6)


def test_ceiling_stays_in_its_range():
    rising = 0.1 + 0.2 * np.log(COMPUTE / 400.0)  # would need a ceiling over 1
    assert fit_least_squares(COMPUTE, np.minimum(rising, 0.95), 0.1).a <= 1.0
    fixed = fit_least_squares(
        COMPUTE, Sigmoid(r0=0.4, a=0.6, b=2.0, c_mid=3000.0)(COMPUTE), 0.4, (0.65, 0.65)
    )
    assert fixed.a == pytest.approx(0.65)


def test_paper_grid_is_the_printed_procedure(published, tool):
    """All 7,100 cells with scipy's curve_fit give the same cell and the same B; least squares fits better."""
    run = next(run for run in published if (run.figure, run.run) == ("loo1", "prompt-adv-norm"))
    window = run.window(run.fitted & (run.compute >= MIN_GPU_HOURS))
    points = (window.compute, window.pass_rate, window.r0)
    printed, squares = tool("bench_fit").printed_procedure(*points)
    fit, free = fit_paper(*points), fit_least_squares(*points)
    assert (fit.a, fit.c_mid) == (printed.a, printed.c_mid)
    assert fit.b == pytest.approx(printed.b, rel=1e-5)
    assert np.sum((free(window.compute) - window.pass_rate) ** 2) <= squares


@pytest.mark.parametrize(
    ("compute", "pass_rate", "message"),
    [
        ([1, 2, 3], [0.4, 0.5, 0.6], "at least 4"),
        ([1, 2, 2, 3], [0.4, 0.5, 0.5, 0.6], "ascend"),
        ([0, 1, 2, 3], [0.4, 0.5, 0.5, 0.6], "above 0"),
        ([1, 2, 3, 4], [40, 50, 55, 60], "percentages"),
        ([1, 2, 3, 4], [0.4, float("nan"), 0.5, 0.6], r"\[0, 1\]"),
    ],
)
def test_windows_that_are_no_curve_are_refused(compute, pass_rate, message):
    with pytest.raises(ValueError, match=message):
        Window(compute=np.array(compute, dtype=float), pass_rate=np.array(pass_rate), r0=0.4)


def test_points_that_do_not_tell_b_and_c_mid_apart_are_fitted_all_the_same():
    """One step at the start and nothing after it: B and C_mid move the curve alike."""
    compute = np.cumsum([0.01, 0.25, 0.875, 0.5])
    for r0 in (0.0, 0.25, 0.5, 0.99):
        curve = fit_least_squares(compute, np.array([1.0, 0.125, 0.0, 0.0]), r0)
        assert np.isfinite([curve.a, curve.b, curve.c_mid]).all()
