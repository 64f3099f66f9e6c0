"""The `scalerl` command.

    scalerl prepare | base | preflight | run | sweep | status | extend | evaluate | verify | fit | doctor

Engines are imported inside the command that needs them: a login node has no torch.
"""

import argparse
import sys
from collections.abc import Sequence

from scalerl.cli.inputs import add_base, add_prepare
from scalerl.cli.measure import add_evaluate, add_fit, add_verify, fit
from scalerl.cli.runs import add_doctor, add_preflight, add_role, add_run, add_status, role
from scalerl.cli.sweeps import add_extend, add_sweep


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of all commands; each sets `command` to its function."""
    parser = argparse.ArgumentParser(
        prog="scalerl", description="RL on language models as batch jobs, with scaling curves that predict."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (
        add_prepare,
        add_base,
        add_preflight,
        add_run,
        add_sweep,
        add_status,
        add_extend,
        add_evaluate,
        add_verify,
        add_fit,
        add_doctor,
        add_role,
    ):
        add(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; a user's mistake is one line on stderr and exit code 2."""
    parser = build_parser()
    arguments, rest = parser.parse_known_args(argv)
    # argparse takes no positional arguments after an option, but that is where people write overrides
    if arguments.command is fit:
        # its own parser reads them
        arguments.overrides = rest
    elif rest and (any(text.startswith("-") for text in rest) or not hasattr(arguments, "overrides")):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    elif rest:
        arguments.overrides += rest
    if arguments.command is role:
        # its log wants the whole traceback
        return role(arguments) or 0
    try:
        return arguments.command(arguments) or 0
    except (ValueError, OSError) as error:
        print(f"scalerl: error: {error}", file=sys.stderr)
        return 2
