"""Measure what has been reached: scalerl evaluate | verify | fit."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from scalerl.cli.options import add_overrides

if TYPE_CHECKING:
    from scalerl.evaluator.standalone import Share


def add_evaluate(commands) -> None:
    """Add `scalerl evaluate`."""
    parser = commands.add_parser("evaluate", help="mean@k and pass@k of a model on problem files: one table")
    parser.add_argument("--model", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--data",
        required=True,
        nargs="+",
        metavar="FILE",
        help="prepared sets, or any problem files that `scalerl prepare` reads",
    )
    parser.add_argument("--output", type=Path, metavar="FILE.csv", help="the table, with more columns")
    parser.add_argument("--answers", type=Path, metavar="DIR", help="a Parquet file of answers a data set")
    parser.add_argument("--samples-per-prompt", type=int, default=16)
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="how to ask it: TOML, or config.json of a run (default: that of the run it is from)",
    )
    parser.add_argument(
        "--engines", type=int, metavar="N", help="default: as many as there are GPUs for, else 1"
    )
    parser.add_argument("--share", help=argparse.SUPPRESS)  # of one engine of several: I/N
    add_overrides(parser)
    parser.set_defaults(command=_evaluate)


def _evaluate(arguments: argparse.Namespace) -> None:
    from scalerl.evaluator.downstream import evaluate_files
    from scalerl.evaluator.model_config import config_of_model
    from scalerl.evaluator.standalone import load_data_sets
    from scalerl.launch.status_line import Display

    if arguments.samples_per_prompt < 1:
        raise ValueError(f"--samples-per-prompt {arguments.samples_per_prompt}: at least 1 is needed")
    if arguments.output is not None and arguments.output.suffix != ".csv":
        raise ValueError(f"--output {arguments.output}: the name must end with .csv (--answers has the rest)")
    # argparse takes the overrides that follow the files of --data for files, too
    files = [Path(text) for text in arguments.data if "=" not in text]
    overrides = [*arguments.overrides, *(text for text in arguments.data if "=" in text)]
    config, origin = config_of_model(arguments.model, arguments.config, overrides)
    data_sets = load_data_sets(files, config)
    devices = _devices(arguments, config.generator.tensor_parallel_size)
    display = Display()
    display.note(f"asked as {origin} says")
    for remark in [remark for data_set in data_sets for remark in data_set.remarks]:
        display.note(remark)

    def show(line: str, done: int) -> None:
        if display.due(done):
            display.show(line, done)

    table = evaluate_files(
        arguments.model,
        data_sets,
        config,
        arguments.samples_per_prompt,
        share=_share(arguments.share),
        devices=devices,
        output=arguments.output,
        answers=arguments.answers,
        show=show,
    )
    display.note(table)


def _share(text: str | None) -> "Share":
    """Return the share of one engine of several, I/N; such a process ends with the one that started it."""
    from scalerl.common.os_process import die_with_parent
    from scalerl.evaluator.standalone import WHOLE, Share

    if text is None:
        return WHOLE
    die_with_parent(os.getppid())
    index, _, num = text.partition("/")
    return Share(index=int(index), num=int(num))


def _devices(arguments: argparse.Namespace, span: int) -> list[str]:
    """Return the GPUs of each engine, of `span` each; "" where there are none.

    Raises:
        ValueError: they are too few for --engines, or torch cannot use them.
    """
    from scalerl.common.gpus import require_gpus
    from scalerl.launch.local import visible_gpus

    gpus = visible_gpus()
    if arguments.share is not None or not gpus:
        return [""] * (arguments.engines or 1)
    groups = [",".join(gpus[first : first + span]) for first in range(0, len(gpus) - span + 1, span)]
    if not 1 <= (arguments.engines or 1) <= len(groups):
        raise ValueError(
            f"--engines {arguments.engines}: {len(gpus)} GPUs are enough for {len(groups)} engines of {span} "
            f"(generator.tensor_parallel_size)"
        )
    require_gpus(len(gpus))
    return groups[: arguments.engines]


def add_verify(commands) -> None:
    """Add `scalerl verify`."""
    parser = commands.add_parser("verify", help="grade rows of (response, answer)")
    parser.add_argument("--input", type=Path, required=True, metavar="FILE", help="JSONL or Parquet")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE")
    parser.add_argument(
        "--think-end", default="", help="grade only what follows this text, such as '</think>'"
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--timeout-s", type=float, default=0.5, help="per answer")
    parser.set_defaults(command=_verify)


def _verify(arguments: argparse.Namespace) -> None:
    from scalerl.verify.files import verify_file

    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    print(
        verify_file(
            arguments.input, arguments.output, arguments.think_end, arguments.workers, arguments.timeout_s
        )
    )


def add_fit(commands) -> None:
    """Add `scalerl fit`, whose arguments are those of tools/fit_all.py."""
    parser = commands.add_parser(
        "fit", add_help=False, help="a run: fit.json and curve.png; a sweep or table: as tools/fit_all.py"
    )
    parser.set_defaults(command=fit)


def fit(arguments: argparse.Namespace) -> int | None:
    """Fit a run folder into fit.json and curve.png; anything else as tools/fit_all.py does."""
    from scalerl.fits import fit_run
    from scalerl.fits.command import main as fit_all
    from scalerl.paths import RunPaths

    rest = arguments.overrides
    if len(rest) != 1 or not RunPaths(Path(rest[0])).config.exists():
        return fit_all(rest, prog="scalerl fit")
    print(fit_run(Path(rest[0])))
    return None
