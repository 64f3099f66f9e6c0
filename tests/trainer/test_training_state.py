"""Cursor, window, plateaus, growing batches; and the proof by exhaustion that off-policyness stays within its
bound."""

import json
from itertools import pairwise

import pytest
from fake_generator import make_group
from hypothesis import given, settings
from hypothesis import strategies as st

from scalerl.settings import build_config
from scalerl.trainer.state import TrainingState

PROMPTS = [f"prompt-{number}" for number in range(50)]


def begin(**changes) -> TrainingState:
    values = {"budget.max_steps": 9, "batch.prompts": 2, "batch.generations_per_prompt": 2, "off_policy.k": 2}
    return TrainingState.begin(
        build_config(values | {key.replace("__", "."): value for key, value in changes.items()}), PROMPTS
    )


def advance(state: TrainingState, plateau: bool = False) -> None:
    groups = [make_group(group, state.admitted[group], state.step, 2) for group in state.batch_groups]
    state.finish_step(groups, plateau=plateau)


def test_pipeline_admits_k_batches_ahead():
    state = begin()
    assert list(state.admitted) == [0, 1, 2, 3, 4, 5]
    advance(state)
    assert (state.step, state.next_group, list(state.batch_groups)) == (1, 2, [2, 3])
    assert list(state.admitted) == [2, 3, 4, 5, 6, 7]


def test_ppo_admits_a_phase_of_k_batches_at_a_time():
    state = begin(off_policy__mode="ppo_off_policy")
    assert list(state.admitted) == [0, 1, 2, 3]
    advance(state)
    assert not state.is_generation_policy
    assert list(state.admitted) == [2, 3]
    advance(state)
    assert state.is_generation_policy
    assert list(state.admitted) == [4, 5, 6, 7]


def test_warm_up_by_hand():
    state = begin(optimizer__learning_rate=1.0, optimizer__warmup_steps=4)
    rates = []
    for _ in range(6):
        rates.append(state.learning_rate)
        advance(state)
    assert rates == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert begin(optimizer__learning_rate=1.0, optimizer__warmup_steps=0).learning_rate == 1.0


def test_a_plateau_lowers_the_learning_rate_and_doubles_the_batch_up_to_its_limit():
    state = begin(
        optimizer__learning_rate=1.0,
        optimizer__warmup_steps=0,
        optimizer__plateau_learning_rate_factor=0.5,
        optimizer__plateau_min_learning_rate_factor=0.2,
        batch__max_prompts=6,
    )
    seen = []
    for step in range(1, 11):
        advance(state, plateau=step in (6, 8, 9, 10))
        seen.append((state.learning_rate, state.batch_prompts, state.plateau_step))
    # .125 would be below the floor of .2, and a batch of 8 above the limit of 6
    assert seen[:5] == [(1.0, 2, -1)] * 5
    assert seen[5:] == [(0.5, 4, 6), (0.5, 4, 6), (0.25, 6, 8), (0.2, 6, 9), (0.2, 6, 10)]
    assert list(state.batch_groups) == list(range(32, 38))  # 6 steps of 2, 2 of 4 and 2 of 6 before


def test_the_floor_lowers_no_rate_by_itself():
    state = begin(optimizer__learning_rate=1.0, optimizer__warmup_steps=0, batch__max_prompts=4)
    advance(state, plateau=True)
    assert (state.learning_rate, state.batch_prompts) == (1.0, 4), "a batch may grow at a constant rate"


def test_in_ppo_a_batch_grows_only_with_a_new_phase():
    state = begin(off_policy__mode="ppo_off_policy", off_policy__k=3, batch__max_prompts=4)
    sizes = []
    for step in range(1, 7):
        sizes.append(state.batch_prompts)
        advance(state, plateau=step == 4)
    assert sizes == [2, 2, 2, 2, 2, 2]  # the plateau of step 4 lies within the second phase
    assert state.batch_prompts == 4
    assert len(state.admitted) == 12


@settings(deadline=None, max_examples=60)
@given(
    mode=st.sampled_from(["pipeline_rl", "ppo_off_policy"]),
    k=st.integers(1, 8),
    plateaus=st.lists(st.booleans(), min_size=1, max_size=30),
    max_prompts=st.sampled_from([2, 5, 16]),
)
def test_no_group_is_ever_trained_more_than_the_bound_after_its_admission(mode, k, plateaus, max_prompts):
    state = begin(off_policy__mode=mode, off_policy__k=k, batch__max_prompts=max_prompts)
    oldest_version = dict.fromkeys(state.admitted, 0)  # a generator starts a group the moment it is admitted
    lags = []
    for plateau in plateaus:
        lags += [state.step - oldest_version[group] for group in state.batch_groups]
        advance(state, plateau)
        oldest_version = {group: state.step for group in state.admitted} | oldest_version
    assert min(lags) >= 0
    assert max(lags) <= state.config.off_policy.max_off_policyness


def test_restored_progress_goes_on_as_if_nothing_had_happened():
    changes = {"batch__max_prompts": 8, "optimizer__plateau_learning_rate_factor": 0.5}
    state = begin(**changes)
    for plateau in (False, True, False):
        advance(state, plateau)
    state.generated_tokens, state.trained_tokens, state.flops, state.num_skipped = 9, 7, 1e9, 1
    saved = json.loads(json.dumps(state.to_json()))
    other = begin(**changes)
    other.restore(saved)
    assert other.to_json() == state.to_json()
    for each in (state, other):
        for plateau in (False, False, True):
            advance(each, plateau)
    assert other.to_json() == state.to_json()
    assert (other.batch_prompts, other.plateau_step, other.learning_rate_factor) == (8, 6, 0.25)


def test_groups_are_trained_in_order_and_once():
    state = begin(batch__max_prompts=4)
    trained = []
    for step in range(8):
        trained += state.batch_groups
        advance(state, plateau=step == 3)
    assert all(second == first + 1 for first, second in pairwise(trained))
    assert trained[0] == 0


@pytest.mark.parametrize("curriculum", ["uniform", "no_positive_resampling"])
def test_mastered_prompts_leave_later_epochs(curriculum):
    state = TrainingState.begin(
        build_config(
            {"budget.max_steps": 9, "batch.prompts": 2, "off_policy.k": 1, "algo.curriculum": curriculum}
        ),
        PROMPTS[:6],
    )
    mastered = state.admitted[1]  # make_group: group 1 of 2 completions is all correct
    advance(state)
    later = []
    for _ in range(11):
        later += [state.admitted[group] for group in state.batch_groups]
        groups = [
            make_group(4 * group, state.admitted[group], 0, 2) for group in state.batch_groups
        ]  # all wrong
        for group, index in zip(groups, state.batch_groups, strict=True):
            object.__setattr__(group[0], "group", index)
        state.finish_step(groups)
    assert (mastered in later) == (curriculum == "uniform")
    assert state.stream.num_dropped == (curriculum == "no_positive_resampling")


def test_the_run_ends_when_every_prompt_is_mastered():
    state = begin()
    for prompt_id in PROMPTS:
        state.stream.record(prompt_id, 100, 100)
    while not state.exhausted:
        advance(state)
    assert state.step == 3  # the six groups admitted at the start
    assert state.admitted == {}
