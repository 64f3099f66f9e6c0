"""Word problems of one or two steps, such as a small pretrained model half understands.

"Anna has 12 shells and gives 5 to Tom. How many shells does Anna have now?" has the answer 7. A template is a
text, and how its answer follows from the numbers drawn for it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from scalerl.data.problem import Problem, make_problem

NAMES = ("Anna", "Ben", "Clara", "David", "Emma", "Frank", "Grace", "Henry", "Ida", "Jack", "Kate", "Leo")
THINGS = ("apples", "books", "cards", "coins", "eggs", "marbles", "pencils", "shells", "stamps", "stones")
MAX_STEPS = 2
Numbers = Sequence[int | np.integer]
"""The numbers of a problem's text, and its answer after them."""
MAX_COUNT = 100_000
"""Fewer than there are: a template has 12 x 11 pairs of names, 10 things, 25 pairs of numbers or more."""


@dataclass(frozen=True, kw_only=True)
class Template:
    """A kind of problem: a text with {a}, {b}, {c} for numbers, {p}, {q} for names and {t} for things."""

    steps: int
    """Calculations it takes."""
    text: str
    draw: Callable[[Generator], Numbers]
    """Draws the numbers of the text, and the answer after them."""


def _add(generator: Generator) -> Numbers:
    a, b = generator.integers(1, 11, size=2)
    return a, b, a + b


def _subtract(generator: Generator) -> Numbers:
    rest, b = generator.integers(1, 11, size=2)
    return rest + b, b, rest


def _multiply(generator: Generator) -> Numbers:
    a, b = generator.integers(2, 7, size=2)
    return a, b, a * b


def _divide(generator: Generator) -> Numbers:
    share, b = generator.integers(2, 7, size=2)
    return share * b, b, share


def _lose_and_find(generator: Generator) -> Numbers:
    a, b, c = _subtract(generator)
    found = generator.integers(1, 11)
    return a, b, found, c + found


def _add_and_double(generator: Generator) -> Numbers:
    a, b = generator.integers(1, 8, size=2)
    return a, b, a + a + b


def _multiply_and_add(generator: Generator) -> Numbers:
    a, b = generator.integers(2, 6, size=2)
    c = generator.integers(2, 10)
    return a, b, c, a * b + c


def _multiply_and_subtract(generator: Generator) -> Numbers:
    a, b = generator.integers(2, 6, size=2)
    c = generator.integers(1, a * b)
    return a, b, c, a * b - c


def _change(generator: Generator) -> Numbers:
    a, b = generator.integers(2, 10, size=2)
    paid = 10 * int(generator.integers((a + b) // 10 + 1, 4))
    return a, b, paid, paid - a - b


TEMPLATES = (
    Template(steps=1, text="{p} has {a} {t} and finds {b} more. How many {t} does {p} have now?", draw=_add),
    Template(steps=1, text="{p} has {a} {t}, {q} has {b}. How many {t} do they have together?", draw=_add),
    Template(
        steps=1, text="{p} has {a} {t} and gives {b} to {q}. How many {t} does {p} have left?", draw=_subtract
    ),
    Template(
        steps=1,
        text="{p} has {a} {t}, {q} has {b}. How many more {t} does {p} have than {q}?",
        draw=_subtract,
    ),
    Template(steps=1, text="{p} has {a} boxes with {b} {t} in each. How many {t} is that?", draw=_multiply),
    Template(
        steps=1,
        text="{p} shares {a} {t} equally among {b} friends. How many {t} does each get?",
        draw=_divide,
    ),
    Template(
        steps=2,
        text="{p} has {a} {t}, loses {b} and then finds {c}. How many {t} does {p} have now?",
        draw=_lose_and_find,
    ),
    Template(
        steps=2,
        text="{p} has {a} {t}. {q} has {b} more than {p}. How many {t} do they have together?",
        draw=_add_and_double,
    ),
    Template(
        steps=2,
        text="{p} has {a} boxes with {b} {t} in each, and {c} more. How many {t} is that?",
        draw=_multiply_and_add,
    ),
    Template(
        steps=2,
        text="{p} buys {a} bags of {b} {t} and loses {c}. How many {t} are left?",
        draw=_multiply_and_subtract,
    ),
    Template(
        steps=2,
        text="{p} buys a pen for {a} dollars and a map for {b}, and pays {c}. How much does {p} get back?",
        draw=_change,
    ),
)


def generate(count: int, *, seed: int, min_steps: int = 1, max_steps: int = MAX_STEPS) -> list[Problem]:
    """Return `count` different word problems of `min_steps` to `max_steps` calculations.

    Each template is drawn equally often.

    Raises:
        ValueError: there are no templates of so many calculations, or `count` is not within 1..MAX_COUNT.
    """
    templates = [template for template in TEMPLATES if min_steps <= template.steps <= max_steps]
    if not templates:
        raise ValueError(
            f"steps {min_steps}..{max_steps}: word problems have 1 to {MAX_STEPS}, the minimum first"
        )
    if not 0 < count <= MAX_COUNT:
        raise ValueError(f"cannot generate {count} different word problems: ask for 1 to {MAX_COUNT}")
    generator = np.random.default_rng(seed)
    problems: dict[str, Problem] = {}
    while len(problems) < count:
        problem = draw_problem(templates[generator.integers(len(templates))], generator)
        problems.setdefault(problem.prompt_id, problem)
    return list(problems.values())


def draw_problem(template: Template, generator: Generator) -> Problem:
    """Return a problem of a template with random numbers, names and things; its difficulty is its steps."""
    *numbers, answer = template.draw(generator)
    first, second = generator.choice(NAMES, size=2, replace=False)
    words = {"p": first, "q": second, "t": generator.choice(THINGS)}
    text = template.text.format(**dict(zip("abc", numbers, strict=False)), **words)
    return make_problem(text, [str(answer)], source="word_problems", difficulty=float(template.steps))
