"""The bound on solutions, worked by hand with an engine that samples a given text: no vLLM."""

import pytest

from scalerl.config import LengthConfig
from scalerl.inference import completion as completion_module
from scalerl.inference.completion import Completion, CompletionSampler
from scalerl.inference.engine import Segment

END = "$"
"""End of sequence; every other character is one token, its code point."""
LENGTH = LengthConfig(
    max_prompt_tokens=8,
    max_thinking_tokens=12,
    max_solution_tokens=4,
    think_end="=>",
    interruption_min_tokens=10,
    interruption_max_tokens=10,
    interruption_text="!=>",
)


class Characters:
    def encode(self, text, add_special_tokens):
        return [ord(character) for character in text]

    def decode(self, token_ids, **options):
        return "".join(map(chr, token_ids))


class ScriptedEngine:
    """Samples the characters of `script`, one a step; a request goes on where the one before it ended."""

    policy_name, policy_version = "policy", 0

    def __init__(self, script: str) -> None:
        self.script = script
        self.used = 0
        self.requests: list[tuple[int, int]] = []
        """(tokens of prompt and completion so far, max_tokens) of every request."""
        self.tokens: list[int] = []
        self.max_tokens = 0

    def submit(self, request_id, token_ids, *, max_tokens, cache_salt):
        self.request_id, self.max_tokens, self.tokens = request_id, max_tokens, []
        self.requests.append((len(token_ids), max_tokens))

    def sampled(self, request_id, begin=0):
        assert request_id == self.request_id
        return self.tokens[begin:]

    def limit(self, request_id, max_tokens):
        assert request_id == self.request_id
        self.max_tokens = max_tokens

    def step(self):
        self.tokens.append(ord(self.script[self.used]))
        self.used += 1
        self.policy_version = self.used // 7  # a reload every seven tokens
        stopped = chr(self.tokens[-1]) == END
        if not stopped and len(self.tokens) < self.max_tokens:
            return []
        first = self.used - len(self.tokens) + 1
        numbers = range(first, self.used + 1)
        return [
            Segment(
                request_id=self.request_id,
                token_ids=self.tokens,
                logprobs=[-float(number) for number in numbers],
                policy_versions=[(number - 1) // 7 for number in numbers],
                stopped=stopped,
            )
        ]


def sample(script: str, length: LengthConfig = LENGTH) -> tuple[Completion, ScriptedEngine]:
    engine = ScriptedEngine(script + "x" * 100)
    sampler: CompletionSampler[int] = CompletionSampler(engine, Characters(), length, seed=0)  # type: ignore[arg-type]
    sampler.submit(0, [1, 2, 3])
    while True:
        if finished := sampler.step():
            return finished[0], engine


CASES = [
    # the thinking ends with token 4: four tokens of solution, whatever the budget of 10 would leave
    ("ab=>123456789", "none", "ab=>1234", True, False),
    ("ab=>123456789", "interruption", "ab=>1234", True, False),
    ("ab=>123456789", "length_penalty", "ab=>1234", True, False),
    # the end of sequence as the last token allowed ends it, one token later it is cut off
    ("ab=>123$", "interruption", "ab=>123", False, False),
    ("ab=>1234$", "interruption", "ab=>1234", True, False),
    ("ab=>1$", "interruption", "ab=>1", False, False),
    # a second end of thinking buys nothing
    ("=>12=>34$", "interruption", "=>12=>", True, False),
    # the budget of 10 falls into the solution, or into the middle of think_end: phase 2 has what is left
    ("abcdef=>123456", "interruption", "abcdef=>1234", True, False),
    ("abcdefgh=>12$", "interruption", "abcdefgh=>12", False, False),
    # thinking that goes on is interrupted after 10 tokens, and answers in four
    ("abcdefghijklmnop", "interruption", "abcdefghij!=>klm", True, True),
    ("abcdefghij5$", "interruption", "abcdefghij!=>5", False, True),
    ("abcdefghi=5$", "interruption", "abcdefghi=!=>5", False, True),
    # without an interruption thinking may take all 16 tokens, and then there is no solution
    ("abcdefghijklmnopqrs", "none", "abcdefghijklmnop", True, False),
    ("abcdefghijklm=>1234", "none", "abcdefghijklm=>1", True, False),
    ("abc$", "none", "abc", False, False),
]


@pytest.mark.parametrize("watch_steps", [1, 2, 3, 1000])
@pytest.mark.parametrize(("script", "control", "text", "truncated", "interrupted"), CASES)
def test_a_solution_ends_at_its_limit(
    script, control, text, truncated, interrupted, watch_steps, monkeypatch
):
    monkeypatch.setattr(completion_module, "WATCH_STEPS", watch_steps)
    changes = {"length_control": control, "penalty_max_tokens": 14, "penalty_cache_tokens": 4}
    completion, _ = sample(script, LENGTH.model_copy(update=changes))
    assert (completion.text, completion.truncated, completion.interrupted) == (text, truncated, interrupted)
    num_tokens = len(text) + (not truncated)
    forced = text.find("!=>") if interrupted else num_tokens
    sampled = [index if index < forced else index - 3 for index in range(num_tokens)]
    mask = [not forced <= index < forced + 3 for index in range(num_tokens)]
    assert completion.loss_mask == mask
    # the token sampled as the n-th has logprob -n and version (n - 1) // 7, phase by phase and over the cut
    expected = [-float(number + 1) if kept else 0.0 for number, kept in zip(sampled, mask, strict=True)]
    assert completion.logprobs == expected
    versions = [number // 7 for number, kept in zip(sampled, mask, strict=True) if kept]
    assert [v for v, kept in zip(completion.policy_versions, mask, strict=True) if kept] == versions


def test_an_early_end_of_thinking_is_noticed_while_it_runs(monkeypatch):
    monkeypatch.setattr(completion_module, "WATCH_STEPS", 3)
    # think_end is whole with token 4 and seen after step 6; the limit of 4 + 4 tokens ends the same request
    _, engine = sample("ab=>123456789")
    assert (engine.used, engine.requests) == (8, [(3, 10)])
    # in time for a limit beyond the budget of 10, too: no second request has to queue
    _, engine = sample("abcdef=>123456")
    assert (engine.used, engine.requests) == (12, [(3, 10)])
    # too late for it: the budget ends phase 1 first
    _, engine = sample("abcdefgh=>1234")
    assert (engine.used, engine.requests) == (14, [(3, 10), (13, 4)])
    # beyond its limit when it is seen: one more token, and what is too much is cut off
    monkeypatch.setattr(completion_module, "WATCH_STEPS", 7)
    completion, engine = sample("=>123456789")
    assert (completion.text, engine.used) == ("=>1234", 8)


def test_think_end_is_found_across_two_looks(monkeypatch):
    monkeypatch.setattr(completion_module, "WATCH_STEPS", 3)
    _, engine = sample("ab=>123456789", LENGTH.model_copy(update={"length_control": "none"}))
    assert engine.used == 8, "the second look is at tokens 4 to 6, and think_end began with token 3"


def test_a_model_that_does_not_think_apart_has_all_tokens():
    length = LENGTH.model_copy(update={"length_control": "none", "think_end": ""})
    completion, _ = sample("ab=>123456789abcdefg", length)
    assert (completion.text, completion.truncated) == ("ab=>123456789abc", True)
