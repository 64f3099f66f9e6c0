"""The verdict of preflight, from what the exams have left in the folder."""

import math
from dataclasses import asdict
from typing import Any

from scalerl.common.table import format_table
from scalerl.config import RunConfig
from scalerl.paths import RunPaths
from scalerl.preflight.exam import read_figures
from scalerl.preflight.memory import find_memory, judge_memory
from scalerl.preflight.parity import compare_paths
from scalerl.preflight.report import Report, write_report
from scalerl.preflight.samples import describe_samples, judge_samples


def judge(config: RunConfig, paths: RunPaths, on_cpu: bool) -> Report:
    """Judge the exams, and write the report.

    Raises:
        FileNotFoundError: an exam has not ended.
    """
    generator, trainer = read_figures(paths, "generator"), read_figures(paths, "trainer")
    mean_tokens = generator["prompt_tokens_mean"] + generator["completion_tokens_mean"]
    parity = compare_paths(config, paths)
    findings = [*parity.findings, *judge_samples(generator, config)]
    memory = find_memory(config, on_cpu)
    if memory is not None and not on_cpu:
        findings += judge_memory(memory, config, mean_tokens)
    figures = {
        "samples": describe_samples(generator, config),
        "step": step_figures(config, generator, trainer),
        "memory": memory.to_json() if memory else None,
        "parity": [_finite(asdict(difference)) for difference in parity.differences],
        "trainer": _finite(trainer),
        "verdicts": generator["verdicts"],
        "examples": generator["examples"],
    }
    report = Report.of(
        findings,
        form=config.launch.preflight,
        max_logprob_difference=_finite(parity.max_logprob_difference),
        figures=figures,
    )
    write_report(paths, report)
    return report


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values with None for a number that is not finite, which JSON has not."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }


def step_figures(config: RunConfig, generator: dict[str, Any], trainer: dict[str, Any]) -> dict[str, float]:
    """Extrapolate an optimizer step from the pace of the exams; times in s.

    An engine of the run has more sequences at once than in the exam and is faster for it, and the trainer's
    first step is its slowest: both are upper bounds, rough ones.
    """
    num_completions = config.batch.prompts * config.batch.generations_per_prompt
    sampled = num_completions * generator["completion_tokens_mean"]
    trained = sampled + num_completions * generator["prompt_tokens_mean"]
    generation_s = sampled / generator["tokens_per_s"] / config.generator.num
    training_s = trained / trainer["tokens_per_s"]
    step_s = max(generation_s, training_s)
    return {
        "generator_tokens_per_s": generator["tokens_per_s"],
        "trainer_tokens_per_s": trainer["tokens_per_s"],
        "generation_s": generation_s,
        "training_s": training_s,
        "step_s": step_s,
        "gpu_hours_per_step": step_s * config.num_devices / 3600,
    }


def summary_line(report: Report, paths: RunPaths) -> str:
    """Return the verdict and what matters most in one line."""
    samples = report.figures["samples"]
    found = f"pass rate {samples['pass_rate']:.3f} of {samples['completions']} completions"
    reasons = "".join(f"; {reason}" for reason in report.reasons)
    return f"preflight: {report.verdict}, {found}{reasons}; report: {paths.preflight_report}"


def format_report(report: Report) -> str:
    """Return the report as a table for a terminal, the verdict last."""
    rows: list[tuple[str, Any]] = []
    for section in ("samples", "step", "memory"):
        numbers = (report.figures.get(section) or {}).items()
        rows += [(name, value) for name, value in numbers if not isinstance(value, dict)]
    rows += [(f"nats {name}", value) for name, value in report.max_logprob_difference.items()]
    lines = [format_table(rows, align="<>")] if rows else []
    lines += [f"preflight ({report.form}): {report.verdict}"]
    return "\n".join([*lines, *(f"  {reason}" for reason in report.reasons)])
