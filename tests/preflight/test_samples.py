"""What samples say of a run: the reason, and what to set."""

import re

import pytest

from scalerl.preflight.samples import describe_samples, judge_samples
from scalerl.preflight.variance import zero_variance_share
from scalerl.settings import build_config

NUM_PROMPTS, NUM_SAMPLES = 16, 4


def figures(**changes) -> dict:
    """Return the figures of a healthy model: every second prompt is solved by half of its completions."""
    values = {
        "num_completions": NUM_PROMPTS * NUM_SAMPLES,
        "samples_per_prompt": NUM_SAMPLES,
        "num_correct": [2, 0] * (NUM_PROMPTS // 2),
        "num_distinct": [NUM_SAMPLES] * NUM_PROMPTS,
        "verdicts": {"different": 44, "equal": 16, "no_answer": 4},
        "truncated": 0.0,
        "interrupted": 0.1,
        "think_end_seen": 0.8,
        "completion_tokens_mean": 20.0,
        "completion_tokens_p90": 30.0,
        "template_faults": {"unknown_tokens": 0, "broken_marks": []},
        "prompt": "<user>1+1?",
        "examples": [{"problem": "1+1?", "response": "I do not know", "answer": "2", "verdict": "different"}],
    }
    return values | changes


def findings(*overrides: str, **changes) -> list[tuple[bool, str]]:
    config = build_config(dict(text.split("=") for text in overrides))
    return [(finding.refuses, finding.text) for finding in judge_samples(figures(**changes), config)]


def test_a_healthy_model_is_let_through():
    assert findings() == []
    numbers = describe_samples(figures(), build_config({}))
    assert (numbers["pass_rate"], numbers["no_answer"], numbers["eos_seen"]) == (0.25, 4 / 64, 1.0)


NONE_RIGHT = {"num_correct": [0] * NUM_PROMPTS}
UNANSWERED = NONE_RIGHT | {"verdicts": {"no_answer": 64}}
HOPELESS = [
    (
        NONE_RIGHT | {"num_distinct": [1] * NUM_PROMPTS},
        r"the same, so no group.*raise algo.temperature \(1.0;",
    ),
    (UNANSWERED | {"truncated": 1.0}, r"ran out of tokens: raise length.max_thinking_tokens \(12288\)"),
    (UNANSWERED | {"think_end_seen": 0.0}, r"holds length.think_end = '</think>'.*set it to what this model"),
    (UNANSWERED, "no answer was found in 64 completions: ask for its format in data.instruction"),
    (NONE_RIGHT, r"none of 64 completions was right.*chat template.*'<user>1\+1\?'.*'I do not know'"),
    ({"num_correct": [4] * NUM_PROMPTS}, "all 64 completions were right.*prepare harder problems"),
]


@pytest.mark.parametrize(("changes", "reason"), HOPELESS)
def test_a_hopeless_run_is_refused_for_the_reason_that_explains_the_others(changes, reason):
    ((refuses, text),) = findings(**changes)
    assert refuses
    assert re.search(reason, text), text


def test_a_poor_run_is_warned_of():
    poor = {"num_correct": [1] + [0] * 15, "verdicts": {"no_answer": 40}, "truncated": 0.6}
    found = findings(**poor)
    assert not any(refuses for refuses, _ in found)
    assert [text.split(":")[0] for _, text in found] == [
        "the pass rate is 0.016",
        "62% of completions have no answer",
        "60% of completions ran out of tokens",
    ]


def test_a_template_of_another_model_is_poor_and_hopeless_where_nothing_ends():
    broken = {"template_faults": {"unknown_tokens": 0, "broken_marks": ["<|im_start|>"]}}
    ((refuses, text),) = findings(**broken)
    assert not refuses and "marked by <|im_start|>, no token of this tokenizer" in text
    assert findings(**broken, truncated=0.6)[0][0]
    ((refuses, _),) = findings(template_faults={"unknown_tokens": 3, "broken_marks": []})
    assert refuses


def test_completions_that_are_all_cut_are_hopeless_though_some_are_right():
    (refuses, text), *_ = findings(truncated=1.0)
    assert refuses and "ran out of tokens: raise length.max_thinking_tokens" in text


def test_thinking_that_only_ends_by_force_is_poor():
    ((refuses, text),) = findings(interrupted=1.0, think_end_seen=0.0)
    assert not refuses and "only where it is forced to" in text


def test_groups_without_variance_are_foreseen():
    # prompts that are solved always or never: every group is all right or all wrong
    assert zero_variance_share([8, 0] * 32, 8, 16) > 0.97
    # all prompts alike with a pass rate of one half: 2 x .5^16
    assert zero_variance_share([4] * 64, 8, 16) < 0.001
    # a uniform spread of pass rates is the Beta(1, 1): 2 / (G + 1)
    uniform = [value for value in range(9) for _ in range(20)]
    assert zero_variance_share(uniform, 8, 16) == pytest.approx(2 / 17, abs=0.02)
