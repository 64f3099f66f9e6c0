"""Puzzles of reasoning_gym, graded by the real package in the processes of a pool."""

import json
import time
from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from scalerl.tasks.reasoning_gym import ReasoningGym, find_scorer, make_reference, pack, unpack
from scalerl.tasks.task import DIFFERENT, EQUAL, NO_ANSWER, Verdict
from scalerl.verify.pool import VerifierPool

pytestmark = pytest.mark.filterwarnings("ignore::SyntaxWarning")  # of a library of the package
TASK = ReasoningGym()
EXPRESSION = make_reference(
    "countdown", {}, {"question": "", "answer": "2*3", "metadata": {"numbers": [2, 3], "target": 6}}
)
COLOURS = {"vertices": [0, 1, 2], "edges": [(0, 1), (1, 2)], "num_colors": 2, "color_options": [1, 2]}
"""A path of three vertices: its ends share a colour."""


def entry(dataset: str, answer: str | None, **metadata) -> str:
    return make_reference(dataset, {}, {"question": "?", "answer": answer, "metadata": metadata})


@pytest.fixture(scope="module")
def pool():
    with VerifierPool(tasks=["reasoning_gym"], think_end="</think>") as pool:
        yield pool


def grade(pool: VerifierPool, answer: str, reference: str) -> Verdict:
    return pool.submit(f"hm</think>{answer}", reference, "reasoning_gym").result(60)


@pytest.mark.parametrize(
    ("reference", "answer", "correct"),
    [
        (entry("chain_sum", "156"), "<answer>156</answer>", True),
        (entry("chain_sum", "156"), "<answer>+0156.00</answer>, I think", True),
        (entry("chain_sum", "1560"), "\\boxed{1,560}", True),
        (entry("chain_sum", "156"), "156", True),
        (entry("chain_sum", "156"), "It is 156", False),
        (entry("chain_sum", "156"), "<answer>157</answer> no, 156", False),
        (entry("chain_sum", "156"), "<answer>1560</answer>", False),
        (entry("spell_backward", "tac", word="cat"), "<answer>tac</answer>", True),
        (entry("spell_backward", "tac", word="cat"), "<answer>cat</answer>", False),
        # several answers are right, and the package gives none
        (entry("graph_color", None, puzzle=COLOURS), '<answer>{"0": 1, "1": 2, "2": 1}</answer>', True),
        (entry("graph_color", None, puzzle=COLOURS), '<answer>{"0": 2, "1": 1, "2": 2}</answer>', True),
        (entry("graph_color", None, puzzle=COLOURS), '<answer>{"0": 1, "1": 1, "2": 2}</answer>', False),
        (entry("graph_color", None, puzzle=COLOURS), '<answer>{"0": 1, "1": 2}</answer>', False),
        (EXPRESSION, "<answer>3 * 2</answer>", True),
        (EXPRESSION, "<answer>3 + 2</answer>", False),
        (EXPRESSION, "<answer>3 + 3</answer>", False),
        # an answer of several lines
        (entry("spiral_matrix", "1 2 4 3"), "<answer>1 2 4 3\n</answer>", True),
        (entry("spiral_matrix", "1 2 4 3"), "<answer>1 2 3 4</answer>", False),
        # a formula, in any form
        (
            entry("simple_integration", "x**3 + C", integrand="3*x**2", variable="x"),
            "<answer>C + x*x*x</answer>",
            True,
        ),
        (
            entry("simple_integration", "x**3 + C", integrand="3*x**2", variable="x"),
            "<answer>x**2 + C</answer>",
            False,
        ),
        (
            entry("intermediate_integration", "-cos(x) + C", integrand="sin(x)", variable="x"),
            "<answer>C - cos(x)</answer>",
            True,
        ),
        (
            entry("intermediate_integration", "-cos(x) + C", integrand="sin(x)", variable="x"),
            "<answer>Integral(sin(x), x) + C</answer>",
            False,
        ),
    ],
)
def test_right_and_wrong_answers(pool, reference, answer, correct):
    assert grade(pool, answer, reference) == (EQUAL if correct else DIFFERENT)


def test_a_reference_keeps_the_tuples_that_scoring_compares(pool):
    board = ((1, 0), (0, 2))
    reference = entry("rearc", "1 0\n0 2", output=board, input=board, task_id="x")
    assert grade(pool, "<answer>1 0\n0 2</answer>", reference) == EQUAL
    assert grade(pool, "<answer>1 0\n0 1</answer>", reference) == DIFFERENT


