"""Options that several commands have."""

import argparse
from pathlib import Path


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Take changes of the config from the end of the command line."""
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="such as algo.loss_type=dapo budget.max_steps=200"
    )


def add_site(parser: argparse.ArgumentParser) -> None:
    """Take the site file."""
    parser.add_argument(
        "--site", type=Path, metavar="FILE", help="default: $SCALERL_SITE, else slurm/site.toml"
    )


def add_submission(parser: argparse.ArgumentParser) -> None:
    """Take where and how many runs start at once, and how much may be spent without a question."""
    parser.add_argument("--cluster", choices=["slurm", "local"], help="default: slurm where it is installed")
    add_site(parser)
    parser.add_argument(
        "--throttle", type=int, metavar="N", help="runs at once (default: as many as Slurm starts)"
    )
    parser.add_argument(
        "--confirm-above",
        type=float,
        default=1000,
        metavar="GPU_HOURS",
        help="ask before more (default 1000)",
    )
    parser.add_argument("--yes", action="store_true", help="do not ask")
