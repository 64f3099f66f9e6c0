"""Measure mean@k of any model on prepared problems, outside a run: `scalerl evaluate`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from scalerl.common.files import write_atomic, write_json
from scalerl.config import RunConfig
from scalerl.data.problem import load_problems
from scalerl.evaluator.mean_at_k import PromptResult, sample_and_grade
from scalerl.evaluator.summary import summarise
from scalerl.inference.completion import CompletionSampler
from scalerl.inference.engine import EngineOptions, SamplingEngine
from scalerl.inference.prompts import PromptEncoder, load_tokenizer
from scalerl.role import start_verifier

OUTPUT_SUFFIXES = (".parquet", ".json")


def evaluate_model(
    model: Path, data: Path, output: Path, config: RunConfig, samples_per_prompt: int
) -> dict[str, Any]:
    """Sample and grade `samples_per_prompt` completions of every problem in `data`; return the summary.

    One row a problem goes to `output`; see `summarise` for the summary.
    config: model.dtype and lm_head_precision, length.*, algo.temperature, data.*instruction, generator.*
    (engine and verifier) and seed are used.

    Raises:
        ValueError: `output` is neither .parquet nor .json, `data` is not a prepared set, a prompt is too
            long, or there is no sandbox for its code problems.
    """
    if output.suffix not in OUTPUT_SUFFIXES:
        raise ValueError(f"--output {output}: the name must end with one of {', '.join(OUTPUT_SUFFIXES)}")
    problems = load_problems(data)
    tokenizer = load_tokenizer(model)
    prompts = PromptEncoder(tokenizer, config.data, config.length)
    prompts.encode_all(problems)
    with start_verifier(config, problems) as pool:  # before the engine: it refuses quickly
        engine = SamplingEngine(model, 0, EngineOptions.of(config, config.seed))
        try:
            results = sample_and_grade(
                problems,
                samples_per_prompt,
                sampler=CompletionSampler(engine, tokenizer, config.length, config.seed),
                prompts=prompts,
                pool=pool,
                max_num_seqs=config.generator.max_num_seqs,
            )
        finally:
            engine.shutdown()
    assert results is not None
    _write(output, [_row(result) for result in results])
    return summarise([result.tally for result in results])


def _row(result: PromptResult) -> dict[str, Any]:
    """Return what the output says of one problem; lists are [completions]."""
    problem, completions = result.problem, result.completions
    return {
        "prompt_id": problem.prompt_id,
        "task": problem.task,
        "prompt": problem.prompt,
        "answer": problem.answer,
        "pass_rate": result.tally.pass_rate,
        "responses": [completion.text for completion in completions],
        "correct": [verdict.correct for verdict in result.verdicts],
        "verdicts": [verdict.reason for verdict in result.verdicts],
        "num_tokens": [len(completion.token_ids) for completion in completions],
        "truncated": [completion.truncated for completion in completions],
        "interrupted": [completion.interrupted for completion in completions],
    }


def _write(output: Path, rows: Sequence[dict[str, Any]]) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    if output.suffix == ".json":
        write_json(output, list(rows))
    else:
        table = pa.Table.from_pylist(list(rows))
        write_atomic(output, lambda temporary: pq.write_table(table, temporary))