@pytest.mark.parametrize(
    "text", ["", "<answer></answer>", "<answer> \n</answer>", f"<answer>{'1' * 10_001}</answer>"]
)
def test_no_answer(pool, text):
    assert grade(pool, text, EXPRESSION) == NO_ANSWER
    assert (
        pool.submit("still thinking <answer>2*3</answer>", EXPRESSION, "reasoning_gym").result() == NO_ANSWER
    )


def test_the_last_answer_counts_and_is_found_in_linear_time():
    assert TASK.read("<answer>1</answer> or <answer> 2\n3 </answer>") == "2\n3"
    assert TASK.read("<answer>1</answer> or <answer>2") == "1"
    assert TASK.read("</answer>1") == "</answer>1"
    begin_s = time.monotonic()
    assert TASK.read("<answer>" * 300_000 + "x</answer>") == "x"
    assert TASK.read("</answer>" * 300_000)
    assert time.monotonic() - begin_s < 1


@pytest.mark.parametrize(
    "answer",
    [
        "9**9**9**9",
        "factorial(10**9)",
        "(" * 4000 + "2*3",
        "1e999999999",
        "9" * 10_000,
        "2*3" + "+0" * 4000,
        "\0",
    ],
)
def test_a_hostile_answer_costs_its_time_and_the_next_is_graded(pool, answer):
    begin_s = time.monotonic()
    verdict = grade(pool, f"<answer>{answer}</answer>", EXPRESSION)
    assert not verdict.correct
    assert verdict.reason in ("timeout", "crashed", "different")
    assert grade(pool, "<answer>2*3</answer>", EXPRESSION) == EQUAL
    assert time.monotonic() - begin_s < 30


QUEENS = entry("n_queens", "Q", valid_answers=["Q"], solutions=[[["Q"]]])
PROGRAMS = {
    "spiral_matrix": entry("spiral_matrix", "1 2"),
    "binary_matrix": entry("binary_matrix", "1 2"),
    "string_insertion": entry("string_insertion", "1 2"),
    "n_queens": QUEENS,
    "polynomial_multiplication": entry("polynomial_multiplication", "x**2 + 1"),
    "simple_integration": entry("simple_integration", "x + C", integrand="1", variable="x"),
    "countdown": EXPRESSION,
}


@pytest.mark.parametrize("dataset", PROGRAMS)
def test_an_answer_that_is_a_program_is_not_run(pool, tmp_path, dataset):
    """The package runs it: the first half shows that, in this process, where nothing forbids it."""
    reference = json.loads(PROGRAMS[dataset])
    program = f"[open('{tmp_path}/touched', 'w')]"
    if dataset in ("polynomial_multiplication", "simple_integration", "countdown"):
        program = f"open('{tmp_path}/touched', 'w')"
    with suppress(TypeError):  # raised by some afterwards, for what open returned
        find_scorer(dataset, "{}")(program, unpack(reference["entry"]))
    assert (tmp_path / "touched").exists(), "this data set does not run answers"
    (tmp_path / "touched").unlink()
    hidden = "[getattr(__builtins__, 'open') for name in 'x']"
    for answer in (program, program.replace("open(", "().__class__("), hidden, "(lambda: 1)()"):
        assert not grade(pool, f"<answer>{answer}</answer>", PROGRAMS[dataset]).correct
    assert not (tmp_path / "touched").exists()


def test_a_reference_that_cannot_be_read_is_an_error_and_no_verdict(pool):
    reference = make_reference("no_such_set", {}, {"question": "", "answer": "1", "metadata": {}})
    with pytest.raises(RuntimeError, match=r"its reference cannot be read.*no_such_set"):
        grade(pool, "<answer>1</answer>", reference)
    assert grade(pool, "<answer>2*3</answer>", EXPRESSION) == EQUAL


LEAVES = st.none() | st.booleans() | st.integers() | st.text()
KEYS = (
    st.text()
    | st.sampled_from(["__tuple__", "__items__"])
    | st.integers()
    | st.tuples(st.integers(), st.text())
)


@example({"__tuple__": [1], "a": ({"__items__": []},)})
@given(
    st.recursive(
        LEAVES,
        lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(KEYS, inner),
        max_leaves=20,
    )
)
def test_packing_through_json_loses_nothing(value):
    found = unpack(json.loads(json.dumps(pack(value))))
    assert repr(found) == repr(value)


def test_without_the_package_a_pool_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"`make setup`, or `pip install 'scalerl\[tasks\]'`"):
        VerifierPool(tasks=["reasoning_gym"])
