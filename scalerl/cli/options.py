"""Options that several commands have."""

import argparse
from pathlib import Path


def add_overrides(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="such as algo.loss_type=dapo budget.max_steps=200"
    )


def add_site(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--site", type=Path, metavar="FILE", help="default: $SCALERL_SITE, else slurm/site.toml"
    )
