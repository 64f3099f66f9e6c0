"""Math and code in one run: the order of their groups, and their pass rates."""

from dataclasses import replace

from fake_generator import make_group

from scalerl.settings import build_config
from scalerl.trainer.objective import batch_statistics
from scalerl.trainer.progress import Progress

MATH, CODE = [f"math-{number}" for number in range(6)], [f"code-{number}" for number in range(3)]


def begin(**changes) -> Progress:
    values = {
        "budget.max_steps": 9,
        "batch.prompts": 2,
        "off_policy.k": 1,
        "data.code_fraction": 0.25,
    } | changes
    return Progress.begin(build_config(values), MATH + CODE, set(CODE))


def tasks(progress: Progress) -> str:
    return "".join(prompt_id[0] for prompt_id in progress.admitted.values())


def test_groups_are_admitted_at_the_ratio_and_a_restored_run_goes_on_with_it():
    progress, restored = begin(), begin()
    assert tasks(progress) == "mmmc"
    for expected in ("mcmm", "mmmc", "mcmm"):
        groups = [
            make_group(group, progress.admitted[group], progress.step, 2) for group in progress.batch_groups
        ]
        progress.finish_step(groups, 0.5)
        assert tasks(progress) == expected
        restored.restore(progress.state())
        assert restored.admitted == progress.admitted
    assert tasks(begin(seed=7)) == "mmmc"
    assert begin(seed=7).admitted != begin().admitted


def test_a_step_of_several_tasks_says_the_pass_rate_of_each():
    groups = [
        make_group(group, f"prompt-{group}", 0, 4) for group in range(4)
    ]  # 0, 2, 3 and 4 of 4 are correct
    assert not [name for name in batch_statistics(groups, 0) if name.startswith("pass_rate_")]
    groups[3] = [replace(rollout, task="code") for rollout in groups[3]]
    statistics = batch_statistics(groups, 0)
    assert statistics["pass_rate"] == 9 / 16
    assert statistics["pass_rate_math"] == 5 / 12
    assert statistics["pass_rate_code"] == 1.0
