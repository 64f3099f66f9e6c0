"""The run folder before anything expensive starts: input checked, config saved, an earlier run recognised."""

import os
import subprocess
from functools import cache
from pathlib import Path

from scalerl.config import NOT_IDENTITY, RunConfig
from scalerl.data.problem import load_problems
from scalerl.files import read_json, write_json
from scalerl.inference.verifier import code_limits
from scalerl.paths import RunPaths
from scalerl.settings import build_config, differences, flatten
from scalerl.verify.sandbox import Sandbox


def check_inputs(config: RunConfig) -> None:
    """Check what a run needs from outside, wherever it will run.

    Raises:
        ValueError: a path is missing or unusable, with the way out.
    """
    if not config.model.path:
        raise ValueError("model.path is not set: name a Hugging Face directory, such as the one `scalerl base` makes")
    online = os.environ.get("HF_HUB_OFFLINE") == "0"  # then it may be a hub name
    if not online and not (Path(config.model.path) / "config.json").exists():
        raise ValueError(
            f"model.path = {config.model.path!r}: no config.json there, so it is not a Hugging Face directory (a hub name needs "
            f"HF_HUB_OFFLINE=0 in the environment, or a copy on disk)"
        )
    for key, value in (("data.train", config.data.train), ("data.heldout", config.data.heldout)):
        if not value:
            raise ValueError(f"{key} is not set: `scalerl prepare` writes train.parquet and heldout.parquet")
        load_problems(Path(value))
    num_prompts = min(config.evaluation.num_prompts, len(load_problems(Path(config.data.heldout))))
    if config.evaluation.num > num_prompts:
        raise ValueError(
            f"evaluation.num = {config.evaluation.num} evaluators cannot share {num_prompts} held-out prompts: lower it"
        )


def check_machine(config: RunConfig, on_cpu: bool) -> None:
    """Check that the machine a run is to start on, this one, can do what it asks for; after `check_inputs`.

    Raises:
        ValueError: it cannot, with the way out.
    """
    if on_cpu and config.generator.kv_cache_gb == 0:
        raise ValueError("generator.kv_cache_gb = 0 lets vLLM measure GPU memory; on a CPU give a number, such as 0.5")
    paths = (config.data.train, config.data.heldout)
    if any(problem.task == "code" for path in paths for problem in load_problems(Path(path))):
        Sandbox(code_limits(config))


@cache
def git_commit() -> str:
    """The commit of the code that runs, with "-dirty" if it was changed since; "unknown" outside a git checkout."""
    where = Path(__file__).parent
    result = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=40"], cwd=where, capture_output=True, text=True)
    return result.stdout.strip() or "unknown"


def read_config(paths: RunPaths) -> RunConfig:
    """The resolved config of an existing run folder.

    Raises:
        ValueError: the folder has no config.json, or one that this version cannot read.
    """
    if not paths.config.exists():
        raise ValueError(f"{paths.root} is not a run folder (no config.json); `scalerl run CONFIG --dir {paths.root}` makes one")
    saved = read_json(paths.config)
    if not isinstance(saved, dict) or "config" not in saved:
        raise ValueError(f"{paths.config} holds no resolved config; restore it from a copy, or choose another --dir")
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
    saved_config = {"signature": config.signature(), "git_commit": git_commit(), "config": config.model_dump(mode="json")}
    write_json(paths.config, saved_config)
