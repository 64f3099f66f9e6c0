"""The command line of tools/fit_all.py."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from scalerl.common.table import format_table
from scalerl.curve.estimators import ESTIMATORS
from scalerl.fits.fit_all import SweepFits, fit_all
from scalerl.fits.inputs import AXES
from scalerl.fits.records import Options, advice
from scalerl.fits.tables import fit_rows

COLUMNS = ("figure", "run", "seed", "A", "A_lo90", "A_hi90", "B", "C_mid", "rmse", "points", "identified")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `main`."""
    parser.add_argument("input", type=Path, help="sweep folder, run folder, .csv or .parquet")
    parser.add_argument(
        "--out",
        type=Path,
        help="folder for tables, figures and report (default: INPUT/fits, or TABLE-fits; -TASK added)",
    )
    parser.add_argument("--estimator", choices=list(ESTIMATORS), default="default")
    parser.add_argument("--axis", choices=list(AXES), default="gpu_hours", help="what compute is counted in")
    parser.add_argument("--task", help="fit the pass rate of one task alone, such as math or code")
    parser.add_argument(
        "--predict", type=_targets, default=(), metavar="C1,C2", help="compute to predict every run at"
    )
    parser.add_argument("--min-compute", type=float, help="drop earlier points (paper: 1500 GPU-hours)")
    parser.add_argument(
        "--min-epochs", type=float, help="drop points of earlier epochs (needs a column epoch)"
    )
    parser.add_argument("--max-compute", type=float, help="do not fit later points")


def _targets(text: str) -> tuple[float, ...]:
    message = f"{text!r} is not compute above 0, separated by commas, as in 10000,20000"
    try:
        targets = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(message) from None
    if not all(0 < target < float("inf") for target in targets):
        raise argparse.ArgumentTypeError(message)
    return targets


def main(arguments: Sequence[str] | None = None, prog: str = "fit_all.py") -> int:
    """Fit everything; return the exit code: 0, 1 if a run could not be fitted or scored, 2 if none could."""
    parser = argparse.ArgumentParser(prog=prog, description="Fit, predict and rank the curves of a sweep")
    add_arguments(parser)
    return run(parser.parse_args(arguments))


def run(parsed: argparse.Namespace) -> int:
    """Run the command, its arguments parsed; return the exit code."""
    source: Path = parsed.input
    name = f"fits-{parsed.task}" if parsed.task else "fits"
    out = parsed.out or (source / name if source.is_dir() else source.with_name(f"{source.stem}-{name}"))
    try:
        options = Options(
            axis=parsed.axis,
            estimator=parsed.estimator,
            min_compute=parsed.min_compute,
            max_compute=parsed.max_compute,
            min_epochs=parsed.min_epochs,
            predict=parsed.predict,
            task=parsed.task,
        )
        fits = fit_all(parsed.input, out, options)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    _tell(fits, out)
    if not fits.records:
        return 2
    return 1 if fits.unreadable else 0


def _tell(fits: SweepFits, out: Path) -> None:
    if fits.records:
        rows = [
            [None if row[name] == "" else row[name] for name in COLUMNS] for row in fit_rows(fits.records)
        ]
        print(format_table(rows, COLUMNS))
    for record in fits.records:
        if not record.identified:
            way_out = f"{advice(record.needed_compute)} {record.axis}"
            print(f"{record.key}: not yet identified: {record.reason}; {way_out}")
    for row in fits.scored:
        if row.hit is not None:
            found = f"came {row.observed:.4f}, {'inside' if row.hit else 'outside'}"
            print(f"{row.key}: at {row.compute:g} predicted {row.predicted:.4f}, {found}")
    unchanged = len(fits.records) - fits.num_fitted
    print(f"{fits.num_fitted} fitted, {unchanged} unchanged; {out / 'report.html'}")
    for unreadable in fits.unreadable:
        print(f"error: {unreadable.run}: {unreadable.reason}", file=sys.stderr)
