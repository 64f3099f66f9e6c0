"""The `scalerl` command. Engines are imported inside the command that needs them: a login node needs no torch.

scalerl prepare | base | run | sweep | status | extend | evaluate | verify | fit
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; each sets `command` to its function."""
    parser = argparse.ArgumentParser(
        prog="scalerl", description="RL on language models as batch jobs, with scaling curves that predict."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (
        _add_prepare,
        _add_base,
        _add_run,
        _add_sweep,
        _add_status,
        _add_extend,
        _add_evaluate,
        _add_verify,
        _add_fit,
        _add_doctor,
        _add_role,
    ):
        add(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; a user's mistake is one line on stderr and exit code 2."""
    parser = build_parser()
    arguments, rest = parser.parse_known_args(argv)
    # argparse takes no positional arguments after an option, but that is where people write overrides
    if arguments.command is _fit:
        arguments.overrides = rest  # its own parser reads them
    elif rest and (any(text.startswith("-") for text in rest) or not hasattr(arguments, "overrides")):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    elif rest:
        arguments.overrides += rest
    if arguments.command is _role:
        return _role(arguments) or 0  # its log wants the whole traceback
    try:
        return arguments.command(arguments) or 0
    except (ValueError, OSError) as error:
        print(f"scalerl: error: {error}", file=sys.stderr)
        return 2


def _add_prepare(commands) -> None:
    parser = commands.add_parser("prepare", help="problem files -> train.parquet, heldout.parquet, report.json")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--input", type=Path, nargs="+", metavar="FILE", help="JSON, JSONL or Parquet problem sets")
    source.add_argument("--generate", choices=["arithmetic"], help="make a task instead: left-to-right chains modulo 10")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--heldout-fraction", type=float, default=0.02, help="share of prompts held out, by a hash of the prompt")
    parser.add_argument("--tokenizer", metavar="DIR", help="count prompt tokens with this model's tokenizer")
    parser.add_argument("--max-prompt-tokens", type=int, help="drop longer prompts (with --tokenizer)")
    parser.add_argument("--instruction", default="", help="with --tokenizer: data.instruction of the run, counted too")
    parser.add_argument("--strict", action="store_true", help="refuse the whole input at the first bad row")
    parser.add_argument("--count", type=int, default=4096, help="with --generate: number of problems")
    parser.add_argument("--min-steps", type=int, default=1, help="with --generate: shortest chain")
    parser.add_argument("--max-steps", type=int, default=12, help="with --generate: longest chain")
    parser.add_argument("--seed", type=int, default=0, help="with --generate")
    parser.set_defaults(command=_prepare)


def _prepare(arguments: argparse.Namespace) -> None:
    from scalerl.data.prepare import prepare, prepare_arithmetic

    if arguments.generate and (arguments.tokenizer or arguments.max_prompt_tokens or arguments.strict):
        raise ValueError("--generate makes valid problems: --tokenizer, --max-prompt-tokens and --strict go with --input")
    if arguments.generate:
        report = prepare_arithmetic(
            arguments.output,
            count=arguments.count,
            seed=arguments.seed,
            min_steps=arguments.min_steps,
            max_steps=arguments.max_steps,
            heldout_fraction=arguments.heldout_fraction,
        )
    elif (arguments.tokenizer is None) != (arguments.max_prompt_tokens is None):
        raise ValueError("--tokenizer and --max-prompt-tokens go together: the one counts what the other limits")
    else:
        report = prepare(
            arguments.input,
            arguments.output,
            heldout_fraction=arguments.heldout_fraction,
            strict=arguments.strict,
            count_tokens=_token_counter(arguments) if arguments.tokenizer else None,
            max_prompt_tokens=arguments.max_prompt_tokens,
        )
    print(report.table())


def _token_counter(arguments: argparse.Namespace):
    from scalerl.inference.prompts import PromptEncoder, load_tokenizer

    tokenizer = load_tokenizer(arguments.tokenizer)
    encoder = PromptEncoder(tokenizer, instruction=arguments.instruction, max_prompt_tokens=arguments.max_prompt_tokens)
    return encoder.count_tokens


def _add_base(commands) -> None:
    parser = commands.add_parser("base", help="train a tiny base model on noisy arithmetic, in about a minute on one core")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--untied", action="store_true", help="give the LM head weights of its own")
    parser.add_argument("--moe", action="store_true", help="a mixture of 8 experts, 2 for a token, instead of a dense model")
    parser.set_defaults(command=_base)


def _base(arguments: argparse.Namespace) -> None:
    from scalerl.base_model import train_base_model

    train_base_model(
        arguments.output, seed=arguments.seed, steps=arguments.steps, tie_embeddings=not arguments.untied, moe=arguments.moe
    )
    print(f"base model: {arguments.output}")


def _add_overrides(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as algo.loss_type=dapo budget.max_steps=200")


def _add_run(commands) -> None:
    parser = commands.add_parser("run", help="one run: start it, or continue the one in --dir")
    parser.add_argument("settings", nargs="+", metavar="FILE.toml|key=value", help="later ones win; such as budget.max_steps=200")
    parser.add_argument("--dir", type=Path, required=True, metavar="RUN_DIR")
    parser.set_defaults(command=_run, overrides=[])


def _run(arguments: argparse.Namespace) -> int:
    from scalerl.launch.folder import read_config
    from scalerl.launch.supervisor import run
    from scalerl.paths import RunPaths
    from scalerl.settings import load_config

    paths = RunPaths(arguments.dir)
    if int(os.environ.get("SLURM_RESTART_COUNT", "0")) and paths.config.exists():
        return run(read_config(paths), paths)  # weeks may lie between two starts of a job, and its files may have been edited
    settings = [*arguments.settings, *arguments.overrides]
    files = [Path(text) for text in settings if "=" not in text]
    return run(load_config(files, [text for text in settings if "=" in text]), paths)


def _add_sweep(commands) -> None:
    parser = commands.add_parser("sweep", help="an axis as a grid of runs: a Slurm array, or one after the other on this machine")
    parser.add_argument("axis", type=Path, help="TOML file, such as sweeps/loss_type.toml")
    parser.add_argument("--scale", default="demo", help="overlay sweeps/scale/SCALE.toml over sweeps/base.toml")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--dir", type=Path, metavar="SWEEP_DIR", help="default: sweeps/AXIS in the site's runs_dir")
    parser.add_argument("--cluster", choices=["slurm", "local"], help="default: slurm where it is installed")
    parser.add_argument("--site", type=Path, metavar="FILE", help="default: $SCALERL_SITE, else slurm/site.toml")
    parser.add_argument("--throttle", type=int, metavar="N", help="runs at once (default: as many as Slurm starts)")
    parser.add_argument("--retry", action="store_true", help="also submit again what failed or was stopped")
    parser.add_argument("--max-gpu-hours", type=float, metavar="H", help="of the whole sweep; a run stops when it is used up")
    parser.add_argument("--confirm-above", type=float, default=1000, metavar="GPU_HOURS", help="ask before more (default 1000)")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--dry-run", action="store_true", help="print grid and forecast and start nothing")
    _add_overrides(parser)
    parser.set_defaults(command=_sweep)


def _sweep(arguments: argparse.Namespace) -> int:
    from scalerl.launch.launcher import Sweep, launch, on_slurm
    from scalerl.launch.site import load_site
    from scalerl.sweep import grid, scale_file

    if arguments.throttle is not None and arguments.throttle < 1:
        raise ValueError(f"--throttle {arguments.throttle}: at least 1 is needed; leave it out for as many as Slurm starts")
    if arguments.max_gpu_hours is not None:
        arguments.overrides.append(f"budget.sweep_max_gpu_hours={arguments.max_gpu_hours}")
    base = [arguments.axis.parent / "base.toml", scale_file(arguments.axis.parent, arguments.scale)]
    points = grid(base, arguments.axis, arguments.seeds, arguments.overrides)
    site = load_site(arguments.site)
    sweep = Sweep(
        dir=arguments.dir or Path(site.runs_dir) / "sweeps" / arguments.axis.stem,
        runs={point.name: point.config for point in points},
        site=site,
        site_file=arguments.site,
        on_slurm=on_slurm(arguments.cluster),
        throttle=arguments.throttle,
        retry=arguments.retry,
    )
    return launch(sweep, confirm_above_gpu_hours=arguments.confirm_above, yes=arguments.yes, dry_run=arguments.dry_run)


def _add_status(commands) -> None:
    parser = commands.add_parser("status", help="a table of the runs of a sweep, or everything about one run")
    parser.add_argument("folder", type=Path, metavar="SWEEP_OR_RUN_DIR")
    parser.add_argument(
        "--watch", type=float, nargs="?", const=5.0, metavar="SECONDS", help="show it again every SECONDS (5), until Ctrl-C"
    )
    parser.set_defaults(command=_status)


def _status(arguments: argparse.Namespace) -> None:
    from scalerl.launch.status import show

    show(arguments.folder, arguments.watch)


def _add_extend(commands) -> None:
    parser = commands.add_parser("extend", help="let finished runs go on to a larger budget, foretelling them first")
    parser.add_argument("folder", type=Path, metavar="RUN_OR_SWEEP_DIR")
    parser.add_argument(
        "--to", type=float, required=True, metavar="GPU_HOURS", help="the new budget of each run; max_steps is removed"
    )
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--top", type=int, metavar="N", help="the N best recipes, with all their seeds (default: every run)")
    chosen.add_argument("--recipe", nargs="+", default=[], metavar="NAME", help="these recipes, with all their seeds")
    rankings = ["prediction", "ceiling"]
    parser.add_argument(
        "--by", choices=rankings, default="prediction", help="--top ranks by the pass rate foretold at --to, or by A"
    )
    parser.add_argument("--sweep-max-gpu-hours", type=float, metavar="H", help="a new budget of the whole sweep, if it has one")
    parser.add_argument("--cluster", choices=["slurm", "local"], help="default: slurm where it is installed")
    parser.add_argument("--site", type=Path, metavar="FILE", help="default: $SCALERL_SITE, else slurm/site.toml")
    parser.add_argument("--throttle", type=int, metavar="N", help="runs at once (default: as many as Slurm starts)")
    parser.add_argument("--confirm-above", type=float, default=1000, metavar="GPU_HOURS", help="ask before more (default 1000)")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--dry-run", action="store_true", help="print the forecast and change nothing")
    parser.set_defaults(command=_extend)


def _extend(arguments: argparse.Namespace) -> int:
    from scalerl.extend import extend_here, extend_on_slurm, plan_extension
    from scalerl.launch.launcher import confirm, on_slurm
    from scalerl.launch.site import load_site

    site = load_site(arguments.site) if on_slurm(arguments.cluster) else None
    plan = plan_extension(
        arguments.folder,
        arguments.to,
        top=arguments.top,
        by=arguments.by,
        recipes=arguments.recipe,
        sweep_max_gpu_hours=arguments.sweep_max_gpu_hours,
    )
    print(plan)
    if arguments.dry_run:
        return 0
    confirm(plan.to_spend, arguments.confirm_above, arguments.yes)
    if site is None:
        return extend_here(plan)
    for submission in extend_on_slurm(plan, site, throttle=arguments.throttle, site_file=arguments.site):
        print(f"submitted {', '.join(submission.runs)} as job {submission.job_id}; `scalerl status {arguments.folder}` shows it")
    return 0


def _add_evaluate(commands) -> None:
    parser = commands.add_parser("evaluate", help="mean@k of a model on prepared problems")
    parser.add_argument("--model", type=Path, required=True, metavar="DIR")
    parser.add_argument("--data", type=Path, required=True, metavar="FILE", help="Parquet file from `scalerl prepare`")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE")
    parser.add_argument("--samples-per-prompt", type=int, default=16)
    parser.add_argument("--config", type=Path, help="TOML file for lengths, precision and instruction")
    _add_overrides(parser)
    parser.set_defaults(command=_evaluate)


def _evaluate(arguments: argparse.Namespace) -> None:
    from scalerl.evaluator import evaluate_model
    from scalerl.settings import load_config

    config = load_config([arguments.config] if arguments.config else [], arguments.overrides)
    if arguments.samples_per_prompt < 1:
        raise ValueError(f"--samples-per-prompt {arguments.samples_per_prompt}: at least 1 is needed")
    summary = evaluate_model(arguments.model, arguments.data, arguments.output, config, arguments.samples_per_prompt)
    print(json.dumps(summary, indent=1))


def _add_verify(commands) -> None:
    parser = commands.add_parser("verify", help="grade rows of (response, answer)")
    parser.add_argument("--input", type=Path, required=True, metavar="FILE", help="JSONL or Parquet")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE")
    parser.add_argument("--think-end", default="", help="grade only what follows this text, such as '</think>'")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--timeout-s", type=float, default=0.5, help="per answer")
    parser.set_defaults(command=_verify)


def _verify(arguments: argparse.Namespace) -> None:
    from scalerl.verify.files import verify_file

    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    print(verify_file(arguments.input, arguments.output, arguments.think_end, arguments.workers, arguments.timeout_s))


def _add_fit(commands) -> None:
    parser = commands.add_parser(
        "fit", add_help=False, help="a run: fit.json and curve.png; a sweep or table: as tools/fit_all.py"
    )
    parser.set_defaults(command=_fit)


def _fit(arguments: argparse.Namespace) -> int | None:
    from scalerl.fits import fit_run
    from scalerl.fits.command import main as fit_all

    rest = arguments.overrides
    if len(rest) != 1 or not (Path(rest[0]) / "config.json").exists():
        return fit_all(rest)
    print(fit_run(Path(rest[0])))
    return None


def _add_doctor(commands) -> None:
    parser = commands.add_parser(
        "doctor", help="check the site: Slurm, partition, nodes, shared folder, clocks; says what to fix"
    )
    parser.add_argument("--site", type=Path, metavar="FILE", help="default: $SCALERL_SITE, else slurm/site.toml")
    parser.set_defaults(command=_doctor)


def _doctor(arguments: argparse.Namespace) -> int:
    from scalerl.launch import doctor
    from scalerl.launch.site import load_site

    return doctor.main(load_site(arguments.site))


def _add_role(commands) -> None:
    parser = commands.add_parser("role", help="one process of a run; `scalerl run` starts these")
    parser.add_argument("role", choices=["trainer", "generator", "evaluator"])
    parser.add_argument("--index", type=int, help="trainer rank (default: that of the srun task) or generator number")
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--attempt", type=int, required=True)
    parser.add_argument("--parent", type=int, help="end when this process does")
    parser.set_defaults(command=_role)


def _role(arguments: argparse.Namespace) -> None:
    from scalerl.fence import end_when_stale
    from scalerl.launch.processes import die_with_parent
    from scalerl.paths import RunPaths

    end_when_stale(RunPaths(arguments.dir), arguments.attempt)
    die_with_parent(os.getppid() if arguments.parent is None else arguments.parent)
    if arguments.role == "trainer":
        from scalerl.trainer import run_trainer

        if arguments.index is None:  # a task of an srun step
            slurm = {"RANK": "SLURM_PROCID", "LOCAL_RANK": "SLURM_LOCALID", "WORLD_SIZE": "SLURM_NTASKS"}
            os.environ |= {name: os.environ[variable] for name, variable in slurm.items()}
        run_trainer(arguments.dir, rank=int(os.environ["RANK"]), attempt=arguments.attempt)
    elif arguments.role == "generator":
        from scalerl.generator import run_generator

        run_generator(arguments.dir, index=arguments.index, attempt=arguments.attempt)
    else:
        from scalerl.evaluator import run_evaluator

        run_evaluator(arguments.dir, attempt=arguments.attempt)
