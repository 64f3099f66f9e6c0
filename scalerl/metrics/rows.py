"""Metric rows: posted into the inbox by the roles, read from metrics.jsonl by everybody."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from scalerl.files import read_json, write_json
from scalerl.paths import RunPaths


def post_row(paths: RunPaths, row: dict[str, Any]) -> None:
    """Hand a row to the supervisor. It needs `kind` ("step" or "eval"), `step`, `attempt` and `time_s`
    (unix)."""
    write_json(paths.inbox / f"{row['kind']}-{row['step']:08d}-{row['attempt']}.json", row)


def posted_rows(paths: RunPaths) -> dict[Path, dict[str, Any]]:
    """The rows in the inbox, oldest first."""
    posted = {}
    for path in paths.inbox.glob("[!.]*.json"):
        with suppress(
            FileNotFoundError
        ):  # taken by the supervisor of an earlier attempt that does not know yet that it is over
            posted[path] = read_json(path)
    return dict(sorted(posted.items(), key=lambda item: item[1]["time_s"]))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """All rows of a metrics.jsonl; a torn last line (a writer died) is left out.

    Raises:
        ValueError: another line is not JSON; the message names it.
    """
    if not path.exists():
        return []
    rows = []
    lines = path.read_text().splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise ValueError(f"{path}:{number} is not JSON ({error}); remove that line") from None
    return rows
