"""Math and code in one run: the order of their groups, and their pass rates."""

from dataclasses import replace

from fake_generator import make_group

from scalerl.metrics.rows import StepRow
from scalerl.settings import build_config
from scalerl.spool.verdicts import verdict_statistics
from scalerl.trainer.objective import batch_statistics
from scalerl.trainer.state import TrainingState

MATH, CODE = [f"math-{number}" for number in range(6)], [f"code-{number}" for number in range(3)]


def begin(**changes) -> TrainingState:
    values = {
        "budget.max_steps": 9,
        "batch.prompts": 2,
        "off_policy.k": 1,
        "data.code_fraction": 0.25,
    } | changes
    return TrainingState.begin(build_config(values), MATH + CODE, set(CODE))


def tasks(state: TrainingState) -> str:
    return "".join(prompt_id[0] for prompt_id in state.admitted.values())


def test_groups_are_admitted_at_the_ratio_and_a_restored_run_goes_on_with_it():
    state, restored = begin(), begin()
    assert tasks(state) == "mmmc"
    for expected in ("mcmm", "mmmc", "mcmm"):
        groups = [make_group(group, state.admitted[group], state.step, 2) for group in state.batch_groups]
        state.finish_step(groups)
        assert tasks(state) == expected
        restored.restore(state.to_json())
        assert restored.admitted == state.admitted
    assert tasks(begin(seed=7)) == "mmmc"
    assert begin(seed=7).admitted != begin().admitted


def test_a_step_of_several_tasks_says_the_pass_rate_of_each():
    # 0, 2, 3 and 4 of 4 are correct
    groups = [make_group(group, f"prompt-{group}", 0, 4) for group in range(4)]
    assert not [name for name in batch_statistics(groups, 0) if name.startswith("pass_rate_")]
    groups[3] = [replace(rollout, task="code") for rollout in groups[3]]
    statistics = batch_statistics(groups, 0)
    assert statistics["pass_rate"] == 9 / 16
    assert statistics["pass_rate_math"] == 5 / 12
    assert statistics["pass_rate_code"] == 1.0


def test_a_step_counts_verdicts_and_groups_that_teach_nothing():
    groups = [make_group(group, f"prompt-{group}", 0, 4) for group in range(4)]
    groups[0] = [replace(rollout, verdict="no_answer") for rollout in groups[0]]
    statistics = batch_statistics(groups, 0) | verdict_statistics(groups, {}, "")
    assert statistics["verdicts"] == {"math/different": 3, "math/equal": 9, "math/no_answer": 4}
    assert statistics["zero_variance_groups"] == 2
    row = StepRow(step=1, **statistics)
    assert (row.no_answer_share, row.zero_variance_share) == (0.25, 0.5)
    # a length penalty makes rewards of mastered prompts differ
    groups[3] = [replace(rollout, reward=1 - 0.1 * rollout.completion) for rollout in groups[3]]
    assert batch_statistics(groups, 0)["zero_variance_groups"] == 1
