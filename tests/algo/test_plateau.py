import pytest

from scalerl.algo.plateau import on_plateau


@pytest.mark.parametrize(
    ("pass_rates", "expected"),
    [
        ([0.5, 0.5, 0.5], False),  # too early to say
        ([0.5, 0.5, 0.5, 0.5], True),
        ([0.1, 0.3, 0.2, 0.3], False),
        ([0.1, 0.3, 0.2, 0.1], True),
        ([0.9, 0.9, 0.1, 0.3, 0.2, 0.3], False),  # only the last two windows count
    ],
)
def test_two_windows_of_two_steps(pass_rates, expected):
    assert on_plateau(pass_rates, window_steps=2) is expected
