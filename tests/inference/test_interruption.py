"""Forced interruptions on the real engine: phases, masks, budgets, and the answer's log-probabilities."""

from collections import Counter

import pytest
from stale_kv_replay import errors, load_model, replay

from scalerl.config import LengthConfig
from scalerl.inference import completion as completion_module
from scalerl.inference.completion import CompletionSampler
from scalerl.inference.prompts import load_tokenizer

FORCED_TEXT = "=0;1=>"
LENGTH = LengthConfig(
    max_prompt_tokens=16,
    max_thinking_tokens=40,
    max_solution_tokens=20,
    think_end="=>",
    interruption_min_tokens=10,
    interruption_max_tokens=30,
    interruption_text=FORCED_TEXT,
)


@pytest.fixture(scope="module")
def finished(policies, tied_engine):
    """400 completions; the weights are swapped in the middle, when phases 1 and 2 both run."""
    engine, folders = tied_engine, policies["tied"]
    tokenizer = load_tokenizer(folders[0])
    engine.reload(folders[0], 0)
    sampler = CompletionSampler(engine, tokenizer, LENGTH, seed=3)
    for key in range(400):
        sampler.submit(key, tokenizer("7*3-4+8?")["input_ids"])
    finished, step = [], 0
    while sampler.num_running:
        finished += sampler.step()
        step += 1
        if step == 60:
            engine.reload(folders[1], 1)
    assert sorted(completion.key for completion in finished) == list(range(400))
    return finished


def thinking_tokens(completion):
    """Tokens sampled before the forced text."""
    return completion.loss_mask.index(False) if completion.interrupted else None


def test_the_phrase_is_forced_masked_and_answered(finished):
    interrupted = [completion for completion in finished if completion.interrupted]
    assert len(interrupted) > 10
    num_forced = len(FORCED_TEXT)
    for completion in interrupted:
        begin = thinking_tokens(completion)
        forced = slice(begin, begin + num_forced)
        num_answer = len(completion.token_ids) - begin - num_forced
        assert completion.loss_mask == [True] * begin + [False] * num_forced + [True] * num_answer
        assert completion.logprobs[forced] == [0.0] * num_forced
        assert all(
            logprob < 0 for logprob in completion.logprobs[:begin] + completion.logprobs[begin + num_forced :]
        )
        assert 1 <= num_answer <= LENGTH.max_solution_tokens
        assert completion.text.count(FORCED_TEXT) >= 1


def test_budgets_are_drawn_for_each_completion(finished):
    budgets = Counter(thinking_tokens(completion) for completion in finished if completion.interrupted)
    assert set(budgets) <= set(range(10, 31))
    assert len(budgets) > 8
    assert min(budgets) < 14
    assert max(budgets) > 26


def test_a_natural_end_of_thinking_is_not_interrupted(finished):
    natural = [completion for completion in finished if not completion.interrupted]
    beyond_budget = [
        completion for completion in natural if len(completion.token_ids) > LENGTH.interruption_max_tokens
    ]
    assert beyond_budget, "the test needs a solution that went on after its budget"
    for completion in natural:
        assert all(completion.loss_mask)
    for completion in beyond_budget:
        # phase 2 stops the solution at its own limit
        equals, greater = token_of("="), token_of(">")
        pairs = list(zip(completion.token_ids, completion.token_ids[1:], strict=False))
        end = pairs.index((equals, greater)) + 1
        assert len(completion.token_ids) - end - 1 <= LENGTH.max_solution_tokens


@pytest.mark.parametrize("control", ["interruption", "none"])
def test_thinking_that_ends_early_leaves_no_more_to_the_solution(policies, tied_engine, monkeypatch, control):
    """Against the engine itself: budgets of 90 tokens and more, of which a solution may have 20."""
    engine, folders = tied_engine, policies["tied"]
    tokenizer = load_tokenizer(folders[0])
    changes = {"max_thinking_tokens": 100, "interruption_min_tokens": 90, "interruption_max_tokens": 100}
    changes |= {"max_solution_tokens": 20, "think_end": "5", "length_control": control}
    length = LENGTH.model_copy(update=changes)
    sampled = []
    monkeypatch.setattr(completion_module, "WATCH_STEPS", 16)
    monkeypatch.setattr(engine, "step", lambda step=engine.step: _noting(step(), sampled))
    engine.reload(folders[0], 0)
    sampler = CompletionSampler(engine, tokenizer, length, seed=5)
    for key in range(200):
        sampler.submit(key, tokenizer("7*3-4+8?")["input_ids"])
    finished, step = [], 0
    while sampler.num_running:
        finished += sampler.step()
        step += 1
        if step == 20:
            engine.reload(folders[1], 1)
    natural = [completion for completion in finished if not completion.interrupted]
    at_limit = []
    for completion in natural:
        if token_of("5") in completion.token_ids:
            begin = completion.token_ids.index(token_of("5")) + 1
            num_solution_tokens, limit = len(completion.token_ids) - begin, min(20, 120 - begin)
            assert num_solution_tokens == limit if completion.truncated else num_solution_tokens <= limit
            at_limit += [completion] * completion.truncated
    assert len(at_limit) > 5
    assert {0, 1} in [set(completion.policy_versions) for completion in at_limit]
    # what is left of them is what the policies said, token by token and version by version
    models = {version: load_model(folder) for version, folder in enumerate(folders)}
    assert max(errors(replay(models, completion), completion).max() for completion in at_limit) < 1e-4
    # the engine itself was stopped, in time for 20 tokens: nothing was sampled only to be cut off
    assert sum(sampled) == sum(sum(completion.loss_mask) for completion in finished)


def _noting(segments, sampled):
    sampled += [len(segment.token_ids) for segment in segments]
    return segments


def token_of(character):
    from scalerl.base_model import build_tokenizer

    return build_tokenizer().convert_tokens_to_ids(character)


def test_the_end_of_sequence_token_is_kept_and_truncation_is_told(finished):
    end = token_of("<eos>")
    assert {completion.truncated for completion in finished} == {True, False}
    for completion in finished:
        assert (completion.token_ids[-1] == end) != completion.truncated
        assert completion.finish_reason == ("length" if completion.truncated else "stop")
        assert end not in completion.token_ids[:-1]
        assert "<eos>" not in completion.text
        assert len(completion.token_ids) <= LENGTH.max_completion_tokens
        assert completion.started_s < completion.finished_s


def test_logprobs_of_thinking_and_answer(policies, finished):
    # Phase 2 keeps the whole blocks of phase 1 and computes the rest of the context anew; without an update
    # in between that is the same thing, and with one only the first phase-2 step differs. So check those that
    # lived under one policy.
    models = {version: load_model(folder) for version, folder in enumerate(policies["tied"])}
    one_policy = [completion for completion in finished if len(set(completion.policy_versions)) == 1]
    assert sum(completion.interrupted for completion in one_policy) > 5
    assert {completion.policy_versions[0] for completion in one_policy} == {0, 1}
    assert max(errors(replay(models, completion), completion).max() for completion in one_policy) < 1e-4


def test_forced_tokens_carry_the_version_served_then(finished):
    for completion in finished:
        versions = completion.policy_versions
        assert versions == sorted(versions)
        assert len(versions) == len(completion.token_ids)


def test_an_interruption_without_room_for_an_answer_is_refused(policies, tied_engine):
    length = LENGTH.model_copy(update={"interruption_max_tokens": 40, "max_solution_tokens": 6})
    with pytest.raises(ValueError, match="6 tokens of interruption_text make 46: no answer fits"):
        CompletionSampler(tied_engine, load_tokenizer(policies["tied"][0]), length, seed=0)
