"""What runs will take, before they are submitted: GPU-hours, wall time and disk, each with its source."""

import json
import math
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from scalerl.common.table import format_table
from scalerl.config import RunConfig
from scalerl.metrics.rows import StepRow, row_from_json
from scalerl.paths import RunPaths
from scalerl.run_folder import read_saved_config

PAPER_GPU_HOURS_PER_STEP = 2.57
PAPER_PARAMETERS = 8e9
PAPER_COMPLETIONS = 768
PAPER_TOKENS = 16_384
COMPLETIONS_EXPONENT = math.log(1330 / 257) / math.log(2048 / 768)
TOKENS_EXPONENT = math.log(1067 / 257) / math.log(36_864 / 16_384)
MIN_STEP_S = 1.0
SHAPE_SECTIONS = ("model", "length", "batch", "generator", "trainer")
"""Sections of a config that the time of a step depends on most."""
OPTIMIZER_BYTES = 12
"""Bytes of a parameter in a checkpoint: fp32 weight and two Adam moments."""
WEIGHT_COPIES = 4
"""Copies of the weights: published policies, the one being published, the best one."""
ROLLOUT_TOKEN_BYTES = 10
"""Bytes of a completion token in the spool: id, logprob and text after zstd."""
TAIL_BYTES = 65_536
"""How much of the end of a metrics.jsonl is searched for its last step."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number and where it comes from; None: unknown, and why."""

    value: float | None
    source: str


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What one run, or several together, will take."""

    gpu_hours: Estimate
    wall_h: Estimate
    """Hours from start to end, without waiting in the queue."""
    disk_gb: Estimate

    def lines(self) -> list[str]:
        """Return a table of three rows."""
        rows = [
            ("GPU-hours", self.gpu_hours, ""),
            ("wall time", self.wall_h, " h"),
            ("disk", self.disk_gb, " GB"),
        ]
        cells = [
            (name, _number(row.value) + (unit if row.value is not None else ""), row.source)
            for name, row, unit in rows
        ]
        return [f"  {line}" for line in format_table(cells, align="<>").splitlines()]


def _number(value: float | None) -> str:
    if value is None:
        return "unknown"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def forecast_sweep(
    runs: Mapping[str, RunConfig],
    spent: Mapping[str, float],
    devices: int,
    at_once: int,
    rates: Mapping[str, float],
) -> Forecast:
    """Forecast all these runs together.

    spent: GPU-hours that runs of the sweep, these and others, have used already. devices: how many a run
    holds. at_once: runs at the same time. rates: from measured_rates.
    """
    hours = {name: gpu_hours(config, rates) for name, config in runs.items()}
    known = [
        max(0.0, hour.value - spent.get(name, 0.0)) for name, hour in hours.items() if hour.value is not None
    ]
    sources = _counted(hour.source for hour in hours.values())
    disks = [disk_gb(config) for config in runs.values()]
    waves = math.ceil(len(runs) / at_once) if runs else 0
    complete = len(known) == len(runs)
    total = sum(known)
    limit = max((config.budget.sweep_max_gpu_hours or math.inf for config in runs.values()), default=math.inf)
    if limit < math.inf and (not complete or total > limit - sum(spent.values())):
        complete, total = True, max(0.0, limit - sum(spent.values()))
        sources = f"what is left of {limit:g} (budget.sweep_max_gpu_hours); without it {sources}"
    wall_h = waves * max(known, default=0.0) / devices
    return Forecast(
        gpu_hours=Estimate(value=total if complete else None, source=sources),
        wall_h=Estimate(
            value=wall_h if len(known) == len(runs) else None,
            source=f"{devices} devices a run, {min(at_once, len(runs))} at a time, no waiting in between",
        ),
        disk_gb=Estimate(
            value=None
            if any(disk.value is None for disk in disks)
            else sum(disk.value or 0.0 for disk in disks),
            source=_counted(disk.source for disk in disks),
        ),
    )


def _counted(sources: Iterable[str]) -> str:
    """Return equal sources once, with their number."""
    counts: dict[str, int] = {}
    for source in sources:
        counts[source] = counts.get(source, 0) + 1
    return "; ".join(f"{count} x {source}" for source, count in counts.items())


def gpu_hours(config: RunConfig, rates: Mapping[str, float]) -> Estimate:
    """Return the GPU-hours of a whole run: its budget, or its steps times a step's, whichever is less."""
    candidates = []
    if config.budget.max_gpu_hours is not None:
        hours = config.budget.max_gpu_hours
        candidates.append(Estimate(value=hours, source=f"{hours:g} (budget.max_gpu_hours)"))
    steps = config.budget.max_steps
    if steps is not None:
        rate, source = (
            rates.get(shape(config.model_dump(mode="json"))),
            "measured in earlier runs of this shape",
        )
        if rate is None:
            rate, source = (
                model_rate(config),
                f"scaled from the paper's {PAPER_GPU_HOURS_PER_STEP}: no earlier run of this shape",
            )
        if rate is not None:
            candidates.append(
                Estimate(value=steps * rate, source=f"{steps} steps of {rate:.3g} GPU-hours, {source}")
            )
    if not candidates:
        return Estimate(
            value=None,
            source=f"{steps} steps, but {config.model.path or 'model.path'} is no safetensors folder here",
        )
    return min(candidates, key=lambda estimate: estimate.value or 0.0)


