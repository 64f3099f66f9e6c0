"""`scalerl evaluate` on many files: one table and its CSV, from one engine or from several."""

import csv
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from io import StringIO
from pathlib import Path
from typing import Any

from scalerl.common.files import write_json, write_text
from scalerl.common.table import format_table
from scalerl.config import RunConfig
from scalerl.evaluator.parts import interleave
from scalerl.evaluator.standalone import (
    WHOLE,
    DataSet,
    Share,
    answers_file,
    evaluate_model,
    read_answers,
    tally_of_row,
    write_answers,
)
from scalerl.evaluator.summary import summarise

POLL_S = 0.2
"""Seconds between two looks at the engines."""
SHARES = {"truncated": "truncation", "interrupted": "interruption", "no_answer": "no_answer"}
"""Columns that are shares of the completions, and the statistics they are of."""
ERROR_CHARACTERS = 2000
"""What is shown of the log of an engine that failed: its end."""


def evaluate_files(
    model: Path,
    data_sets: Sequence[DataSet],
    config: RunConfig,
    samples_per_prompt: int,
    *,
    devices: Sequence[str] = ("",),
    share: Share = WHOLE,
    output: Path | None = None,
    answers: Path | None = None,
    show: Callable[[str, int], None],
) -> str:
    """Evaluate a model on data sets, one engine for each of `devices`; return the table.

    devices: CUDA_VISIBLE_DEVICES of every engine; one alone is this process, and may do but a share.
    output: a CSV file with a line for each data set, written again after each. answers: a folder for one
    Parquet file a data set, with a row a problem.

    Raises:
        ValueError: a prompt is too long, there is no sandbox for code problems, or an engine failed.
    """
    if len(devices) == 1:
        parts = evaluate_model(model, data_sets, config, samples_per_prompt, share=share, show=show)
    else:
        parts = _with_engines(model, data_sets, config, samples_per_prompt, devices)
    lines: list[dict[str, Any]] = []
    for data_set, rows in zip(data_sets, parts, strict=True):
        lines.append(_line(model, data_set, rows))
        if output is not None:
            write_text(output, to_csv(lines))
        if answers is not None:
            write_answers(answers_file(answers, data_set), rows)
    return to_table(lines)


def _line(model: Path, data_set: DataSet, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the line of a data set: its columns in the CSV."""
    summary = summarise([tally_of_row(row) for row in rows])
    samples = summary["samples_per_prompt"]
    line = {"data_set": data_set.name, "file": str(data_set.path), "model": str(model)}
    line |= {"prompts": summary["num_prompts"], "samples_per_prompt": samples}
    line |= {f"mean@{samples}": summary["pass_rate"], "standard_error": summary["standard_error"]}
    for k, chance in summary["pass_at_k"].items():
        line |= {f"pass@{k}": chance}
        line |= {f"pass@{k}_standard_error": summary["pass_at_k_standard_error"].get(k)}
    line |= {name: summary[f"{old}_rate"] for name, old in SHARES.items()}
    return line | {"completion_tokens_mean": summary["completion_tokens_mean"]}


def to_table(lines: Sequence[dict[str, Any]]) -> str:
    """Return the table for a terminal: mean@k and pass@k, their standard errors, and what went unanswered."""
    samples = lines[0]["samples_per_prompt"]
    columns = [
        ("data set", "data_set"),
        ("prompts", "prompts"),
        (f"mean@{samples}", f"mean@{samples}"),
        ("std. error", "standard_error"),
        (f"pass@{samples}", f"pass@{samples}"),
        ("std. error", f"pass@{samples}_standard_error"),
        ("truncated", "truncated"),
        ("no_answer", "no_answer"),
        ("tokens", "completion_tokens_mean"),
    ]
    rows = [[line[name] for _, name in columns] for line in lines]
    return format_table(rows, [title for title, _ in columns], align="<>>>>>>>>")


def to_csv(lines: Sequence[dict[str, Any]]) -> str:
    """Return the CSV text of lines that all have one number of samples, and so the same columns."""
    text = StringIO()
    writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _with_engines(
    model: Path,
    data_sets: Sequence[DataSet],
    config: RunConfig,
    samples_per_prompt: int,
    devices: Sequence[str],
) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of each data set, from one process an engine that each did its share of the problems."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="scalerl-evaluate-")))
        write_json(folder / "config.json", {"config": config.model_dump(mode="json")})
        command = [sys.executable, "-m", "scalerl", "evaluate", "--model", str(model)]
        command += ["--data", *(str(data_set.path) for data_set in data_sets)]
        command += ["--config", str(folder / "config.json"), "--samples-per-prompt", str(samples_per_prompt)]
        engines = []
        for index, device in enumerate(devices):
            part = ["--share", f"{index}/{len(devices)}", "--answers", str(folder / str(index))]
            environment = os.environ | ({"CUDA_VISIBLE_DEVICES": device} if device else {})
            log = stack.enter_context((folder / f"{index}.log").open("wb"))
            engines.append(
                subprocess.Popen([*command, *part], env=environment, stdout=log, stderr=subprocess.STDOUT)
            )
            stack.callback(engines[-1].kill)
        _wait(engines, folder)
        for data_set in data_sets:
            yield interleave(
                [read_answers(answers_file(folder / str(index), data_set)) for index in range(len(engines))]
            )


def _wait(engines: Sequence[subprocess.Popen], folder: Path) -> None:
    """Wait until every engine has ended well.

    Raises:
        ValueError: one did not; the end of its log.
    """
    running = dict(enumerate(engines))
    while running:
        for index, engine in list(running.items()):
            code = engine.poll()
            if code == 0:
                del running[index]
            elif code is not None:
                log = (folder / f"{index}.log").read_text(errors="replace")
                raise ValueError(f"engine {index} ended with exit code {code}: {log[-ERROR_CHARACTERS:]}")
        time.sleep(POLL_S)
