"""The chain task: small enough for a real reinforcement-learning curve on two CPU cores.

A prompt such as "7*3-4+8?" is worked left to right, modulo 10; its solution reads "<7*3=1;1-4=7;7+8=5>5":
the thinking part ends at ">" and the answer follows.
"""

from collections.abc import Iterator

import numpy as np

from scalerl.data.problem import Problem, make_problem

THINK_END = ">"
OPERATORS = "+-*"
ALPHABET = "0123456789" + OPERATORS + "?<=;>"
MAX_STEPS = 12


def apply(operator: str, left: int, right: int) -> int:
    """Return the result of one step of a chain: `left operator right` modulo 10."""
    results = {"+": left + right, "-": left - right, "*": left * right}
    return results[operator] % 10


def draw_prompt(generator: np.random.Generator, num_steps: int) -> str:
    """Return a random chain of `num_steps` operators, such as "7*3-4?" for 2."""
    digits = generator.integers(10, size=num_steps + 1)
    operators = generator.integers(len(OPERATORS), size=num_steps)
    tail = (f"{OPERATORS[operator]}{digit}" for operator, digit in zip(operators, digits[1:], strict=True))
    return f"{digits[0]}{''.join(tail)}?"


def worked_solution(prompt: str, *, noise: float = 0.0, generator: np.random.Generator | None = None) -> str:
    """Return the solution text of a chain, with every step written out.

    With `noise`, each step's result is replaced with that probability by a random digit (which may be the
    right one) and the chain goes on from it: what the base model is trained on, so that reinforcement
    learning has something to correct.
    """
    left, steps = int(prompt[0]), []
    for operator, digit in zip(prompt[1:-1:2], prompt[2:-1:2], strict=True):
        result = apply(operator, left, int(digit))
        if generator is not None and generator.random() < noise:
            result = int(generator.integers(10))
        steps.append(f"{left}{operator}{digit}={result}")
        left = result
    return f"<{';'.join(steps)}{THINK_END}{left}"


def generate(count: int, *, seed: int, min_steps: int = 1, max_steps: int = MAX_STEPS) -> list[Problem]:
    """Return `count` different chains of `min_steps` to `max_steps` operators, in equal shares.

    There are only 300 chains of one step: where a length runs out, longer ones take its place.

    Raises:
        ValueError: the range of steps is not within 1..12, or holds fewer than `count` chains.
    """
    if not 1 <= min_steps <= max_steps <= MAX_STEPS:
        raise ValueError(
            f"steps {min_steps}..{max_steps}: a chain has 1 to {MAX_STEPS} steps, the minimum given first"
        )
    num_possible = sum(10 * (10 * len(OPERATORS)) ** steps for steps in range(min_steps, max_steps + 1))
    if not 0 < count <= num_possible:
        raise ValueError(
            f"cannot generate {count} different chains of {min_steps}..{max_steps} steps: there are "
            f"{num_possible}; ask for at least 1 and at most that, or raise the number of steps"
        )
    # Draw and drop repetitions, instead of enumerating: there are 10^18 chains of twelve steps.
    problems: dict[str, Problem] = {}
    for prompt in _draw_prompts(seed, min_steps, max_steps):
        if prompt not in problems:
            problems[prompt] = chain_problem(prompt)
        if len(problems) == count:
            return list(problems.values())
    raise AssertionError("the stream of chains is endless")


def chain_problem(prompt: str) -> Problem:
    """Return the problem of one chain; its difficulty is its number of steps."""
    answer = worked_solution(prompt).rpartition(THINK_END)[2]
    num_steps = len(prompt) // 2 - 1
    return make_problem(prompt, [answer], source="arithmetic", difficulty=float(num_steps))


def _draw_prompts(seed: int, min_steps: int, max_steps: int) -> Iterator[str]:
    generator = np.random.default_rng(seed)
    while True:
        yield draw_prompt(generator, int(generator.integers(min_steps, max_steps + 1)))
