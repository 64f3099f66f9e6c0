"""Prompt text and chat template."""

import pytest

from scalerl.base_model import build_tokenizer
from scalerl.config import DataConfig, LengthConfig
from scalerl.inference.prompts import PromptEncoder
from scalerl.tasks.registry import TASKS


def limit(max_prompt_tokens: int) -> LengthConfig:
    return LengthConfig(max_prompt_tokens=max_prompt_tokens)


def test_raw_text_without_a_chat_template():
    tokenizer = build_tokenizer()
    prompts = PromptEncoder(tokenizer, DataConfig(), limit(4))
    assert tokenizer.convert_ids_to_tokens(prompts.encode("p", "1+2?")) == ["1", "+", "2", "?"]


def test_instruction_and_chat_template():
    tokenizer = build_tokenizer()
    tokenizer.chat_template = (
        "{% for message in messages %}<{{ message['content'] }}>{% endfor %}"
        "{% if add_generation_prompt %}={% endif %}"
    )
    prompts = PromptEncoder(tokenizer, DataConfig(instruction="8?"), limit(32))
    token_ids = prompts.encode("p", "1+2?")
    # the line break between problem and instruction is no character of this tokenizer
    expected = "< 1 + 2 ? <unk> 8 ? > ="
    assert " ".join(tokenizer.convert_ids_to_tokens(token_ids)) == expected
    assert prompts.encode("p", "1+2?") is token_ids


def test_a_prompt_that_is_too_long_is_named():
    prompts = PromptEncoder(build_tokenizer(), DataConfig(), limit(3))
    with pytest.raises(ValueError, match=r"prompt abc123 has 4 tokens .* length\.max_prompt_tokens is 3"):
        prompts.encode("abc123", "1+2?")


class Words:
    """A tokenizer whose tokens are words."""

    chat_template = None

    def __call__(self, text: str) -> dict:
        return {"input_ids": text.split()}


def test_every_task_has_its_instruction():
    data = DataConfig(instruction="Box it.", code_instruction="Write code.")
    prompts = PromptEncoder(Words(), data, limit(64))
    assert prompts.encode("a", "1+1?", "math") == ["1+1?", "Box", "it."]
    assert prompts.encode("b", "Echo.", "code") == ["Echo.", "Write", "code."]
    assert prompts.encode("c", "1+1?", "reasoning_gym") == [
        "1+1?",
        *TASKS["reasoning_gym"].instruction.split(),
    ]
    assert "<answer> and </answer>" in TASKS["reasoning_gym"].instruction
    assert prompts.count_tokens("1+1?") == 3
