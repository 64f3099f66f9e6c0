"""The default estimator against brute force, and its predictions against hand-worked spreads."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from scipy.stats import multivariate_normal, norm

from scalerl.curve.estimators import ESTIMATORS
from scalerl.curve.estimators.draws import Draws
from scalerl.curve.estimators.grid import integrate_all, log_prior
from scalerl.curve.estimators.posterior import MAX_POINTS, fit_posterior
from scalerl.curve.estimators.prior import PUBLISHED
from scalerl.curve.fit import fit_curve
from scalerl.curve.sigmoid import Sigmoid
from scalerl.curve.window import Window, coarsen

COMPUTE = np.geomspace(1200.0, 9000.0, 9)
TRUTH = Sigmoid(r0=0.4, a=0.6, b=2.0, c_mid=2500.0)


def simulate(seed: int = 0, compute=COMPUTE) -> Window:
    noise = np.random.default_rng(seed).normal(0, 0.0035, len(compute))
    return Window(compute=compute, pass_rate=TRUTH(compute) + noise, r0=0.4)


def test_closed_form_equals_brute_force_over_r0_and_a():
    """Evidence and moments of (R0, A) in single cells, by quadrature of likelihood x prior."""
    window, prior = simulate(), PUBLISHED
    grids, noises, parts = integrate_all(window, prior)
    r0, a = (axis.ravel() for axis in np.meshgrid(np.linspace(0.37, 0.43, 121), np.linspace(0.4, 1.0, 1201)))
    area = (0.06 / 120) * (0.6 / 1200)
    gap = np.abs(np.log(COMPUTE)[:, None] - np.log(COMPUTE))
    for node, cell in ((2, 500), (7, 512), (9, 700)):
        noise, part = noises[node], parts[node]
        covariance = np.diag((noise.scatter * window.binomial_sd) ** 2)
        covariance += noise.wander_sd**2 * np.exp(-gap / prior.wander_length)
        log_b, log_c_mid = grids[noise.wander_sd > 0].cells[cell]
        s = expit(np.exp(log_b) * (np.log(COMPUTE) - log_c_mid))
        curves = r0[:, None] * (1 - s) + a[:, None] * s
        density = multivariate_normal(np.zeros(9), covariance).pdf(window.pass_rate - curves)
        density *= norm(0.4, noise.scatter * window.r0_sd).pdf(r0)
        density *= (1 - prior.wide_weight) * norm(0.4 + 0.6 * prior.gain_mean, 0.6 * prior.gain_sd).pdf(a)
        # the closed form leaves out (2 pi)^(points / 2) and sqrt(2 pi) for what it integrates
        evidence = np.log(density.sum() * area) + 9 / 2 * np.log(2 * np.pi)
        assert part.log_evidence[cell] == pytest.approx(evidence, abs=2e-3)
        weight = density / density.sum()
        assert part.a_mean[cell] == pytest.approx(weight @ a, abs=1e-5)
        assert part.r0_mean[cell] == pytest.approx(weight @ r0, abs=1e-5)
        assert part.a_var[cell] == pytest.approx(weight @ (a - weight @ a) ** 2, rel=0.01)
        together = weight @ ((a - weight @ a) * (r0 - weight @ r0))
        assert part.covariance[cell] == pytest.approx(together, rel=0.01)


def test_draws_have_the_moments_of_the_cells():
    """The curve at a point, R0 (1 - s) + A s: a mixture of all cells, weighted by evidence, prior, area."""
    window, place = replace(simulate(), num_samples=1000.0), 3
    grids, noises, parts = integrate_all(window, PUBLISHED)
    log_weights, means, squares = [], [], []
    for noise, part in zip(noises, parts, strict=True):
        grid = grids[noise.wander_sd > 0]
        beforehand = log_prior(grid.cells, window, PUBLISHED) + np.log(grid.step).sum() + noise.log_weight[0]
        log_weights.append(part.log_evidence + np.tile(beforehand, 2))
        s = np.tile(grid.fraction[:, place], 2)
        means.append((1 - s) * part.r0_mean + s * part.a_mean)
        variance = (1 - s) ** 2 * part.r0_var + 2 * s * (1 - s) * part.covariance + s**2 * part.a_var
        squares.append(variance + means[-1] ** 2)
    weight = np.exp(np.array(log_weights) - np.max(log_weights))
    weight /= weight.sum()
    mean = np.sum(weight * means)
    sd = np.sqrt(np.sum(weight * squares) - mean**2)
    curves = fit_posterior(window, PUBLISHED).parameters.curves(window.compute[[place]])
    assert curves.mean() == pytest.approx(mean, abs=0.05 * sd)
    assert curves.std() == pytest.approx(sd, rel=0.05)


def test_much_data_forgets_the_prior():
    """A curve unlike any published one: the ceiling is found all the same."""
    truth = Sigmoid(r0=0.05, a=0.93, b=0.9, c_mid=0.02)
    compute = np.geomspace(0.002, 1.0, 60)
    pass_rate = truth(compute) + np.random.default_rng(0).normal(0, 0.003, 60)
    window = Window(compute=compute, pass_rate=pass_rate, r0=0.05)
    parameters = fit_posterior(window, PUBLISHED).parameters
    for name in ("a", "b", "c_mid"):
        low, high = parameters.interval(name)
        assert low <= getattr(truth, name) <= high, name
    assert parameters.interval("a")[1] - parameters.interval("a")[0] < 0.06


def test_the_unit_of_compute_does_not_matter():
    hours = fit_posterior(simulate(), PUBLISHED).parameters
    window = simulate()
    flops = fit_posterior(replace(window, compute=window.compute * 1e18), PUBLISHED).parameters
    assert np.median(flops.a) == pytest.approx(np.median(hours.a), abs=1e-6)
    assert np.median(flops.c_mid) == pytest.approx(np.median(hours.c_mid) * 1e18, rel=1e-6)


def test_a_long_run_is_coarsened_and_the_answer_hardly_changes(monkeypatch):
    """900 points in one piece and coarsened; ends, answers and the mean pass rate stay."""
    compute = np.linspace(100.0, 16_000.0, 900)
    whole = simulate(3, compute)
    part = coarsen(whole, MAX_POINTS)
    assert 200 < len(part.compute) <= MAX_POINTS and part.num_samples.sum() == pytest.approx(900 * 16_000)
    assert (part.compute[0], part.compute[-1]) == (100.0, 16_000.0) and part.r0_sd == whole.r0_sd
    assert part.num_samples @ part.pass_rate == pytest.approx(16_000 * whole.pass_rate.sum())
    assert np.diff(np.log(part.compute)).max() < 3 * max(
        np.diff(np.log(compute)).max(), np.log(160) / MAX_POINTS
    )
    estimate = fit_posterior(whole, PUBLISHED)
    coarse, ahead = estimate.parameters, estimate.predictive
    monkeypatch.setattr("scalerl.curve.estimators.posterior.MAX_POINTS", 900)
    estimate = fit_posterior(whole, PUBLISHED)
    exact, exact_ahead = estimate.parameters, estimate.predictive
    for name in ("r0", "a", "b", "c_mid"):
        middle, spread = np.median(getattr(exact, name)), np.std(getattr(exact, name))
        assert np.median(getattr(coarse, name)) == pytest.approx(middle, abs=0.5 * spread), name
        assert np.std(getattr(coarse, name)) == pytest.approx(spread, rel=0.15), name
    later = np.array([20_000.0, 60_000.0])
    ours, theirs = (
        np.quantile(draws.evaluations(later), (0.05, 0.5, 0.95), axis=0) for draws in (ahead, exact_ahead)
    )
    np.testing.assert_allclose(ours, theirs, atol=0.1 * np.ptp(theirs, axis=0).min())


def test_five_thousand_points_are_fitted():
    fit = fit_curve(simulate(0, np.linspace(10.0, 16_000.0, 5000)))
    assert fit.identification.identified and fit.curve.a == pytest.approx(TRUTH.a, abs=0.002)


def test_more_points_tell_more_at_any_number():
    """Sd of A falls as the root of the number of points, alike for every seed: the grid is fine enough."""
    for num_points, expected in ((100, 0.00105), (400, 0.00055), (6400, 0.000155)):
        spreads = [
            fit_posterior(simulate(s, np.linspace(1000, 16_000, num_points)), PUBLISHED).parameters.a.std()
            for s in range(4)
        ]
        np.testing.assert_allclose(spreads, expected, rtol=0.15)


def test_correlation_where_one_parameter_does_not_vary():
    draws = fit_posterior(simulate(), PUBLISHED).parameters
    assert draws.correlation_ab == pytest.approx(np.corrcoef(draws.a, np.log(draws.b))[0, 1])
    two_values = np.where(np.arange(len(draws.b)) % 2, 1e8, np.nextafter(1e8, 2e8))  # of one logarithm
    assert replace(draws, b=two_values).correlation_ab == pytest.approx(0.0, abs=1e-6)


def test_noisier_evaluations_widen_the_interval():
    window = simulate()
    few = fit_posterior(replace(window, num_samples=512.0), PUBLISHED).parameters
    many = fit_posterior(window, PUBLISHED).parameters
    assert np.ptp(few.interval("a")) > 1.3 * np.ptp(many.interval("a"))


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(st.floats(0.01, 100.0), min_size=4, max_size=20),
    rates=st.lists(st.floats(0.0, 1.0), min_size=20, max_size=20),
    r0=st.floats(0.0, 0.99),
    estimator=st.sampled_from(sorted(ESTIMATORS)),
    samples=st.sampled_from([16, 16_000, 10**8]),
)
def test_any_curve_gets_finite_ordered_intervals(steps, rates, r0, estimator, samples):
    """Noise, collapse, flat lines at 0 or 1: bounds in order, rates in a range that makes sense, JSON-able
    numbers."""
    window = Window(
        compute=np.cumsum(steps), pass_rate=np.array(rates[: len(steps)]), r0=r0, num_samples=float(samples)
    )
    fit = fit_curve(window, estimator)
    for name in ("r0", "a", "b", "c_mid"):
        low, high = fit.parameters.interval(name)
        assert np.isfinite([low, high]).all() and low <= high
    assert fit.parameters.interval("a")[0] >= 0 and fit.parameters.interval("a")[1] <= 1
    prediction = fit.predict(window.compute[-1] * np.array([1.5, 10.0]))
    assert np.isfinite(prediction.predicted).all()
    assert (prediction.lo90 <= prediction.predicted).all() and (prediction.predicted <= prediction.hi90).all()


def test_prediction_intervals_widen_with_distance():
    predictive = fit_posterior(simulate(), PUBLISHED).predictive
    low, high = np.quantile(
        predictive.evaluations(9000.0 * np.array([1.05, 2.0, 5.0, 20.0])), (0.05, 0.95), axis=0
    )
    assert (np.diff(high - low) > 0).all()


def test_spread_of_predictions_is_noise_plus_wander_plus_drift():
    """With all parameters known: sd^2 = noise^2 + wander^2 (1 - memory^2) + drift^2 log(C / C_last)."""
    known = np.full(40_000, 1.0)
    draws = Draws(
        r0=0.4 * known,
        a=0.6 * known,
        b=2.0 * known,
        c_mid=2500.0 * known,
        evaluation_sd=0.003 * known,
        wander_sd=0.005 * known,
        wander_end=0.004 * known,
        wander_length=0.5,
        drift=0.006,
        last_compute=8000.0,
    )
    compute = 8000.0 * np.exp([0.5, 2.0])  # memory exp(-1), exp(-4)
    shown = draws.evaluations(compute)
    variance = 0.003**2 + 0.005**2 * (1 - np.exp([-2.0, -8.0])) + 0.006**2 * np.array([0.5, 2.0])
    np.testing.assert_allclose(shown.std(axis=0), np.sqrt(variance), rtol=0.02)
    np.testing.assert_allclose(shown.mean(axis=0), TRUTH(compute) + 0.004 * np.exp([-1.0, -4.0]), atol=1e-4)
