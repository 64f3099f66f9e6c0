"""Gains by hand, and what the rule does on the paper's own curve and on a real plateau."""

from functools import cache

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import expit

from scalerl.algo.plateau import Gain, window_gain
from scalerl.config.recipe import OptimizerConfig
from scalerl.curve.sigmoid import Sigmoid

DEFAULTS = OptimizerConfig()
PAPER = Sigmoid(r0=0.4, a=0.61, b=1.97, c_mid=2542)
"""ScaleRL in the paper's figure 2."""
HOURS_PER_EVALUATION = 257
"""GPU-hours of 100 steps of ScaleRL, after which the paper evaluates 1,000 prompts 16 times."""
PROMPTS, SAMPLES = 1000, 16
STEPS = 6200


def test_a_gain_by_hand():
    rates = np.array([[0.9, 0.9, 0.9], [0.2, 0.4, 0.6], [0.4, 0.4, 0.8], [0.4, 0.6, 0.6], [0.6, 0.4, 1.0]])
    # the prompts gain .2, .1 and .1 of two evaluations over two; deviations .0667, -.0333, -.0333 from .1333
    gain = window_gain(rates, window=2)
    assert gain.mean == pytest.approx(0.4 / 3)
    assert gain.standard_error == pytest.approx(((0.0667**2 + 2 * 0.0333**2) / 2 / 3) ** 0.5, rel=1e-3)
    # windows of one: .2, -.2, .4
    assert window_gain(rates, window=1).mean == pytest.approx(0.4 / 3)


def test_too_little_to_tell():
    assert window_gain(np.full((3, 10), 0.5), window=2) is None
    assert window_gain(np.full((4, 1), 0.5), window=2) is None, "one prompt has no standard error"


@pytest.mark.parametrize(
    ("mean", "standard_error", "plateau"),
    [
        (0.0, 0.0009, True),  # at most .0018
        (0.0, 0.0011, False),  # may be .0022
        (-0.0005, 0.00099, True),
        (-0.01, 0.005, False),  # it seems to fall, but a gain of .002 could not be told from none
        (0.0015, 0.0001, True),  # it rises, by less than counts
        (0.003, 0.0001, False),
    ],
)
def test_a_plateau_has_to_be_shown(mean, standard_error, plateau):
    assert Gain(mean=mean, standard_error=standard_error).is_plateau(0.002) is plateau


@cache
def prompt_rates(mean: float) -> np.ndarray:
    """Pass rates of prompts of very different difficulty with this mean, easiest and hardest always the
    same."""
    difficulty = np.random.default_rng(0).normal(0, 2.5, PROMPTS)
    return expit(difficulty + brentq(lambda shift: expit(difficulty + shift).mean() - mean, -20, 20))


def plateaus(curve, seed: int, window: int = DEFAULTS.plateau_window_evaluations) -> list[int]:
    """Steps at which the rule finds a plateau, as the trainer asks it: after every 100 steps, of the
    evaluations before and after the last plateau."""
    random = np.random.default_rng(seed)
    rates, found = [], []
    for step in range(0, STEPS + 1, 100):
        gain = window_gain(np.array(rates), window) if rates else None
        if gain is not None and gain.is_plateau(DEFAULTS.plateau_min_gain):
            found.append(step)
            rates = []
        correct = random.binomial(SAMPLES, prompt_rates(round(curve(step / 100 * HOURS_PER_EVALUATION), 5)))
        rates.append(correct / SAMPLES)
    return found


def paper(hours: float) -> float:
    return float(PAPER(np.array([max(hours, 1e-9)]))[0])


def halvings_on_training_pass_rates(seed: int) -> int:
    """Plateaus by the comparison that takes no noise into account: the mean training pass rate of 100 steps
    of 48 prompts x 16 against that of the 100 steps before."""
    random = np.random.default_rng(seed)
    means, count = [], 0
    for step in range(STEPS):
        rates = random.choice(prompt_rates(round(paper(step / 100 * HOURS_PER_EVALUATION), 3)), 48)
        means.append(random.binomial(SAMPLES, rates).mean() / SAMPLES)
        if len(means) >= 200 and np.mean(means[-100:]) <= np.mean(means[-200:-100]):
            means, count = [], count + 1
    return count


def test_the_curve_of_the_paper_is_no_plateau_though_noise_says_so_without_a_standard_error():
    assert [len(plateaus(paper, seed)) for seed in range(20)] == [0] * 20
    assert min(halvings_on_training_pass_rates(seed) for seed in range(3)) >= 15


def test_a_curve_that_stops_at_step_3000_is_found_to_be_on_a_plateau():
    flat = [plateaus(lambda hours: paper(min(hours, 30 * HOURS_PER_EVALUATION)), seed) for seed in range(20)]
    first = [steps[0] for steps in flat]
    assert min(first) > 3000 and max(first) <= 6000
    assert np.median(first) <= 5200


def test_evaluations_too_small_to_show_it_show_no_plateau():
    # windows of one evaluation: a standard error of .0036, behind which a gain of .003 hides
    assert [plateaus(lambda _: 0.5, seed, window=1) for seed in range(5)] == [[]] * 5
