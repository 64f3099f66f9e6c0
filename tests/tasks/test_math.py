"""Finding the answer of a response, and what is equal to a reference."""

import logging
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalerl.data.readers import BadRow, read_problem_file
from scalerl.tasks.answers import Answer, final_text, find_answer
from scalerl.tasks.grading.algebra import compare
from scalerl.tasks.grading.wording import clean
from scalerl.tasks.registry import TASKS

SAMPLES = Path(__file__).parents[1] / "data" / "problems"


def grade(response: str, reference: str, *, think_end: str = "") -> bool:
    """Grade a response here, without the processes of a pool."""
    text, task = final_text(response, think_end), TASKS["math"]
    answer = None if text is None else task.read(text)
    if answer is None:
        return False
    return (task.compare(answer, reference) or task.grade(answer, reference, None)).correct


@pytest.fixture(autouse=True, scope="module")
def _quiet_library():
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


# Where the answer is


@pytest.mark.parametrize(
    ("response", "think_end", "text"),
    [
        ("thoughts </think> 5", "</think>", " 5"),
        ("a </think> b </think>", "</think>", ""),
        ("never ends", "</think>", None),
        ("<7*3=1>1", ">", "1"),
        ("all of it", "", "all of it"),
    ],
)
def test_final_text(response, think_end, text):
    assert final_text(response, think_end) == text


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("So \\boxed{5}, no: \\boxed{\\frac{1}{2}}.", Answer("\\frac{1}{2}", True)),
        ("\\boxed{ \\left\\{ 1, 2 \\right\\} }", Answer("\\left\\{ 1, 2 \\right\\}", True)),
        ("\\boxed{5} #### 6", Answer("5", True)),
        ("work\n#### 72\nthank you", Answer("72", False)),
        ("#### 1 #### 2", Answer("2", False)),
        (" The answer is 5. ", Answer("The answer is 5.", False)),
        ("\\boxed{}", None),
        ("#### ", None),
        (" \n ", None),
        ("", None),
    ],
)
def test_find_answer(text, answer):
    assert find_answer(text) == answer


# What is equal


@pytest.mark.parametrize("path", sorted(SAMPLES.glob("*.[jp]*")), ids=lambda path: path.name)
def test_every_reference_answers_its_own_problem(path):
    problems = [row.problem for row in read_problem_file(path) if not isinstance(row.problem, BadRow)]
    assert problems
    for problem in problems:
        for form in problem.answer.split("\n"):
            assert grade(
                f"<think>\\boxed{{0}}</think>Thus $\\boxed{{{form}}}$.", problem.answer, think_end="</think>"
            )
            assert compare(clean(form), clean(form)).correct  # and without the rules


@pytest.mark.parametrize(
    ("response", "reference", "correct"),
    [
        ("5", "5", True),
        ("The answer is 5", "5", True),
        ("The answer is 6", "5", False),
        ("#### 1,080", "1080", True),
        ("#### 72 dollars", "72", True),
        ("#### -3", "3", False),
        ("\\boxed{025}", "25", True),
        ("\\boxed{25}", "025", True),
        ("\\boxed{0.5}", "\\frac12", True),
        ("\\boxed{\\dfrac{3}{6}}", "1/2", True),
        ("\\boxed{0.49}", "\\frac12", False),
        ("\\boxed{336}", "336^\\circ", True),
        ("\\boxed{x^2 + 1}", "1+x^2", True),
        ("1 + x^2", "x^2+1", True),
        ("x^2 - 1", "x^2+1", False),
        ("2\\sqrt{3}", "\\sqrt{12}", True),
        ("\\boxed{(1, 2)}", "(2, 1)", False),
        ("\\boxed{\\{2, 1\\}}", "\\{1, 2\\}", True),
        ("\\boxed{\\langle 1,2\\rangle}", "(1,2)", True),
        ("\\boxed{0.02}", "0.01\n0.02", True),
        ("\\boxed{0.015}", "0.01\n0.02", False),
        ("\\boxed{2}", "2 \\text{ euros}", True),
        ("\\boxed{\\text{east}}", "\\text{west}", False),
        ("\\boxed{4.5 \\times 10^{33}}", "4.5e33", True),
        ("\\boxed{1.0e-5}", "10^{-5}", True),
        ("\\boxed{4.5e32}", "4.5e33", False),
        ("\\boxed{30}", "30^\\circ.", True),
        ("\\boxed{10000}", "10,\\!000", True),
        ("1 2 3 4 5", "4", False),
        ("\\boxed{5} or \\boxed{6}", "5", False),
        ("no answer at all", "5", False),
        ("", "5", False),
    ],
)
def test_grade(response, reference, correct):
    assert grade(response, reference) is correct


def test_only_what_follows_the_thinking_counts():
    assert not grade("\\boxed{5}", "5", think_end="</think>")
    assert not grade("\\boxed{5}</think>", "5", think_end="</think>")
    assert not grade("\\boxed{5}</think>\\boxed{6}", "5", think_end="</think>")
    assert grade("\\boxed{6}</think>\\boxed{5}", "5", think_end="</think>")


@settings(max_examples=40, deadline=None)
@given(left=st.integers(-50, 50), right=st.integers(-50, 50), width=st.integers(1, 4), boxed=st.booleans())
def test_the_quick_way_agrees_with_algebra(left, right, width, boxed):
    given = f"{left:0{width}d}"
    quick = TASKS["math"].compare(Answer(given, boxed), str(right))
    assert quick is not None
    assert quick.correct == (left == right) == compare(given, str(right)).correct
