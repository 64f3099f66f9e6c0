import pytest

from scalerl.algo.rewards import length_penalty, reward


@pytest.mark.parametrize(
    ("num_tokens", "expected"),
    [(0, 0.0), (12_000, 0.0), (12_500, -0.25), (13_000, -0.5), (14_000, -1.0), (20_000, -1.0)],
)
def test_length_penalty_of_the_paper(num_tokens, expected):
    assert length_penalty(num_tokens, max_tokens=14_000, cache_tokens=2_000) == expected


def test_only_correct_completions_are_penalised():
    assert reward(True, 13_000, penalty=(14_000, 2_000)) == 0.5
    assert reward(False, 13_000, penalty=(14_000, 2_000)) == -1.0


def test_without_penalty_the_length_does_not_matter():
    assert reward(True, 10**6, penalty=None) == 1.0
    assert reward(False, 1, penalty=None) == -1.0
