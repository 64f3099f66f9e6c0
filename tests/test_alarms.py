"""Alarms from synthetic metric rows: when each begins, how far it goes, when it ends, and what raises
none."""

from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalerl.alarms import ADVICE, alarms, standing_alarms
from scalerl.metrics.rows import EvalRow, Rows, StepRow

HEALTHY = {"truncation_rate": 0.04, "entropy": 0.3, "log_ratio_mean": 0.01, "grad_norm": 0.5}
HEALTHY |= {"pass_rate": 0.3, "num_groups": 10, "zero_variance_groups": 4}
HEALTHY |= {"verdicts": {"different": 6, "equal": 3, "no_answer": 1}}
TRAINED = {"step_applied": True, "num_micro_batches": 4}
NOTHING_TRAINED = dict.fromkeys(["entropy", "log_ratio_mean", "grad_norm"], None) | {"step_applied": False}


def rows(*stretches: tuple[int, dict]) -> Rows:
    """Step rows from (number of steps, values that differ from a healthy run); an evaluation of every
    policy."""
    made = Rows([EvalRow(step=0, pass_rate=0.3)])
    for count, changes in stretches:
        for _ in range(count):
            step = len(made) // 2 + 1
            values = HEALTHY | TRAINED | changes
            evaluation = EvalRow(step=step, pass_rate=values.pop("held_out", 0.3))
            made += [StepRow(step=step, **values), evaluation]
    return made


def test_a_healthy_run_raises_none():
    assert alarms(rows((400, {}))) == []
    assert alarms(Rows()) == standing_alarms(Rows()) == []


@pytest.mark.parametrize(
    ("kind", "changes", "first", "value", "level"),
    [
        # the mean of 20 steps passes .1 with the 3rd at .5 (.04 + 3 x .023 = .109) and ends at .5
        ("truncation", {"truncation_rate": 0.5}, 103, 0.5, 0.1),
        # .3 - n x .0149 is below .03 from n = 19 (.0169) and ends at .002
        ("entropy_low", {"entropy": 0.002}, 119, 0.002, 0.03),
        # .3 + n x .0475 is above .6 from n = 7 and ends at 1.25
        ("entropy_high", {"entropy": 1.25}, 107, 1.25, 0.6),
        # .01 + n x .0245 is above .2 from n = 8 and ends at .5
        ("log_ratio", {"log_ratio_mean": 0.5}, 108, 0.5, 0.2),
        # 5 x .5 is the level: .5 + n x .375 is above 2.5 from n = 6 and ends at 8
        ("grad_norm", {"grad_norm": 8.0}, 106, 8.0, 2.5),
        # .1 + n x .035 is above .5 from n = 12 and ends at .8: no_code is no answer either
        ("no_answer", {"verdicts": {"equal": 2, "no_answer": 3, "no_code": 5}}, 112, 0.8, 0.5),
        # .4 + n x .03 is above .8 from n = 14 and ends at 1
        ("zero_variance", {"zero_variance_groups": 10}, 114, 1.0, 0.8),
        # one evaluation says it
        ("pass_rate", {"held_out": 0.1}, 101, 0.1, 0.15),
    ],
)
def test_each_sign_by_hand(kind, changes, first, value, level):
    (alarm,) = alarms(rows((100, {}), (20, changes)))
    assert (alarm.kind, alarm.step, alarm.last_step) == (kind, first, 120)
    assert (alarm.value, alarm.level) == (pytest.approx(value), pytest.approx(level))
    assert alarm.advice == ADVICE[kind]
    assert standing_alarms(rows((100, {}), (20, changes))) == [alarm]


def test_an_alarm_ends_with_its_cause_and_a_second_one_is_its_own():
    history = rows(
        (40, {}), (10, {"truncation_rate": 0.5}), (40, {}), (10, {"truncation_rate": 0.5}), (40, {})
    )
    found = alarms(history)
    # the 3rd step in 20 raises it; it stays until fewer than 3 are left in the window: up to step 50 + 17
    assert [(alarm.step, alarm.last_step) for alarm in found] == [(43, 67), (93, 117)]
    assert found[0].value == pytest.approx(0.04 + 10 * 0.023)
    assert standing_alarms(history) == []
    assert standing_alarms(rows((40, {}), (10, {"truncation_rate": 0.5}), (17, {}))) != []


def test_a_run_that_never_sees_a_reward_says_so_after_five_steps():
    unrewarded = NOTHING_TRAINED | {"num_micro_batches": 0, "pass_rate": 0.0, "zero_variance_groups": 10}
    assert alarms(rows((5, unrewarded))) == []
    (alarm,) = standing_alarms(rows((6, unrewarded)))
    assert (alarm.kind, alarm.step, alarm.value, alarm.level) == ("no_reward", 6, 6, 5)
    assert str(alarm) == "no_reward 6 above 5 since step 6"
    # for ever: every group is dropped, nothing is trained
    endless = unrewarded | {"verdicts": {"no_answer": 160}}
    found = standing_alarms(rows((400, endless)))
    assert [(alarm.kind, alarm.step, alarm.value) for alarm in found] == [
        ("no_reward", 6, 400),
        ("no_answer", 20, 1),
        ("zero_variance", 20, 1),
    ]
    # the first correct completion ends it for good, and mastered prompts are another matter
    late = rows((7, unrewarded), (1, {"pass_rate": 0.001}), (11, unrewarded))
    assert [(alarm.kind, alarm.step, alarm.last_step) for alarm in alarms(late)] == [("no_reward", 6, 7)]
    mastered = unrewarded | {"pass_rate": 1.0, "verdicts": {"equal": 160}}
    assert {alarm.kind for alarm in alarms(rows((400, mastered)))} == {"zero_variance"}


