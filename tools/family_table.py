"""Measure the tiny models of all families, and write the table of scalerl/trainer/README.md: `make families`.

    python tools/family_table.py [NAME...] [--output README.md]

Three processes, one after the other (tests/models/matrix.py): trainer, generator, reference; about ten
minutes of one core. Without --output the table is only printed.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "models"))

from families import FAMILIES  # noqa: E402
from matrix import SIDES, verdict  # noqa: E402

from scalerl.common.files import read_json  # noqa: E402

BEGIN, END = "<!-- families: begin -->", "<!-- families: end -->"
COLUMNS = 3
TRAINER, GENERATOR = ("trainer_alone", "trainer_packed", "exported"), ("generator", "generator_reloaded")


def measure(names: list[str], folder: Path) -> dict[str, dict[str, Any]]:
    """Return the figures of every family."""
    found: dict[str, dict[str, Any]] = {name: {} for name in names}
    for role in SIDES:
        program = ROOT / "tests" / "models" / "matrix.py"
        with (folder / f"{role}.log").open("w") as log:
            subprocess.run(
                [sys.executable, program, role, folder, *names], check=True, stdout=log, stderr=log
            )
        for name, figures in read_json(folder / f"{role}.json").items():
            found[name] |= figures
    return found


def worst(figures: dict[str, Any], paths: tuple[str, ...]) -> str:
    """Return the greatest difference of some paths, or a dash where one has none."""
    return f"{max(figures[path] for path in paths):.0e}" if all(path in figures for path in paths) else "-"


def table(found: dict[str, dict[str, Any]]) -> str:
    """Return both tables: the families that agree, several a row, and those that are refused."""
    refused = {name: verdict(figures) for name, figures in found.items() if verdict(figures)}
    cells = [
        f"{name}{mark(figures)} | {worst(figures, TRAINER)} | {worst(figures, GENERATOR)}"
        for name, figures in found.items()
        if name not in refused
    ]
    cells += ["| |"] * (-len(cells) % COLUMNS)
    rows = [" | ".join(cells[index : index + COLUMNS]) for index in range(0, len(cells), COLUMNS)]
    head = " | ".join(["family | trainer | generator"] * COLUMNS)
    lines = [f"| {head} |", "|---" * 3 * COLUMNS + "|", *(f"| {row} |" for row in rows)]
    if refused:
        lines += ["", "| refused | trainer | why |", "|---|---|---|"]
        lines += [
            f"| {name}{mark(found[name])} | {worst(found[name], TRAINER)} | {shorten(reason)} |"
            for name, reason in refused.items()
        ]
    return "\n".join(lines)


def mark(figures: dict[str, Any]) -> str:
    """Return the signs that explain a family: one sequence a row, attention in plain PyTorch."""
    return ("¹" if figures.get("layout") == "alone" else "") + (
        "²" if figures.get("attention") == "eager" else ""
    )


def shorten(reason: str) -> str:
    return reason.replace("|", "/")[:110]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="families; all, if none is named")
    parser.add_argument("--output", type=Path, help="file that has the table between two marks")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - FAMILIES.keys():
        parser.error(f"unknown families {sorted(unknown)}; there are {', '.join(FAMILIES)}")
    with tempfile.TemporaryDirectory() as folder:
        text = table(measure(arguments.names or list(FAMILIES), Path(folder)))
    print(text)
    if arguments.output:
        before, _, rest = arguments.output.read_text().partition(BEGIN)
        _, _, after = rest.partition(END)
        arguments.output.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


if __name__ == "__main__":
    main()
