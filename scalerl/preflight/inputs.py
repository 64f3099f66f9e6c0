"""What a run needs, checked before anything expensive starts: its inputs, and the machine it is on."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from scalerl.common.files import read_json
from scalerl.config import RunConfig
from scalerl.data.prepare import check_no_leak
from scalerl.data.problem import load_problems
from scalerl.preflight.memory import find_memory, judge_memory
from scalerl.preflight.weights import check_weights_are_whole
from scalerl.role import program_limits
from scalerl.verify.pool import check_tasks

DEMO_DIR = Path("data") / "demo"
"""Where tools/demo.sh puts model and data, and sweeps/scale/demo.toml looks for them."""

INPUT_SECTIONS = ("model", "data", "length", "evaluation")
"""Sections of the config that `check_inputs` reads."""


def check_inputs_of_all(configs: Iterable[RunConfig]) -> None:
    """Check what each of several runs needs from outside, once where they need the same.

    Raises:
        ValueError: a path is missing or unusable, with the way out.
    """
    distinct = {config.model_dump_json(include={*INPUT_SECTIONS}): config for config in configs}
    for config in distinct.values():
        check_inputs(config)


def check_inputs(config: RunConfig) -> None:
    """Check what a run needs from outside, wherever it will run.

    Raises:
        ValueError: a path is missing or unusable, with the way out.
    """
    _check_demo(config)
    if not config.model.path:
        raise ValueError(
            "model.path is not set: name a Hugging Face directory, such as the one `scalerl base` makes"
        )
    online = os.environ.get("HF_HUB_OFFLINE") == "0"  # then it may be a hub name
    if not online and not (Path(config.model.path) / "config.json").exists():
        raise ValueError(
            f"model.path = {config.model.path!r}: no config.json there, so it is not a Hugging Face "
            f"directory (a hub name needs HF_HUB_OFFLINE=0 in the environment, or a copy on disk)"
        )
    if (Path(config.model.path) / "config.json").exists():  # else it is a hub name
        _check_model(config, Path(config.model.path))
    for key in ("train", "heldout"):
        if not getattr(config.data, key):
            raise ValueError(f"data.{key} is not set: `scalerl prepare` writes {key}.parquet")
    pools = {f"data.{key}": load_problems(file) for key, file in _problem_files(config).items()}
    check_no_leak(pools)
    num_prompts = min(config.evaluation.num_prompts, len(pools["data.heldout"]))
    if config.evaluation.num > num_prompts:
        raise ValueError(
            f"evaluation.num = {config.evaluation.num} evaluators cannot share {num_prompts} held-out "
            f"prompts: lower it"
        )


def _problem_files(config: RunConfig) -> dict[str, Path]:
    """Return the problem files of a run by their keys of the section data; a test set need not be there."""
    files = {key: getattr(config.data, key) for key in ("train", "heldout", "test")}
    return {key: Path(file) for key, file in files.items() if file}


def _check_model(config: RunConfig, model: Path) -> None:
    settings = read_json(model / "config.json")
    _check_not_quantised(settings, model)
    check_weights_are_whole(model)
    text = settings.get("text_config") or settings
    context = text.get("max_position_embeddings")
    stretched = (text.get("rope_scaling") or text.get("rope_parameters") or {}).get("factor")
    if isinstance(context, int) and not stretched and config.length.max_tokens > context:
        length = config.length
        raise ValueError(
            f"the context of model.path = {str(model)!r} is {context} tokens (max_position_embeddings), and "
            f"length.max_prompt_tokens ({length.max_prompt_tokens}), max_thinking_tokens "
            f"({length.max_thinking_tokens}) and max_solution_tokens ({length.max_solution_tokens}) add up "
            f"to {length.max_tokens}: lower them"
        )


def _check_not_quantised(settings: dict[str, Any], model: Path) -> None:
    """Refuse a quantised base: the trainer publishes bf16, which vLLM would read as what the base was."""
    parts = [settings, settings.get("text_config") or {}]
    found = next((part["quantization_config"] for part in parts if part.get("quantization_config")), None)
    if found is not None:
        method = found.get("quant_method", "an unknown method")
        raise ValueError(
            f"model.path = {str(model)!r} is quantised ({method}), and only unquantised weights can be "
            f"trained: name the bf16 model it was made from"
        )


def _check_demo(config: RunConfig) -> None:
    """Refuse the demo's own model and data where they are not made yet, with the commands that make them."""
    files = [Path(config.model.path) / "config.json", *_problem_files(config).values()]
    missing = [str(file) for file in files if file.is_relative_to(DEMO_DIR) and not file.is_file()]
    if missing:
        raise ValueError(
            f"the demo is not prepared: there is no {', no '.join(missing)}; `make demo` makes model and "
            f"data, or `scalerl prepare --generate arithmetic --output {DEMO_DIR} --heldout-fraction 0.06 "
            f"--test-fraction 0.06` and `scalerl base --output {DEMO_DIR}/base`"
        )


def check_machine(config: RunConfig, on_cpu: bool) -> None:
    """Check that this machine can do what a run on it asks for; after `check_inputs`.

    Raises:
        ValueError: it cannot, with the way out.
    """
    if on_cpu and config.generator.kv_cache_gb == 0:
        raise ValueError(
            "generator.kv_cache_gb = 0 lets vLLM measure GPU memory; on a CPU give a number, such as 0.5"
        )
    if not on_cpu and config.launch.preflight != "off":
        memory = find_memory(config, on_cpu)
        found = judge_memory(memory, config, config.length.max_tokens) if memory else []
        if refused := [finding.text for finding in found if finding.refuses]:
            raise ValueError(f"{refused[0]} (an estimate: launch.preflight=off leaves it out)")
    tasks = {problem.task for file in _problem_files(config).values() for problem in load_problems(file)}
    check_tasks(tasks, program_limits(config))