def test_rows_that_count_no_groups_and_no_verdicts_raise_none():
    uncounted = {"pass_rate": None, "num_groups": None, "zero_variance_groups": None, "verdicts": None}
    assert alarms(rows((400, uncounted))) == []


def test_one_odd_step_raises_none():
    odd = {"pass_rate": 0.0, "zero_variance_groups": 10, "verdicts": {"no_answer": 10}} | {
        "truncation_rate": 1.0,
        "entropy": 3.0,
        "log_ratio_mean": 3.0,
        "grad_norm": 40.0,
    }
    assert alarms(rows((60, {}), (1, odd), (60, {}))) == []


def test_one_step_a_hundred_times_as_steep_does():
    (alarm,) = alarms(rows((60, {}), (1, {"grad_norm": 50.0}), (60, {})))
    assert (alarm.kind, alarm.step, alarm.last_step) == ("grad_norm", 61, 80)
    assert alarm.value == pytest.approx((19 * 0.5 + 50) / 20)


def test_gradients_that_grow_slowly_are_no_spike():
    growing = [(1, {"grad_norm": 0.5 * 1.01**step}) for step in range(300)]  # twenty times larger in the end
    assert alarms(rows(*growing)) == []


def test_the_pass_rate_is_held_against_the_best_evaluation_so_far():
    risen = [(40, {"held_out": 0.2}), (40, {"held_out": 0.6})]
    assert alarms(rows(*risen, (40, {"held_out": 0.46}))) == []
    (alarm,) = alarms(rows(*risen, (40, {"held_out": 0.44})))
    assert (alarm.kind, alarm.step, alarm.level) == ("pass_rate", 81, pytest.approx(0.45))


def test_an_evaluation_counts_from_its_step_until_the_next():
    evaluations = [EvalRow(step=step, pass_rate=rate) for step, rate in ((0, 0.5), (20, 0.3), (40, 0.5))]
    steps = rows((60, {})).steps
    # evaluations come late
    late = Rows([*steps[:30], *evaluations[:2], *steps[30:50], evaluations[2], *steps[50:]])
    (alarm,) = alarms(late)
    assert (alarm.step, alarm.last_step) == (20, 39)
    assert alarms(Rows(steps)) == [] and standing_alarms(Rows([*steps, *evaluations])) == []


def test_too_few_steps_say_nothing():
    assert alarms(rows((19, {"truncation_rate": 0.9}))) == []
    assert [alarm.step for alarm in alarms(rows((20, {"truncation_rate": 0.9})))] == [20]


def test_a_step_whose_gradient_is_not_finite_is_an_alarm_at_once():
    history = rows((3, {}), (1, NOTHING_TRAINED))
    (alarm,) = standing_alarms(history)
    assert (alarm.kind, alarm.step) == ("not_finite", 4)
    assert str(alarm) == "not_finite 1 above 0 since step 4"
    # an evaluation after it changes nothing
    assert standing_alarms(Rows([*history, *rows((5, {}))[-1:]])) == [alarm]


def test_a_step_without_a_prompt_to_train_on_is_none_and_counts_in_no_mean():
    empty = NOTHING_TRAINED | {"num_micro_batches": 0}
    assert alarms(rows((30, {}), (30, empty), (30, {}))) == []
    (alarm,) = alarms(rows((30, {}), *[(1, {"log_ratio_mean": 0.5}), (1, empty)] * 10))
    # (5 x .5 + 10 x .01) / 15 = .173 at step 40, (6 x .5 + 9 x .01) / 15 = .206 at step 41; at the end only
    # those of .5 count
    assert (alarm.kind, alarm.step, alarm.value) == ("log_ratio", 41, pytest.approx(0.5))


@given(
    st.lists(st.none() | st.integers(0, 10), min_size=1, max_size=300),
    st.lists(st.integers(0, 299), max_size=5),
)
def test_gradient_spikes_against_a_plain_loop(norms, spikes):
    for index in spikes:
        norms[index:] = [500, *norms[index + 1 :]] if index < len(norms) else []
    expected = set()
    for end in range(20, len(norms) + 1):
        window = [norm for norm in norms[end - 20 : end] if norm is not None]
        before = [norm for norm in norms[max(0, end - 120) : end - 20] if norm is not None]
        if window and len(before) >= 20 and sum(window) / len(window) > 5 * median(before):
            expected.add(end)
    history = Rows(StepRow(step=step, grad_norm=norm) for step, norm in enumerate(norms, 1))
    assert {step for alarm in alarms(history) for step in range(alarm.step, alarm.last_step + 1)} == expected
