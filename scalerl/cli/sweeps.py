"""Many runs at once: scalerl sweep | extend."""

import argparse
from pathlib import Path

from scalerl.cli.options import add_overrides, add_submission


def add_sweep(commands) -> None:
    """Add `scalerl sweep` to the commands."""
    parser = commands.add_parser(
        "sweep", help="an axis as a grid of runs: a Slurm array, or one after the other on this machine"
    )
    parser.add_argument("axis", type=Path, help="TOML file, such as sweeps/loss_type.toml")
    parser.add_argument(
        "--scale", default="demo", help="overlay sweeps/scale/SCALE.toml over sweeps/base.toml"
    )
    parser.add_argument(
        "--base", metavar="BASE", help="overlay sweeps/bases/BASE.toml over both (default: none, ScaleRL)"
    )
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument(
        "--dir",
        type=Path,
        metavar="SWEEP_DIR",
        help="default: sweeps/AXIS in the site's runs_dir, or sweeps/BASE-AXIS",
    )
    add_submission(parser)
    parser.add_argument("--retry", action="store_true", help="also submit again what failed or was stopped")
    parser.add_argument(
        "--max-gpu-hours", type=float, metavar="H", help="of the whole sweep; a run stops when it is used up"
    )
    parser.add_argument("--dry-run", action="store_true", help="print grid and forecast and start nothing")
    parser.add_argument("--from-make", action="store_true", help=argparse.SUPPRESS)
    add_overrides(parser)
    parser.set_defaults(command=_sweep)


def _sweep(arguments: argparse.Namespace) -> int:
    from scalerl.cluster.site import load_site
    from scalerl.sweep.grid import axis_file, base_file, grid, scale_file
    from scalerl.sweep.launcher import Sweep, launch, use_slurm

    if arguments.throttle is not None and arguments.throttle < 1:
        raise ValueError(
            f"--throttle {arguments.throttle}: at least 1 is needed; leave it out for as many as Slurm starts"
        )
    if arguments.max_gpu_hours is not None:
        arguments.overrides.append(f"budget.sweep_max_gpu_hours={arguments.max_gpu_hours}")
    sweeps, typed = arguments.axis.parent, _typed(arguments)
    axis = axis_file(arguments.axis, typed["axis"])
    base = [sweeps / "base.toml", scale_file(sweeps, arguments.scale, typed["scale"])]
    name = axis.stem
    if arguments.base is not None:
        base.append(base_file(sweeps, arguments.base, typed["base"]))
        name = f"{arguments.base}-{name}"
    points = grid(base, axis, arguments.seeds, arguments.overrides)
    site = load_site(arguments.site)
    sweep = Sweep(
        dir=arguments.dir or Path(site.runs_dir) / "sweeps" / name,
        runs={point.name: point.config for point in points},
        site=site,
        site_file=arguments.site,
        on_slurm=use_slurm(arguments.cluster),
        throttle=arguments.throttle,
        retry=arguments.retry,
    )
    return launch(
        sweep, confirm_above_gpu_hours=arguments.confirm_above, yes=arguments.yes, dry_run=arguments.dry_run
    )


def _typed(arguments: argparse.Namespace) -> dict[str, str]:
    """Return the command as the user typed it, with {} for the axis, for the scale and for the base."""
    if arguments.from_make:
        command = f"make sweep AXIS={arguments.axis.stem}"
        return {
            "axis": "make sweep AXIS={}",
            "scale": f"{command} SCALE={{}}",
            "base": f"{command} BASE={{}}",
        }
    sweeps = arguments.axis.parent
    return {
        "axis": f"scalerl sweep {sweeps}/{{}}.toml",
        "scale": f"scalerl sweep {arguments.axis} --scale {{}}",
        "base": f"scalerl sweep {arguments.axis} --base {{}}",
    }


def add_extend(commands) -> None:
    """Add `scalerl extend` to the commands."""
    parser = commands.add_parser(
        "extend", help="let finished runs go on to a larger budget, with predictions of them"
    )
    parser.add_argument("folder", type=Path, metavar="RUN_OR_SWEEP_DIR")
    parser.add_argument(
        "--to",
        type=float,
        required=True,
        metavar="GPU_HOURS",
        help="the new budget of each run; max_steps is removed",
    )
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument(
        "--top", type=int, metavar="N", help="the N best recipes, with all their seeds (default: every run)"
    )
    chosen.add_argument(
        "--recipe", nargs="+", default=[], metavar="NAME", help="these recipes, with all their seeds"
    )
    rankings = ["prediction", "ceiling"]
    parser.add_argument(
        "--by",
        choices=rankings,
        default="prediction",
        help="--top ranks by the pass rate predicted at --to, or by A",
    )
    parser.add_argument(
        "--sweep-max-gpu-hours",
        type=float,
        metavar="H",
        help="a new budget of the whole sweep, if it has one",
    )
    add_submission(parser)
    parser.add_argument("--dry-run", action="store_true", help="print the forecast and change nothing")
    parser.set_defaults(command=_extend)


def _extend(arguments: argparse.Namespace) -> int:
    from scalerl.cluster.site import load_site
    from scalerl.sweep.extend import extend_here, extend_on_slurm, plan_extension
    from scalerl.sweep.launcher import confirm, use_slurm

    site = load_site(arguments.site) if use_slurm(arguments.cluster) else None
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
        names = ", ".join(submission.runs)
        print(f"submitted {names} as job {submission.job_id}; `scalerl status {arguments.folder}` shows it")
    return 0