def model_rate(config: RunConfig) -> float | None:
    """Return the GPU-hours of a step by a model; None if the number of parameters cannot be told.

    The paper (arXiv 2510.13786) needs 257 GPU-hours for 100 ScaleRL steps of an 8B model on 80 GPUs with 768
    completions and a context of 16,384 tokens, 1,330 with 2,048 completions and 1,067 with a context of
    36,864: power laws through these points, linear in the parameters; and no step is shorter than a second on
    each device.
    """
    parameters = count_parameters(config.model.path)
    if parameters is None:
        return None
    completions = config.batch.prompts * config.batch.generations_per_prompt / PAPER_COMPLETIONS
    tokens = config.length.max_tokens / PAPER_TOKENS
    hours = PAPER_GPU_HOURS_PER_STEP * parameters / PAPER_PARAMETERS
    hours *= completions**COMPLETIONS_EXPONENT * tokens**TOKENS_EXPONENT
    return max(hours, config.num_devices * MIN_STEP_S / 3600)


@cache
def count_parameters(model: str) -> int | None:
    """Count the parameters of a Hugging Face folder by its safetensors headers; None without such files."""
    files = sorted(Path(model).glob("*.safetensors")) if model else []
    total = 0
    for path in files:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        total += sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
    return total if files else None


def disk_gb(config: RunConfig) -> Estimate:
    """Return the most that a run holds at once: checkpoints (one more during a write), weights, spool."""
    parameters = count_parameters(config.model.path)
    if parameters is None:
        return Estimate(
            value=None, source=f"{config.model.path or 'model.path'} is no safetensors folder here"
        )
    weight_bytes = parameters * (2 if config.model.dtype == "bfloat16" else 4)
    checkpoints = (config.checkpoint.keep + 1) * (parameters * OPTIMIZER_BYTES + weight_bytes)
    steps = config.checkpoint.keep * config.checkpoint.every_steps + config.off_policy.k + 1
    completions = (
        steps * (config.batch.max_prompts or config.batch.prompts) * config.batch.generations_per_prompt
    )
    spool = completions * config.length.max_completion_tokens * ROLLOUT_TOKEN_BYTES
    parts = (checkpoints / 1e9, WEIGHT_COPIES * weight_bytes / 1e9, spool / 1e9)
    numbers = [_number(part) for part in parts]
    return Estimate(
        value=sum(parts),
        source=f"at most {numbers[0]} of checkpoints, {numbers[1]} of weights, {numbers[2]} of rollouts",
    )


def shape(config: Mapping[str, Any]) -> str:
    """Return a key that is equal for runs whose steps take about the same time, and as many devices."""
    num_evaluators = config.get("evaluation", {}).get("num")
    return json.dumps([num_evaluators, *(config.get(section) for section in SHAPE_SECTIONS)], sort_keys=True)


def measured_rates(folders: Iterable[Path]) -> dict[str, float]:
    """Return the GPU-hours of a step by `shape`, over all runs among `folders` that have made a step.

    Starts and evaluations are included.
    """
    totals: dict[str, tuple[float, int]] = {}
    for folder in folders:
        paths = RunPaths(folder)
        last = _last_step(paths.metrics) if paths.config.exists() else None
        if last is not None:
            key = shape(read_saved_config(paths).config)
            hours, steps = totals.get(key, (0.0, 0))
            totals[key] = hours + (last.gpu_hours or 0.0), steps + last.step
    return {key: hours / steps for key, (hours, steps) in totals.items()}


def _last_step(metrics: Path) -> StepRow | None:
    """Return the last whole row of a step near the end of a metrics.jsonl, which may be long."""
    if not metrics.exists():
        return None
    start = max(0, metrics.stat().st_size - TAIL_BYTES)
    with metrics.open("rb") as file:
        file.seek(start)
        lines = file.read().split(b"\n")[1 if start else 0 : -1]
    rows = (row_from_json(json.loads(line), str(metrics)) for line in reversed(lines))
    return next((row for row in rows if isinstance(row, StepRow) and row.step > 0), None)
