"""The reward of a completion: +1 or -1, less a penalty on long correct ones if so configured."""


def length_penalty(num_tokens: int, max_tokens: int, cache_tokens: int) -> float:
    """Return clip((L_max - |y|) / L_cache - 1, -1, 0) for |y| tokens (paper, section 2).

    It is 0 up to L_max - L_cache tokens, then falls to -1 at L_max. max_tokens: L_max. cache_tokens: L_cache.
    """
    return min(max((max_tokens - num_tokens) / cache_tokens - 1.0, -1.0), 0.0)


def reward(correct: bool, num_tokens: int, *, penalty: tuple[int, int] | None) -> float:
    """Return the reward of a completion of `num_tokens` tokens, forced ones included.

    penalty: (L_max, L_cache) of the length penalty on correct completions, in tokens, or None for no penalty.
    """
    # A wrong answer is not penalised for its length: however long, a correct one is worth more.
    if not correct:
        return -1.0
    return 1.0 if penalty is None else 1.0 + length_penalty(num_tokens, *penalty)
