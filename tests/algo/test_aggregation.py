import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalerl.algo.aggregation import token_weights

LENGTHS = np.array([[1, 3], [2, 4]])


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [
        ("sample", [[1 / 4, 1 / 12], [1 / 8, 1 / 16]]),
        ("prompt", [[1 / 8, 1 / 8], [1 / 12, 1 / 12]]),
        ("token", [[1 / 10, 1 / 10], [1 / 10, 1 / 10]]),
    ],
)
def test_two_prompts_of_two_completions(aggregation, expected):
    assert token_weights(LENGTHS, aggregation) == pytest.approx(np.array(expected))


@pytest.mark.parametrize(
    ("aggregation", "expected"), [("sample", [[1 / 2, 1 / 6], [0, 0]]), ("prompt", [[1 / 4, 1 / 4], [0, 0]])]
)
def test_a_prompt_without_loss_tokens_counts_in_no_mean(aggregation, expected):
    assert token_weights(np.array([[1, 3], [0, 0]]), aggregation) == pytest.approx(np.array(expected))


@given(
    st.lists(st.lists(st.integers(0, 50), min_size=3, max_size=3), min_size=1, max_size=6),
    st.sampled_from(["sample", "prompt", "token"]),
)
def test_weights_of_all_loss_tokens_sum_to_one(lengths, aggregation):
    lengths = np.array(lengths)
    total = (token_weights(lengths, aggregation) * lengths).sum()
    assert total == pytest.approx(1.0 if lengths.any() else 0.0)


def test_against_means_of_means():
    losses = [
        [np.array([2.0]), np.array([1.0, 3.0, 8.0])],
        [np.array([5.0, 7.0]), np.array([1.0, 1.0, 1.0, 1.0])],
    ]
    expected = {
        "sample": np.mean([loss.mean() for prompt in losses for loss in prompt]),
        "prompt": np.mean([np.concatenate(prompt).mean() for prompt in losses]),
        "token": np.concatenate([loss for prompt in losses for loss in prompt]).mean(),
    }
    sums = np.array([[loss.sum() for loss in prompt] for prompt in losses])
    assert {name: (token_weights(LENGTHS, name) * sums).sum() for name in expected} == pytest.approx(expected)
