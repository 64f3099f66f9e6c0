"""How a model wants to be asked: the config of the run that it comes from, or the one that the user names."""

import os
from collections.abc import Iterable
from pathlib import Path

from scalerl.common.files import read_json
from scalerl.config import RunConfig
from scalerl.paths import RUN_CONFIG, RunPaths
from scalerl.settings import load_config


def config_of_model(model: Path, file: Path | None, overrides: Iterable[str] = ()) -> tuple[RunConfig, Path]:
    """Return the config to evaluate a model with, and the file that it is from.

    The file is `file`, TOML or a run's config.json, where it is given; else the config of the run whose best/
    or weights/ the model is in, or was copied from. `overrides` ("key=value") win.

    Raises:
        ValueError: there is no such model; or it is of no run, and there is no `file`; or the config is bad.
    """
    if os.environ.get("HF_HUB_OFFLINE") != "0" and not (model / "config.json").exists():
        raise ValueError(f"--model {model}: no config.json there, so it is not a Hugging Face directory")
    found = file or _config_of_run(model)
    if found is None:
        raise ValueError(
            f"--model {model} is no policy of a run (its best/, or a folder in its weights/), so nothing "
            f"says with which instruction, lengths and temperature to ask it: name --config FILE, a TOML "
            f"file or the config.json of a run"
        )
    return load_config([found], overrides), found


def _config_of_run(model: Path) -> Path | None:
    """Return the config.json of the run that a folder belongs to, or the copy of it inside; None without."""
    if (model / RUN_CONFIG).exists():
        return model / RUN_CONFIG
    parent = model.resolve().parent
    root = {"best": parent, "weights": parent.parent}
    name = "weights" if parent.name == "weights" else model.resolve().name
    file = RunPaths(root[name]).config if name in root else None
    # A folder called best may as well lie in that of a model, whose config.json is of another kind.
    return file if file and file.exists() and "signature" in read_json(file) else None
