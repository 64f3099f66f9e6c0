"""What a step row says of the verdicts in its batch."""

import pytest
from factories import make_group, make_rollout

from scalerl.metrics.loggers import scalars
from scalerl.metrics.rows import StepRow, row_from_json
from scalerl.spool.verdicts import restates, verdict_statistics

SUM = r"Compute $\sum_{n=1}^{100} n$."


def test_verdicts_are_counted_by_task_and_reason():
    groups = [
        make_group(0, 3),
        make_group(1, 2, correct=False),
        [make_rollout(2, 0, task="code", correct=False, verdict="timeout")],
        [make_rollout(3, 0, correct=False, verdict="no_answer")],
    ]
    statistics = verdict_statistics(groups, {}, "</think>")
    counts = {"code/timeout": 1, "math/different": 2, "math/equal": 3, "math/no_answer": 1}
    assert statistics == {"verdicts": counts, "restated_share": 0.0}
    row = StepRow(step=1, **statistics)
    assert row_from_json(row.to_json(), "row") == row
    assert scalars(row)["step/verdicts/math/no_answer"] == 1
    assert scalars(row)["step/restated_share"] == 0


def test_the_share_of_right_answers_that_repeat_the_question():
    answers = ["5050", r"\sum_{n=1}^{100}n", r"\sum _{n=1}^{100} n", "5050"]
    group = [
        make_rollout(0, number, response=f"$\\sum_{{n=1}}^{{100}} n$</think>\\boxed{{{answer}}}")
        for number, answer in enumerate(answers)
    ]
    wrong = make_rollout(0, 4, response=f"</think>{SUM}", correct=False)
    code = make_rollout(0, 5, response=f"</think>{SUM}", task="code", verdict="passed")
    statistics = verdict_statistics([[*group, wrong, code]], {"prompt-0": SUM}, "</think>")
    assert statistics["restated_share"] == 2 / 4  # of the right math answers, and only after the thinking
    assert verdict_statistics([[wrong]], {"prompt-0": SUM}, "</think>")["restated_share"] is None


@pytest.mark.parametrize(
    ("answer", "question", "repeated"),
    [
        ("7-4", "7-4?", True),
        ("3", "7-4?", False),
        ("48 + 24", "What is 48+24 =", True),
        (r"\binom{10}{3} \cdot 2^3", r"Find \(\binom{10}{3}\cdot 2^3\)!", True),
        (r"\left(x+1\right)^3", r"Expand \[(x+1)^3.\]", True),
        (r"\frac{1}{2}", r"Write $\frac{1}{2}$ as a decimal.", False),
        ("x", "Find $x$.", False),
        ("5", "Tom has 5 apples and 3 pears.", False),
    ],
)
def test_what_repeats_a_question(answer, question, repeated):
    assert restates(answer, question) is repeated
