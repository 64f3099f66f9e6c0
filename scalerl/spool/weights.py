"""Published weights: immutable Hugging Face folders, and how long each of them stays.

weights/<policy_version>-<hash>/  config, tokenizer and safetensors of one policy
        latest.json               the manifest that generators follow (`admission.PolicyManifest`)
        .<owner>/                 hard links of a generator that is loading a policy (`pinned_weights`)

The hash in the name is the first 12 hex digits of the SHA-256 of the weights. So a name never means two
contents, and a replay after a crash finds what it published before.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from scalerl.common.files import publish_folder, temporary_name
from scalerl.paths import RunPaths
from scalerl.spool.evaluations import pending_evaluations


def hash_weights(folder: Path) -> str:
    """Return the SHA-256 over names and bytes of the safetensors files of a folder, in name order."""
    # The names count: the same bytes in other files are another model. 16 MiB are read at a time.
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            while block := file.read(1 << 24):
                digest.update(block)
    return digest.hexdigest()


def publish_weights(paths: RunPaths, policy_version: int, write: Callable[[Path], object]) -> tuple[str, str]:
    """Write a Hugging Face folder with `write(folder)` and publish it under its immutable name.

    Returns:
        (name of the folder in weights/, SHA-256 of its weights).
    """
    temporary = temporary_name(paths.weights / f"{policy_version:08d}")
    temporary.mkdir()
    try:
        write(temporary)
        sha256 = hash_weights(temporary)
        name = f"{policy_version:08d}-{sha256[:12]}"
        # A folder of that name is left from before a crash: the hash says that its content is the same.
        if not (paths.weights / name).exists():
            publish_folder(temporary, paths.weights / name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return name, sha256


def check_weights(folder: Path, sha256: str) -> None:
    """Compare a folder with the hash it was published under.

    Raises:
        ValueError: the content is not what the trainer published.
    """
    found = hash_weights(folder)
    if found != sha256:
        raise ValueError(
            f"{folder} has the hash {found[:12]}, its manifest says {sha256[:12]}: "
            f"the file system served a wrong file"
        )


def collect_old_weights(paths: RunPaths, keep: Collection[str]) -> int:
    """Delete the published folders that neither `keep` nor a pending evaluation names; returns how many."""
    needed = {*keep, *(request.name for request in pending_evaluations(paths))}
    old = [
        folder for folder in paths.weights.iterdir() if folder.name[0].isdigit() and folder.name not in needed
    ]
    for folder in old:
        # Renamed first, so that it is gone at once: nobody must find half of it.
        doomed = temporary_name(folder)
        os.rename(folder, doomed)
        shutil.rmtree(doomed)
    return len(old)


def link_folder(source: Path, target: Path) -> None:
    """Make `target` a folder of hard links to the files of `source`; of copies where there are no links.

    Raises:
        FileNotFoundError: `source` is gone, or went while its files were being linked.
    """
    target.mkdir()
    for path in source.iterdir():
        try:
            os.link(path, target / path.name)
        except FileNotFoundError:
            raise
        # This file system has no hard links, or the target is on another one.
        except OSError:
            shutil.copy2(path, target / path.name)


@contextmanager
def pinned_weights(paths: RunPaths, name: str, owner: str) -> Iterator[Path]:
    """Lend a published folder, under its own name, that stays while `owner` reads it.

    The trainer may delete the original meanwhile; a hard link to every file keeps the content.

    Raises:
        FileNotFoundError: it is gone already.
    """
    root = paths.pinned(owner)
    shutil.rmtree(root, ignore_errors=True)  # left by an owner that was killed
    root.mkdir()
    try:
        link_folder(paths.weights / name, root / name)
        yield root / name
    finally:
        shutil.rmtree(root)
