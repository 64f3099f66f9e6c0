"""One run, from its start to its table: scalerl run | role | status | doctor."""

import argparse
import os
import sys
import traceback
from importlib import import_module
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp

from scalerl.cli.options import add_site


def add_run(commands) -> None:
    """Add `scalerl run`."""
    parser = commands.add_parser("run", help="one run: start it, or continue the one in --dir")
    parser.add_argument(
        "settings",
        nargs="+",
        metavar="FILE.toml|key=value",
        help="later ones win; such as budget.max_steps=200",
    )
    parser.add_argument("--dir", type=Path, required=True, metavar="RUN_DIR")
    parser.set_defaults(command=_run, overrides=[])


def _run(arguments: argparse.Namespace) -> int:
    from scalerl.launch.supervisor import run
    from scalerl.paths import RunPaths
    from scalerl.run_folder import read_config
    from scalerl.settings import load_config

    paths = RunPaths(arguments.dir)
    if int(os.environ.get("SLURM_RESTART_COUNT", "0")) and paths.config.exists():
        # weeks may lie between two starts of a job, and its TOML files may have been edited
        return run(read_config(paths), paths)
    settings = [*arguments.settings, *arguments.overrides]
    files = [Path(text) for text in settings if "=" not in text]
    return run(load_config(files, [text for text in settings if "=" in text]), paths)


def add_preflight(commands) -> None:
    """Add `scalerl preflight`."""
    parser = commands.add_parser(
        "preflight",
        help="compare the engines, sample 64 prompts; is a run worth its compute?",
    )
    parser.add_argument("settings", nargs="+", metavar="FILE.toml|key=value", help="as of `scalerl run`")
    parser.add_argument(
        "--dir", type=Path, metavar="RUN_DIR", help="the run's folder, to keep logs and certificate in"
    )
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="where to write the report, too")
    parser.set_defaults(command=_preflight, overrides=[])


def _preflight(arguments: argparse.Namespace) -> int:
    from scalerl.common.files import write_json
    from scalerl.launch.supervisor import preflight
    from scalerl.paths import RunPaths
    from scalerl.preflight.judge import format_report
    from scalerl.settings import load_config

    settings = [*arguments.settings, *arguments.overrides]
    files = [Path(text) for text in settings if "=" not in text]
    overrides = [text for text in settings if "=" in text]
    config = load_config(files, ["launch.preflight=full", *overrides])
    if config.launch.preflight == "off":
        raise ValueError("launch.preflight=off leaves nothing to do: say short or full")
    folder = arguments.dir or Path(mkdtemp(prefix="scalerl-preflight-"))
    report = preflight(config, RunPaths(folder))
    if report is None:
        return 130
    print(format_report(report))
    if arguments.output is not None:
        write_json(arguments.output, report.to_json())
    if arguments.dir is None and report.verdict != "refuse":
        rmtree(folder)
    return int(report.verdict == "refuse")


def add_role(commands) -> None:
    """Add `scalerl role`."""
    parser = commands.add_parser("role", help="one process of a run; `scalerl run` starts these")
    parser.add_argument("role", choices=["trainer", "generator", "evaluator"])
    parser.add_argument(
        "--index",
        type=int,
        help="trainer rank (default: that of the srun task), or number of the generator or evaluator",
    )
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--attempt", type=int, required=True)
    parser.add_argument("--parent", type=int, help="end when this process does")
    parser.add_argument(
        "--gpus", type=int, default=0, help="GPUs this process was given: end where torch cannot use them"
    )
    parser.add_argument(
        "--exam", choices=["trainer", "generator", "reference"], help="examine an engine for preflight"
    )
    parser.set_defaults(command=role)


def role(arguments: argparse.Namespace) -> None:
    """Run one role; it ends with its parent, and soon after its attempt."""
    from scalerl.common.os_process import die_with_parent
    from scalerl.fence import end_if_stale, end_when_stale
    from scalerl.paths import RunPaths

    paths = RunPaths(arguments.dir)
    end_when_stale(paths, arguments.attempt)
    die_with_parent(os.getppid() if arguments.parent is None else arguments.parent)
    try:
        _run_role(arguments)
    except Exception:
        traceback.print_exc()
        # no failure of its own if it was fenced off, or left alone by processes that were
        end_if_stale(paths, arguments.attempt)
        sys.exit(1)


def _run_role(arguments: argparse.Namespace) -> None:
    from scalerl.common.gpus import require_gpus

    require_gpus(arguments.gpus)
    if arguments.role == "trainer" and arguments.index is None:  # a task of an srun step
        slurm = {"RANK": "SLURM_PROCID", "LOCAL_RANK": "SLURM_LOCALID", "WORLD_SIZE": "SLURM_NTASKS"}
        os.environ |= {name: os.environ[variable] for name, variable in slurm.items()}
    if arguments.exam is not None:
        _run_exam(arguments)
    elif arguments.role == "trainer":
        from scalerl.trainer import run_trainer

        run_trainer(arguments.dir, rank=int(os.environ["RANK"]), attempt=arguments.attempt)
    elif arguments.role == "generator":
        from scalerl.generator import run_generator

        run_generator(arguments.dir, index=arguments.index, attempt=arguments.attempt)
    else:
        from scalerl.evaluator import run_evaluator

        run_evaluator(arguments.dir, index=arguments.index, attempt=arguments.attempt)


def _run_exam(arguments: argparse.Namespace) -> None:
    module = import_module(f"scalerl.exams.{arguments.exam}")
    if arguments.exam == "trainer":
        module.run_trainer_exam(arguments.dir, rank=int(os.environ["RANK"]), attempt=arguments.attempt)
        sys.stdout.flush()
        os._exit(0)  # gloo's threads may abort a process that ends in the ordinary way
    elif arguments.exam == "generator":
        module.run_generator_exam(arguments.dir, attempt=arguments.attempt)
    else:
        module.run_reference_exam(arguments.dir, attempt=arguments.attempt)


def add_status(commands) -> None:
    """Add `scalerl status`."""
    parser = commands.add_parser("status", help="a table of the runs of a sweep, or everything about one run")
    parser.add_argument("folder", type=Path, metavar="SWEEP_OR_RUN_DIR")
    parser.add_argument(
        "--watch",
        type=float,
        nargs="?",
        const=5.0,
        metavar="SECONDS",
        help="show it again every SECONDS (5), until Ctrl-C",
    )
    parser.set_defaults(command=_status)


def _status(arguments: argparse.Namespace) -> None:
    from scalerl.sweep.status import print_report

    print_report(arguments.folder, arguments.watch)


def add_doctor(commands) -> None:
    """Add `scalerl doctor`."""
    parser = commands.add_parser(
        "doctor", help="check the site: Slurm, partition, nodes, shared folder, clocks; says what to fix"
    )
    add_site(parser)
    parser.set_defaults(command=_doctor)


def _doctor(arguments: argparse.Namespace) -> int:
    from scalerl.cluster import doctor
    from scalerl.cluster.site import load_site

    return doctor.main(load_site(arguments.site))
