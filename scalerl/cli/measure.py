"""Measure what has been reached: scalerl evaluate | verify | fit."""

import argparse
import json
from pathlib import Path

from scalerl.cli.options import add_overrides


def add_evaluate(commands) -> None:
    """Add `scalerl evaluate`."""
    parser = commands.add_parser("evaluate", help="mean@k of a model on prepared problems")
    parser.add_argument("--model", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--data", type=Path, required=True, metavar="FILE", help="Parquet file from `scalerl prepare`"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FILE")
    parser.add_argument("--samples-per-prompt", type=int, default=16)
    parser.add_argument("--config", type=Path, help="TOML file for lengths, precision and instruction")
    add_overrides(parser)
    parser.set_defaults(command=_evaluate)


def _evaluate(arguments: argparse.Namespace) -> None:
    from scalerl.common.gpus import require_gpus
    from scalerl.evaluator import evaluate_model
    from scalerl.launch.local import visible_gpus
    from scalerl.settings import load_config

    config = load_config([arguments.config] if arguments.config else [], arguments.overrides)
    if arguments.samples_per_prompt < 1:
        raise ValueError(f"--samples-per-prompt {arguments.samples_per_prompt}: at least 1 is needed")
    require_gpus(min(1, len(visible_gpus())))
    summary = evaluate_model(
        arguments.model, arguments.data, arguments.output, config, arguments.samples_per_prompt
    )
    print(json.dumps(summary, indent=1))


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
