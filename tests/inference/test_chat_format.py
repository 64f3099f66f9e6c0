"""System messages, arguments of a chat template, and where a template ends the thinking."""

import pytest
from factories import write_run
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from scalerl.config import DataConfig
from scalerl.inference.chat_format import ChatFormat
from scalerl.inference.sampling_role import SamplingRole
from scalerl.tasks.answers import final_text

WORDS = ["[s]", "[u]", "[a]", "[/]", "Be", "brief.", "I", "am", "Tiny.", "1+2?", "<think>", "</think>"]
"""The vocabulary: the marks of a system, user and assistant message and of a message's end; then texts."""

WITH_DEFAULT = (
    "{% if messages[0].role != 'system' %}[s] I am Tiny. [/] {% endif %}"
    "{% for message in messages %}"
    "{{ {'system': '[s] ', 'user': '[u] '}[message.role] }}{{ message.content }} [/] "
    "{% endfor %}"
    "{% if add_generation_prompt %}[a]{% endif %}"
)
"""A template that introduces the model unless it is given a system message, as Qwen2.5's and SmolLM2's do."""

THINKING = (
    "{% for message in messages %}"
    "{{ {'system': '[s] ', 'user': '[u] '}[message.role] }}{{ message.content }} [/] "
    "{% endfor %}"
    "{% if add_generation_prompt %}[a]"
    "{% if enable_thinking is defined and enable_thinking is false %} <think> </think> {% endif %}"
    "{% endif %}"
)
"""A template with Qwen3's switch: without thinking, the prompt holds an empty thinking part."""

OPENED = "{% for message in messages %}[u] {{ message.content }} [/] {% endfor %}[a] <think>"
"""A template that opens the thinking, as DeepSeek-R1's does; it leaves out who says what."""

NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}[u] {{ message.content }} [/] {% endfor %}[a]"
)
"""A template without system messages, as Gemma 2's."""

IGNORES_SYSTEM = (
    "{% for message in messages if message.role == 'user' %}[u] {{ message.content }} [/] {% endfor %}[a]"
)


def make_tokenizer(template: str | None) -> PreTrainedTokenizerFast:
    vocabulary = {word: index for index, word in enumerate(["<unk>", *dict.fromkeys(WORDS)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", chat_template=template)


def prompt(template: str | None, think_end: str = "", **data) -> str:
    """Return the words of the prompt that asks 1+2?"""
    tokenizer = make_tokenizer(template)
    token_ids = ChatFormat(tokenizer, DataConfig(**data), think_end).tokenize("1+2?")
    return " ".join(tokenizer.convert_ids_to_tokens(token_ids))


def test_the_system_prompt_is_the_templates_own_or_none_or_ours():
    assert prompt(WITH_DEFAULT) == "[s] I am Tiny. [/] [u] 1+2? [/] [a]"
    assert prompt(WITH_DEFAULT, system_prompt="template") == "[s] I am Tiny. [/] [u] 1+2? [/] [a]"
    assert prompt(WITH_DEFAULT, system_prompt="") == "[s] [/] [u] 1+2? [/] [a]"
    assert prompt(WITH_DEFAULT, system_prompt="Be brief.") == "[s] Be brief. [/] [u] 1+2? [/] [a]"
    assert prompt(THINKING) == "[u] 1+2? [/] [a]"
    assert prompt(THINKING, system_prompt="Be brief.") == "[s] Be brief. [/] [u] 1+2? [/] [a]"


def test_arguments_reach_the_template():
    asked = "[u] 1+2? [/] [a]"
    assert prompt(THINKING, think_end="</think>", chat_template_kwargs={"enable_thinking": True}) == asked
    assert prompt(THINKING, chat_template_kwargs={"enable_thinking": False}) == f"{asked} <think> </think>"


def test_thinking_that_the_prompt_opened_ends_in_the_response():
    assert prompt(OPENED, think_end="</think>").endswith("[a] <think>")
    assert final_text("1 and 2 are 3 </think> 3", "</think>") == " 3"
    assert final_text("1 and 2 are", "</think>") is None


def test_thinking_that_the_prompt_ends_is_refused_unless_the_run_knows_of_none():
    off = {"enable_thinking": False}
    with pytest.raises(
        ValueError, match=r"ends the thinking in the prompt .* length\.think_end = \"\" and length\."
    ):
        prompt(THINKING, think_end="</think>", chat_template_kwargs=off)
    assert prompt(THINKING, think_end="", chat_template_kwargs=off).endswith("</think>")
    assert final_text("3", "") == "3"


@pytest.mark.parametrize(
    "data", [{"system_prompt": ""}, {"chat_template_kwargs": {"enable_thinking": False}}]
)
def test_without_a_template_there_is_neither_system_prompt_nor_argument(data):
    assert prompt(None) == "1+2?"
    with pytest.raises(ValueError, match=r"need a chat template, .* has none: .* data\.instruction"):
        prompt(None, **data)


@pytest.mark.parametrize(
    ("template", "data", "message"),
    [
        (
            NO_SYSTEM,
            {"system_prompt": "Be brief."},
            r"refuses .*System role not supported.*data\.instruction",
        ),
        (IGNORES_SYSTEM, {"system_prompt": "Be brief."}, r"leaves data\.system_prompt = 'Be brief\.' out"),
        (
            THINKING,
            {"chat_template_kwargs": {"enable_thinkng": False}},
            r"reads no enable_thinkng; did you mean enable_thinking\?",
        ),
        (THINKING, {"chat_template_kwargs": {"tokenize": False}}, r"kwargs\.tokenize is not for the user"),
        (THINKING, {"chat_template_kwargs": {"messages": "x"}}, r"kwargs\.messages is not for the user"),
    ],
)
def test_what_a_template_would_ignore_or_misread_is_refused(template, data, message):
    with pytest.raises(ValueError, match=message):
        prompt(template, **data)


def test_a_role_refuses_before_it_waits_for_a_policy_or_starts_an_engine(tmp_path, monkeypatch):
    make_tokenizer(None).save_pretrained(tmp_path / "model")
    paths = write_run(tmp_path / "run", f"model.path={tmp_path}/model", "data.system_prompt=Be brief.")

    def too_late(*arguments):
        raise AssertionError("the prompts are tried out first")

    monkeypatch.setattr("scalerl.inference.sampling_role.import_vllm", too_late)
    monkeypatch.setattr("scalerl.inference.sampling_role.wait_for_manifest", too_late)
    monkeypatch.setattr("scalerl.inference.sampling_role.StopSignal", lambda: None)  # pytest keeps its own
    with pytest.raises(ValueError, match="need a chat template"):
        SamplingRole(paths.root, index=0, attempt=1)
