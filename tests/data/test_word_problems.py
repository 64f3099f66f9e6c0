"""Word problems: their answers, worked out from their texts by other means than they were made."""

import re
from collections import Counter

import pytest

from scalerl.data.generators import generate
from scalerl.data.word_problems import TEMPLATES, draw_problem

SOLUTIONS = (
    (r"has (\d+) \w+ and finds (\d+) more\.", lambda a, b: a + b),
    (r"has (\d+) \w+, \w+ has (\d+)\. How many \w+ do they have together", lambda a, b: a + b),
    (r"has (\d+) \w+ and gives (\d+) to \w+\.", lambda a, b: a - b),
    (r"has (\d+) \w+, \w+ has (\d+)\. How many more", lambda a, b: a - b),
    (r"has (\d+) boxes with (\d+) \w+ in each\.", lambda a, b: a * b),
    (r"shares (\d+) \w+ equally among (\d+) friends", lambda a, b: a / b),
    (r"has (\d+) \w+, loses (\d+) and then finds (\d+)", lambda a, b, c: a - b + c),
    (r"has (\d+) \w+\. \w+ has (\d+) more than", lambda a, b: 2 * a + b),
    (r"has (\d+) boxes with (\d+) \w+ in each, and (\d+) more", lambda a, b, c: a * b + c),
    (r"buys (\d+) bags of (\d+) \w+ and loses (\d+)", lambda a, b, c: a * b - c),
    (r"pen for (\d+) dollars and a map for (\d+), and pays (\d+)", lambda a, b, c: c - a - b),
)


def solve(text: str) -> tuple[int, float]:
    """Return which of SOLUTIONS fits a problem, and its answer."""
    ((index, numbers),) = [
        (index, map(int, found.groups()))
        for index, (pattern, _) in enumerate(SOLUTIONS)
        if (found := re.search(pattern, text))
    ]
    return index, SOLUTIONS[index][1](*numbers)


def test_every_answer_follows_from_the_text():
    _, (problems, dropped) = generate("word_problems", count=2200, seed=3)
    assert not dropped
    assert len({problem.prompt for problem in problems}) == 2200
    solved = [solve(problem.prompt) for problem in problems]
    assert [str(int(answer)) for _, answer in solved] == [problem.answer for problem in problems]
    assert all(answer == int(answer) > 0 for _, answer in solved)
    kinds = Counter(index for index, _ in solved)
    assert len(kinds) == len(TEMPLATES) and min(kinds.values()) > 150  # 200 each, standard deviation 14
    assert {problem.task for problem in problems} == {"math"}
    # two thirds of a calculation cannot be guessed: no answer has more than a tenth of the problems
    assert Counter(problem.answer for problem in problems).most_common(1)[0][1] < 220


def test_one_problem_by_hand():
    class Drawn:
        """Numbers 12 - 5 = 7, the first two names, the first thing."""

        def integers(self, *_, size=None):
            return [7, 5]

        def choice(self, values, size=None, replace=True):
            return values[:size] if size else values[0]

    problem = draw_problem(TEMPLATES[2], Drawn())
    assert problem.prompt == "Anna has 12 apples and gives 5 to Ben. How many apples does Anna have left?"
    assert (problem.answer, problem.difficulty) == ("7", 1.0)


def test_steps_choose_the_templates_and_the_seed_the_problems():
    orders = [
        ("word_problems:max_steps=1", 1),
        ("word_problems:min_steps=2", 1),
        ("word_problems:max_steps=1", 2),
    ]
    one, two, other = (generate(order, count=50, seed=seed)[1][0] for order, seed in orders)
    assert {problem.difficulty for problem in one} == {1.0}
    assert {problem.difficulty for problem in two} == {2.0}
    assert one != other
    assert one == generate("word_problems:max_steps=1", count=50, seed=1)[1][0]


@pytest.mark.parametrize(
    ("order", "count", "message"),
    [
        ("word_problems:min_steps=3", 1, "word problems have 1 to 2, the minimum first"),
        ("word_problems", 0, "ask for 1 to 100000"),
        ("word_problems:steps=2", 1, "no key 'steps'; did you mean"),
    ],
)
def test_a_bad_order_is_refused(order, count, message):
    with pytest.raises(ValueError, match=message):
        generate(order, count=count, seed=0)
