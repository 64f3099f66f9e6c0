"""The prompt stream: epochs, dropping, resuming."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalerl.data.stream import MixedStream, PromptStream, make_stream


def prompts(count: int) -> list[str]:
    return [f"{number:016x}" for number in range(count)]


def play(stream: PromptStream | MixedStream, counts: list[int]) -> list[str]:
    """Draw in portions; every group has 4 completions, as many of them correct as its prompt's last digit
    says."""
    drawn = []
    for count in counts:
        portion = stream.draw(count)
        for prompt_id in portion:
            stream.record(prompt_id, int(prompt_id, 16) % 5, 4)
        drawn += portion
    return drawn


@given(count=st.integers(1, 30), seed=st.integers(0, 100))
def test_an_epoch_visits_every_prompt_once_in_an_order_of_its_own(count, seed):
    stream = PromptStream(prompts(count), seed=seed, curriculum="uniform")
    epochs = [stream.draw(count) for _ in range(4)]
    assert all(sorted(epoch) == prompts(count) for epoch in epochs)
    assert count < 10 or len({tuple(epoch) for epoch in epochs}) > 1
    assert stream.epoch == 3


@given(
    count=st.integers(2, 20),
    seed=st.integers(0, 100),
    before=st.lists(st.integers(0, 15), max_size=6),
    after=st.lists(st.integers(0, 15), max_size=6),
    curriculum=st.sampled_from(["uniform", "no_positive_resampling"]),
)
def test_restored_anywhere_it_continues_alike(count, seed, before, after, curriculum):
    stream = PromptStream(prompts(count), seed=seed, curriculum=curriculum)
    play(stream, before)
    state = json.loads(json.dumps(stream.state()))
    restored = PromptStream(prompts(count), seed=seed, curriculum=curriculum)
    play(restored, [3])
    restored.restore(state)
    assert play(restored, after) == play(stream, after)
    assert restored.state() == stream.state()


@given(count=st.integers(5, 40), num_epochs=st.integers(2, 4), seed=st.integers(0, 20))
def test_mastered_prompts_leave_from_the_next_epoch_on(count, num_epochs, seed):
    stream = PromptStream(prompts(count), seed=seed, curriculum="no_positive_resampling")
    kept = [prompt_id for prompt_id in prompts(count) if int(prompt_id, 16) % 5 < 4]
    assert sorted(play(stream, [1] * count)) == prompts(count)
    for _ in range(num_epochs):
        assert sorted(play(stream, [1] * len(kept))) == kept


def test_the_rate_is_of_all_completions_so_far_and_dropping_is_for_good():
    stream = PromptStream(["a", "b"], seed=0, curriculum="no_positive_resampling")
    stream.draw(2)
    stream.record("a", 17, 20)
    stream.record("b", 0, 20)
    assert sorted(stream.draw(2)) == ["a", "b"]  # 17/20 = .85
    stream.record("a", 10, 10)
    assert stream.draw(3) == ["b", "b", "b"]  # 27/30 = .9
    stream.record("a", 0, 100)  # a group that was still on its way
    assert stream.draw(3) == ["b", "b", "b"]
    assert stream.num_dropped == 1


def test_uniform_drops_nothing():
    stream = PromptStream(["a"], seed=0, curriculum="uniform")
    stream.record("a", 16, 16)
    assert stream.draw(5) == ["a"] * 5


def test_the_stream_ends_when_every_prompt_is_mastered():
    stream = PromptStream(["a", "b"], seed=0, curriculum="no_positive_resampling")
    first = stream.draw(2)
    stream.record(first[0], 4, 4)
    assert stream.draw(2) == [first[1]] * 2
    stream.record(first[1], 20, 20)
    assert stream.draw(5) == []
    assert stream.draw(1) == []
    assert stream.num_dropped == 2


def test_another_stream_s_state_is_refused():
    state = PromptStream(["a", "b"], seed=0, curriculum="uniform").state()
    for other in (
        PromptStream(["a", "c"], seed=0, curriculum="uniform"),
        PromptStream(["a", "b"], seed=1, curriculum="uniform"),
    ):
        with pytest.raises(ValueError, match="data and seed it was started with"):
            other.restore(state)


@pytest.mark.parametrize("prompt_ids", [[], ["a", "a"]])
def test_no_prompts_or_one_twice(prompt_ids):
    with pytest.raises(ValueError, match="each once"):
        PromptStream(prompt_ids, seed=0, curriculum="uniform")


def test_the_state_of_fifty_thousand_prompts_is_small():
    stream = PromptStream(prompts(50_000), seed=0, curriculum="no_positive_resampling")
    for prompt_id in stream.draw(40_000):
        stream.record(prompt_id, 15, 16)
    stream.draw(20_000)
    assert len(json.dumps(stream.state())) < 1_000_000


# Two tasks at a ratio


def mixed(num_math: int, num_code: int, fraction: float | None, seed: int = 0, curriculum="uniform"):
    """Math prompts are the even ones, code prompts the odd ones."""
    prompt_ids = [f"{2 * number:016x}" for number in range(num_math)] + [
        f"{2 * number + 1:016x}" for number in range(num_code)
    ]
    code_ids = {prompt_id for prompt_id in prompt_ids if is_code(prompt_id)}
    return make_stream(
        prompt_ids, code_ids, seed=seed, curriculum=curriculum, drop_pass_rate=0.9, code_fraction=fraction
    )


def is_code(prompt_id: str) -> bool:
    return int(prompt_id, 16) % 2 == 1


def test_a_fifth_of_code_is_every_fifth_prompt():
    drawn = mixed(7, 3, 0.2).draw(20)
    assert [number for number, prompt_id in enumerate(drawn) if is_code(prompt_id)] == [4, 9, 14, 19]


@given(
    num_math=st.integers(1, 15),
    num_code=st.integers(1, 15),
    percent=st.integers(1, 99),
    seeds=st.tuples(st.integers(0, 50), st.integers(0, 50)),
    portions=st.lists(st.integers(0, 12), max_size=8),
)
def test_the_ratio_is_exact_for_every_beginning_and_seed_and_way_to_draw(
    num_math, num_code, percent, seeds, portions
):
    first, second = (mixed(num_math, num_code, percent / 100, seed) for seed in seeds)
    drawn = [is_code(prompt_id) for count in portions for prompt_id in first.draw(count)]
    assert drawn == [is_code(prompt_id) for prompt_id in second.draw(len(drawn))]
    for length in range(len(drawn) + 1):
        assert sum(drawn[:length]) == length * percent // 100


@given(
    num_math=st.integers(1, 12),
    num_code=st.integers(1, 12),
    percent=st.integers(1, 99),
    seed=st.integers(0, 50),
)
def test_each_task_of_a_mixture_has_its_own_epochs(num_math, num_code, percent, seed):
    drawn = mixed(num_math, num_code, percent / 100, seed).draw(150)
    for task, count in ((False, num_math), (True, num_code)):
        own = [prompt_id for prompt_id in drawn if is_code(prompt_id) == task]
        epochs = [own[begin : begin + count] for begin in range(0, len(own) - count + 1, count)]
        assert all(len(set(epoch)) == count for epoch in epochs)


@given(
    num_math=st.integers(1, 15),
    num_code=st.integers(1, 15),
    percent=st.integers(1, 99),
    before=st.lists(st.integers(0, 15), max_size=6),
    after=st.lists(st.integers(0, 15), max_size=6),
    curriculum=st.sampled_from(["uniform", "no_positive_resampling"]),
)
def test_a_mixture_restored_anywhere_continues_alike(num_math, num_code, percent, before, after, curriculum):
    stream, restored = (mixed(num_math, num_code, percent / 100, 3, curriculum) for _ in range(2))
    play(stream, before)
    state = json.loads(json.dumps(stream.state()))
    play(restored, [3])
    restored.restore(state)
    assert play(restored, after) == play(stream, after)
    assert restored.state() == stream.state()


def test_a_task_that_has_run_out_leaves_its_turns_to_the_other():
    stream = mixed(2, 1, 0.5, curriculum="no_positive_resampling")
    math_first, code, math_second = stream.draw(3)
    assert [is_code(prompt_id) for prompt_id in (math_first, code, math_second)] == [False, True, False]
    stream.record(code, 4, 4)
    assert not any(map(is_code, stream.draw(6)))
    assert (stream.num_prompts, stream.num_dropped) == (3, 1)
    for prompt_id in (math_first, math_second):
        stream.record(prompt_id, 40, 40)
    assert stream.draw(2) == []
    assert stream.num_dropped == 3


def test_a_ratio_of_one_task_is_refused_and_none_is_one_pool():
    for counts in ((3, 0), (0, 3)):
        with pytest.raises(
            ValueError, match=r"data\.code_fraction=0\.2 mixes two tasks.*leave data\.code_fraction out"
        ):
            mixed(*counts, 0.2)
    assert isinstance(mixed(3, 3, None), PromptStream)
    assert mixed(3, 0, None).num_prompts == 3
