"""Mistakes in a config that would burn a budget: each is refused by what the generator's exam samples.

A real engine samples from a tiny trained base; what needs no engine is in test_input_checks.py.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from scalerl.config import RunConfig
from scalerl.data.problem import Problem, load_problems, make_task_problem
from scalerl.exams.generator import GeneratorExam
from scalerl.inference.engine import EngineOptions
from scalerl.inference.prompts import PromptEncoder, load_tokenizer
from scalerl.preflight.report import Finding
from scalerl.preflight.samples import describe_samples, judge_samples
from scalerl.role import start_verifier
from scalerl.settings import load_config

DEMO = Path(__file__).parents[2] / "sweeps" / "scale" / "demo.toml"
NUM_PROBLEMS = 64


@pytest.fixture
def examine(inputs, open_engine, run_folder, paths) -> Callable[..., tuple[list[Finding], dict]]:
    """examine(*"key=value", model=..., problems=...): sample as preflight does: (findings, numbers)."""

    def run(
        *overrides: str, model: Path = inputs / "tied", problems: list[Problem] | None = None
    ) -> tuple[list[Finding], dict]:
        fixed = [f"model.path={model}", "generator.kv_cache_gb=0.1", "generator.max_num_seqs=64"]
        config = load_config([DEMO], [*fixed, *overrides])
        problems = problems or load_problems(inputs / "data" / "train.parquet")[:NUM_PROBLEMS]
        figures = sample(config, model, problems)
        return judge_samples(figures, config), describe_samples(figures, config)

    def sample(config: RunConfig, model: Path, problems: list[Problem]) -> dict:
        prompts = PromptEncoder(load_tokenizer(model), config.data, config.length)
        options = EngineOptions.of(config, config.seed)
        chosen = {name: getattr(options, name) for name in EngineOptions.__dataclass_fields__}
        with start_verifier(config, problems) as pool, open_engine(model, **chosen) as engine:
            return GeneratorExam(config, paths, engine, model, prompts, pool).run(problems)

    return run


def refusal(found: tuple[list[Finding], dict]) -> str:
    """Return the first reason for a refusal."""
    findings, numbers = found
    assert findings and findings[0].refuses, (findings, numbers)
    return findings[0].text


def test_the_base_itself_is_let_through(examine):
    findings, numbers = examine()
    assert [finding.text for finding in findings if finding.refuses] == []
    assert numbers["pass_rate"] > 0 and numbers["think_end_seen"] > 0.5 and numbers["eos_seen"] > 0.5


def test_a_think_end_that_the_model_never_writes(examine):
    room = "length.max_solution_tokens=16"  # the tiny tokenizer has a token a character
    text = refusal(examine("length.think_end=</think>", "length.interruption_text=</think>", room))
    assert "holds length.think_end = '</think>', after which the answer is looked for: set it to what" in text


def test_an_answer_format_that_is_never_produced(examine):
    programs = [
        make_task_problem(f"{number}+1?", '[{"input": "", "output": "2"}]', task="code", source="test")
        for number in range(NUM_PROBLEMS)
    ]
    overrides = ("generator.allow_weak_sandbox=true", "data.code_instruction=")
    text = refusal(examine(*overrides, problems=programs))
    assert "no answer was found in 256 completions: ask for its format in data.instruction or data." in text


def test_too_few_tokens(examine):
    limits = ["max_thinking_tokens=2", "max_solution_tokens=1", "interruption_min_tokens=1"]
    limits += ["interruption_max_tokens=1"]
    text = refusal(examine(*(f"length.{limit}" for limit in limits)))
    assert "ran out of tokens: raise length.max_thinking_tokens (2) or length.max_solution_tokens (1)" in text


def test_a_temperature_without_variety(examine):
    text = refusal(examine("algo.temperature=0.01"))
    assert "are the same, so no group has an advantage: raise algo.temperature (0.01; 1.0 is usual)" in text


def test_a_chat_template_of_another_model(examine, inputs, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(inputs / "tied", model)
    template = "<|im_start|>user\n{{ messages[0]['content'] }}<|im_end|>\n<|im_start|>assistant\n"
    (model / "chat_template.jinja").write_text(template)
    text = refusal(examine("length.max_prompt_tokens=100", model=model))
    assert "the chat template seems to be another model's (a prompt has" in text
    assert "put that of the model's own tokenizer into model.path" in text


def test_a_chat_template_that_leaves_the_problem_out(examine, inputs, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(inputs / "tied", model)
    (model / "chat_template.jinja").write_text("1+1?")
    with pytest.raises(ValueError, match=r"leaves the problem out.*Put the template of the model's own"):
        examine(model=model)
