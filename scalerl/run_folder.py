"""The run folder's own records: the resolved config, and who made it."""

import subprocess
from functools import cache
from pathlib import Path

from scalerl.config import NOT_IDENTITY, RunConfig
from scalerl.files import read_json, write_json
from scalerl.paths import RunPaths
from scalerl.settings import build_config, differences, flatten


@cache
def git_commit() -> str:
    """The commit of the code that runs, with "-dirty" if it was changed since; "unknown" outside a git checkout."""
    where = Path(__file__).parent
    result = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=40"], cwd=where, capture_output=True, text=True
    )
    return result.stdout.strip() or "unknown"


def read_config(paths: RunPaths) -> RunConfig:
    """The resolved config of an existing run folder.

    Raises:
        ValueError: the folder has no config.json, or one that this version cannot read.
    """
    if not paths.config.exists():
        raise ValueError(
            f"{paths.root} is not a run folder (no config.json); `scalerl run CONFIG --dir {paths.root}` makes one"
        )
    saved = read_json(paths.config)
    if not isinstance(saved, dict) or "config" not in saved:
        raise ValueError(
            f"{paths.config} holds no resolved config; restore it from a copy, or choose another --dir"
        )
    return build_config(flatten(saved["config"]), str(paths.config))


def check_run_folder(paths: RunPaths, config: RunConfig) -> None:
    """Check that the folder is new, or belongs to the same run; changes nothing.

    Raises:
        ValueError: the folder belongs to another run, or holds something else.
    """
    if paths.config.exists():
        saved = read_config(paths)
        if saved.signature() != config.signature():
            changes = "; ".join(differences(saved, config))
            raise ValueError(
                f"{paths.root} belongs to another run (signature {saved.signature()}, yours {config.signature()}): {changes}. "
                f"Choose another --dir, or set these back; only {', '.join(NOT_IDENTITY)} may change in a run"
            )
    elif paths.root.exists() and any(paths.root.iterdir()):
        raise ValueError(f"{paths.root} exists, is not empty and is not a run folder; choose another --dir")


def save_config(paths: RunPaths, config: RunConfig) -> None:
    """Write the resolved config; only the attempt that owns the folder may."""
    saved_config = {
        "signature": config.signature(),
        "git_commit": git_commit(),
        "config": config.model_dump(mode="json"),
    }
    write_json(paths.config, saved_config)
