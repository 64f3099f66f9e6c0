"""Durable files: everything another process reads appears under its final name whole, or not at all."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4


def fsync_folder(folder: Path) -> None:
    """Make the renames done in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_file(path: Path) -> None:
    """Make the content of an already written file durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def temporary_name(path: Path) -> Path:
    """Return a hidden sibling of `path`; readers skip names that start with a dot."""
    return path.with_name(f".{path.name}.{uuid4().hex[:8]}.tmp")


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write(temporary)`, then fsync and rename the result to `path` (replacing a file of that name).

    A reader sees the old content or the new, never a part; on an error nothing of the attempt stays.
    """
    temporary = temporary_name(path)
    try:
        write(temporary)
        fsync_file(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    # a rename is durable only with its folder
    fsync_folder(path.parent)


def write_new(path: Path, write: Callable[[Path], object]) -> bool:
    """Write a file as `write_atomic` does, unless there is one of that name.

    Returns:
        False if there was; it is left as it is.
    """
    temporary = temporary_name(path)
    try:
        write(temporary)
        fsync_file(temporary)
        os.link(temporary, path)  # a rename would replace a file that others may be reading
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    fsync_folder(path.parent)
    return True


def write_text(path: Path, text: str) -> None:
    """Write `text` atomically and durably."""
    write_atomic(path, lambda temporary: temporary.write_text(text))


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically and durably. NaN and infinities are refused: they are no
    JSON.

    Raises:
        ValueError: `value` holds a number that JSON cannot express.
    """
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read one JSON file.

    Raises:
        ValueError: the content is not JSON; the message names the file.
    """
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); delete it or restore it from a copy") from None


def publish_folder(temporary: Path, final: Path) -> None:
    """Rename a finished folder to its immutable final name after fsyncing every file in it.

    Raises:
        OSError: `final` exists already; published folders are never replaced.
    """
    # the rename below may reach the disk before what it names, unless that is there already
    for path in sorted(temporary.rglob("*")):
        if path.is_file():
            fsync_file(path)
        else:
            fsync_folder(path)
    fsync_folder(temporary)
    os.rename(temporary, final)
    fsync_folder(final.parent)
