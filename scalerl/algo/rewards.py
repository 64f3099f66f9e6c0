"""The reward of a completion: +1 or -1, with a penalty on long correct ones if length is controlled that
way."""


def length_penalty(num_tokens: int, max_tokens: int, cache_tokens: int) -> float:
    """clip((L_max - |y|) / L_cache - 1, -1, 0): 0 up to L_max - L_cache tokens, then down to -1 at L_max
    (paper, section 2)."""
    return min(max((max_tokens - num_tokens) / cache_tokens - 1.0, -1.0), 0.0)


def reward(correct: bool, num_tokens: int, *, penalty: tuple[int, int] | None) -> float:
    """The verified reward of a completion of `num_tokens` tokens.

    penalty: (L_max, L_cache) in tokens of the length penalty on correct completions, or None for no penalty.
    """
    if not correct:
        return -1.0
    return 1.0 if penalty is None else 1.0 + length_penalty(num_tokens, *penalty)
