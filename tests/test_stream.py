"""The prompt stream: epochs, dropping, resuming."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalerl.data.stream import PromptStream


def prompts(count: int) -> list[str]:
    return [f"{number:016x}" for number in range(count)]


def play(stream: PromptStream, counts: list[int]) -> list[str]:
    """Draw in portions; every group has 4 completions, as many of them correct as its prompt's last digit says."""
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
    for other in (PromptStream(["a", "c"], seed=0, curriculum="uniform"), PromptStream(["a", "b"], seed=1, curriculum="uniform")):
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
