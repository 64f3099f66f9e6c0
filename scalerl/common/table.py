"""Tables for a terminal: the one place where columns are aligned."""

from collections.abc import Sequence
from typing import Any

GAP = "  "


def format_table(rows: Sequence[Sequence[Any]], header: Sequence[str] = (), align: str = "") -> str:
    """Return one line a row, the columns aligned and two spaces apart.

    `align` has "<" (left) or ">" (right) for each column from the first on; columns without one stand left.
    None is shown as a dash, a float to four digits. `header` is the first line; without it there is none.
    """
    lines = [list(header)] if header else []
    lines += [[cell_text(value) for value in row] for row in rows]
    # Without rows and header there are no columns, and the table is empty.
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    sides = align.ljust(len(widths), "<")
    return "\n".join(
        GAP.join(
            f"{cell:{side}{width}}" for cell, side, width in zip(line, sides, widths, strict=True)
        ).rstrip()
        for line in lines
    )


def cell_text(value: Any) -> str:
    """Return a cell's text: a dash for None, a float to four digits, else the value as it prints."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
