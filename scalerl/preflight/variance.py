"""How many groups of a batch will have rewards that are all equal, and so teach nothing."""

import math
from collections import Counter
from collections.abc import Sequence

MEANS = [index / 50 for index in range(1, 50)]
CONCENTRATIONS = [0.002 * 1.3**index for index in range(43)]
"""a + b of the Beta distributions tried: from prompts solved always or never (.002) to all alike (120)."""


def zero_variance_share(num_correct: Sequence[int], num_samples: int, group_size: int) -> float:
    """Estimate the share of groups of `group_size` completions that are all right or all wrong.

    The pass rates of prompts are taken to follow the Beta distribution under which the counts are likeliest,
    of a grid; num_correct: of the `num_samples` completions of each prompt.
    """
    counts = Counter(num_correct)

    def likelihood(a: float, b: float) -> float:
        terms = (count * _log_beta(a + value, b + num_samples - value) for value, count in counts.items())
        return sum(terms) - len(num_correct) * _log_beta(a, b)

    grid = [(mean * total, (1 - mean) * total) for mean in MEANS for total in CONCENTRATIONS]
    a, b = max(grid, key=lambda pair: likelihood(*pair))
    all_right = math.exp(_log_beta(a + group_size, b) - _log_beta(a, b))
    all_wrong = math.exp(_log_beta(a, b + group_size) - _log_beta(a, b))
    return all_right + all_wrong


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
