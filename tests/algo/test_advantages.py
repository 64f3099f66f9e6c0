import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from scalerl.algo.advantages import advantages

REWARDS = np.array([[1.0, -1.0], [1.0, 0.0]])


@pytest.mark.parametrize(
    ("norm", "expected"),
    [
        ("none", [[1.0, -1.0], [0.5, -0.5]]),
        ("prompt", [[1.0, -1.0], [1.0, -1.0]]),
        # the variance of (1, -1, 1/2, -1/2) is (1 + 1 + 1/4 + 1/4) / 4 = 5/8
        ("batch", [[1.2649111, -1.2649111], [0.6324555, -0.6324555]]),
    ],
)
def test_norms(norm, expected):
    values, kept = advantages(REWARDS, norm=norm, zero_variance="drop")
    assert values == pytest.approx(np.array(expected))
    assert kept.all()


def test_dropped_prompts_leave_the_deviation_of_the_batch():
    rewards = np.array([[1.0, -1.0], [1.0, 1.0]])
    dropped, kept = advantages(rewards, norm="batch", zero_variance="drop")
    assert kept.tolist() == [True, False]
    assert dropped == pytest.approx(np.array([[1.0, -1.0], [0.0, 0.0]]))  # deviation of (1, -1)
    stayed, kept = advantages(rewards, norm="batch", zero_variance="keep")
    assert kept.all()
    assert stayed == pytest.approx(np.array([[2**0.5, -(2**0.5)], [0.0, 0.0]]))  # deviation of (1, -1, 0, 0)


@pytest.mark.parametrize("norm", ["none", "prompt", "batch"])
@pytest.mark.parametrize("zero_variance", ["drop", "keep"])
def test_equal_rewards_give_zeros(norm, zero_variance):
    # float32 0.1 has a mean that is not exactly 0.1: rounding must not become an advantage
    values, kept = advantages(np.full((3, 7), 0.1, dtype=np.float32), norm=norm, zero_variance=zero_variance)
    assert (values == 0).all()
    assert kept.all() == (zero_variance == "keep")


@given(
    arrays(np.float64, (4, 6), elements=st.floats(-2, 2, width=16)),
    st.sampled_from(["none", "prompt", "batch"]),
)
def test_advantages_are_finite_and_centred(rewards, norm):
    values, _ = advantages(rewards, norm=norm, zero_variance="keep")
    assert np.isfinite(values).all()
    assert values.sum(axis=1) == pytest.approx(np.zeros(4), abs=1e-6)
