"""`scalerl evaluate`: mean@k and pass@k of any model on any problem files, outside a run.

One data set after the other is sampled and graded; what is known of a problem is a row of `answers`, and the
table is made of these rows. With several engines each is a process of its own that does every n-th problem.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from scalerl.common.files import write_atomic
from scalerl.config import RunConfig
from scalerl.data.prepare import question_key, read_problems
from scalerl.data.problem import Problem, load_problems
from scalerl.evaluator.mean_at_k import PromptResult, sample_and_grade
from scalerl.evaluator.summary import PromptTally
from scalerl.inference.completion import CompletionSampler
from scalerl.inference.engine import EngineOptions, SamplingEngine
from scalerl.inference.prompts import PromptEncoder, load_tokenizer
from scalerl.role import start_verifier


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """The problems of one file."""

    name: str
    """The file's name, with its folder where two files have one name."""
    path: Path
    problems: list[Problem]
    remarks: list[str]
    """What a reader of its pass rate has to know, such as rows that were dropped."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """Every `num`-th problem of each data set, from the `index`-th on: what one engine of several does."""

    index: int
    num: int


WHOLE = Share(index=0, num=1)


def load_data_sets(paths: Sequence[Path], config: RunConfig) -> list[DataSet]:
    """Read problem files: prepared sets, and all that `scalerl prepare` reads.

    Raises:
        ValueError: a file is missing or unreadable, yields no problem, or is named twice.
    """
    if not paths:
        raise ValueError("--data names no file")
    if len({path.resolve() for path in paths}) < len(paths):
        raise ValueError(f"--data names a file twice: {', '.join(map(str, paths))}")
    train = Path(config.data.train)
    trained_on = (
        {question_key(problem.prompt) for problem in load_problems(train)} if train.is_file() else set()
    )
    stems = [path.stem for path in paths]
    return [
        _data_set(path, path.stem if stems.count(path.stem) == 1 else str(path), trained_on) for path in paths
    ]


def _data_set(path: Path, name: str, trained_on: set[str]) -> DataSet:
    problems, report = read_problems(path)
    remarks = []
    if report is not None and report.dropped:
        remarks.append(f"{path}: of {report.rows} rows dropped: {report.dropped_by_reason}")
    if shared := sum(question_key(problem.prompt) in trained_on for problem in problems):
        remarks.append(f"{path}: {shared} of {len(problems)} questions are in data.train of the config")
    return DataSet(name=name, path=path, problems=problems, remarks=remarks)


def evaluate_model(
    model: Path,
    data_sets: Sequence[DataSet],
    config: RunConfig,
    samples_per_prompt: int,
    *,
    share: Share = WHOLE,
    show: Callable[[str, int], None] = lambda line, done: None,
) -> Iterator[list[dict[str, Any]]]:
    """Sample and grade `samples_per_prompt` completions of every problem; yield the rows of each data set.

    config: model.dtype and lm_head_precision, length.*, algo.temperature, data.* that goes around a problem,
    generator.* (engine and verifier) and seed are used.
    show: takes a line of progress and the completions done of a data set, many times a second.

    Raises:
        ValueError: a prompt is too long, or there is no sandbox for code problems; nothing was sampled.
    """
    tokenizer = load_tokenizer(model)
    prompts = PromptEncoder(tokenizer, config.data, config.length)
    shares = [data_set.problems[share.index :: share.num] for data_set in data_sets]
    problems = [problem for part in shares for problem in part]
    prompts.encode_all(problems)
    seed = config.seed + share.index
    with start_verifier(config, problems) as pool:  # before the engine: it refuses quickly
        engine = SamplingEngine(model, 0, EngineOptions.of(config, seed))
        try:
            for data_set, part in zip(data_sets, shares, strict=True):
                results = sample_and_grade(
                    part,
                    samples_per_prompt,
                    sampler=CompletionSampler(engine, tokenizer, config.length, seed),
                    prompts=prompts,
                    pool=pool,
                    max_num_seqs=config.generator.max_num_seqs,
                    progress=partial(_show, show, data_set.name),
                )
                assert results is not None
                yield [_row(result) for result in results]
        finally:
            engine.shutdown()


def _show(show: Callable[[str, int], None], name: str, done: int, total: int) -> None:
    show(f"{name}: {done} of {total} completions", done)


def _row(result: PromptResult) -> dict[str, Any]:
    """Return what `answers` say of one problem; lists are [completions]."""
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


def tally_of_row(row: dict[str, Any]) -> PromptTally:
    """Return the sums over the completions of one row."""
    return PromptTally(
        prompt_id=row["prompt_id"],
        task=row["task"],
        num_samples=len(row["correct"]),
        num_correct=sum(row["correct"]),
        num_tokens=sum(row["num_tokens"]),
        num_truncated=sum(row["truncated"]),
        num_interrupted=sum(row["interrupted"]),
        num_no_answer=row["verdicts"].count("no_answer"),
    )


def answers_file(folder: Path, data_set: DataSet) -> Path:
    """Name the file of the answers to a data set in a folder of answers."""
    return folder / f"{data_set.name.strip('/').replace('/', '_').removesuffix('.parquet')}.parquet"


def write_answers(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write one row a problem as Parquet, atomically."""
    file.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(list(rows))
    write_atomic(file, lambda temporary: pq.write_table(table, temporary))


def read_answers(file: Path) -> list[dict[str, Any]]:
    """Read the rows that `write_answers` wrote."""
    return pq.read_table(file).to_pylist()
