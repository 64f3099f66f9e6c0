"""Plateaus of training: the trigger of the adaptive learning rate and of the dynamic batch size."""

from collections.abc import Sequence


def on_plateau(pass_rates: Sequence[float], window_steps: int) -> bool:
    """Say whether the mean of the last `window_steps` pass rates is no better than that of the window before.

    pass_rates: one a step, oldest first, since the start or the last plateau.
    """
    # Fewer than two windows cannot be compared; after a plateau the caller begins the count anew.
    if len(pass_rates) < 2 * window_steps:
        return False
    last = pass_rates[-window_steps:]
    before = pass_rates[-2 * window_steps : -window_steps]
    return sum(last) <= sum(before)
