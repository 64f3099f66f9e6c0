"""Checkpoints: everything a run needs to continue, without pickle, complete as soon as the folder's name
exists.

checkpoints/<step>/state.json                the run's progress, and the size of every other file
                   rank_<rank>.safetensors   this rank's slices of fp32 weights and Adam moments, and its RNG
                   model/                    the policy as a Hugging Face folder
"""

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from scalerl.config import RunConfig
from scalerl.fence import check_attempt
from scalerl.files import fsync_file, fsync_folder, publish_folder, read_json, write_json
from scalerl.paths import RunPaths
from scalerl.trainer.engine import TrainingEngine

FORMAT = 1
RNG_KEY = "rng"
_HEADER_BYTES = 8
"""Of the length of a safetensors header."""


def checkpoint_steps(paths: RunPaths) -> list[int]:
    """Steps that have a checkpoint, oldest first."""
    return sorted(int(folder.name) for folder in paths.checkpoints.iterdir() if folder.name.isdigit())


def _folder(paths: RunPaths, step: int) -> Path:
    return paths.checkpoints / f"{step:08d}"


def _rank_file(folder: Path, rank: int) -> Path:
    return folder / f"rank_{rank:05d}.safetensors"


def save_checkpoint(
    paths: RunPaths,
    engine: TrainingEngine,
    *,
    config: RunConfig,
    training_state: dict[str, Any],
    write_model: Callable[[Path | None], None],
    attempt: int,
) -> None:
    """Write checkpoints/<step>/; all ranks call it, and the step must have none yet.

    training_state: `TrainingState.to_json()`. write_model: a collective that fills a folder, given on rank 0 only.

    Raises:
        StaleAttempt: a newer attempt took the run folder over meanwhile; nothing is published.
    """
    step = training_state["step"]
    temporary = paths.checkpoints / f".{step:08d}.{attempt}.tmp"
    if engine.rank == 0:
        shutil.rmtree(temporary, ignore_errors=True)
        (temporary / "model").mkdir(parents=True)
        fsync_folder(paths.checkpoints)
    engine.barrier()
    rank_file = _rank_file(temporary, engine.rank)
    save_file(engine.local_state() | {RNG_KEY: torch.get_rng_state()}, rank_file)
    fsync_file(rank_file)
    write_model(temporary / "model" if engine.rank == 0 else None)
    engine.barrier()
    if engine.rank == 0:
        state = {
            "format": FORMAT,
            "signature": _signature(config, engine.world_size),
            "world_size": engine.world_size,
            "adam_step": engine.adam_step,
            "progress": training_state,
            "bytes": _sizes(temporary),
        }
        write_json(temporary / "state.json", state)
        check_attempt(paths, attempt)
        publish_folder(temporary, _folder(paths, step))
    engine.barrier()


def _sizes(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()
    }


def _signature(config: RunConfig, world_size: int) -> str:
    """The run's signature as if it had `world_size` ranks: a checkpoint may be continued on another number of
    them."""
    trainer = config.trainer.model_copy(update={"num_ranks": world_size})
    return config.model_copy(update={"trainer": trainer}).signature()


def find_checkpoint(paths: RunPaths) -> int | None:
    """The step of the newest whole checkpoint, or None if the run has none yet. Only rank 0 may call it.

    Damaged ones are moved aside to checkpoints/damaged-<step>, and the reason is printed.

    Raises:
        ValueError: there are checkpoints, but every one of them is damaged.
    """
    for leftover in paths.checkpoints.glob(".*.tmp"):
        shutil.rmtree(leftover)
    steps = checkpoint_steps(paths)
    for step in reversed(steps):
        reason = damage(_folder(paths, step))
        if reason is None:
            return step
        aside = paths.checkpoints / f"damaged-{step:08d}"
        shutil.rmtree(aside, ignore_errors=True)
        os.rename(_folder(paths, step), aside)
        print(f"checkpoint {step} is damaged ({reason}): moved to {aside}, trying the one before", flush=True)
    damaged = sorted(folder.name for folder in paths.checkpoints.glob("damaged-*"))
    if damaged:
        raise ValueError(
            f"no whole checkpoint is left in {paths.checkpoints}, only {', '.join(damaged)}: restore one from a copy, or delete "
            f"the folders damaged-* to start the run from its first step"
        )
    return None


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint folder, or None if it is whole."""
    try:
        state = json.loads((folder / "state.json").read_text())
    except (OSError, ValueError) as error:
        return f"state.json: {error}"
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        return f"state.json is not of checkpoint format {FORMAT}"
    names = {f"rank_{rank:05d}.safetensors" for rank in range(state["world_size"])}
    missing = names - state["bytes"].keys()
    if missing:
        return f"state.json lists no {', '.join(sorted(missing))}"
    for name, size in state["bytes"].items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes, not {size}"
        if path.suffix == ".safetensors" and not _whole_safetensors(path):
            return f"{name} is not a whole safetensors file"
    return None


def _whole_safetensors(path: Path) -> bool:
    """Whether the header fits the size of the file."""
    with path.open("rb") as file:
        (header_bytes,) = struct.unpack("<Q", file.read(_HEADER_BYTES).ljust(_HEADER_BYTES, b"\0"))
        try:
            header = json.loads(file.read(header_bytes))
        except (ValueError, OverflowError, MemoryError):
            return False
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    return _HEADER_BYTES + header_bytes + max(ends, default=0) == path.stat().st_size


class SavedState:
    """A whole checkpoint, read by one rank of `world_size`."""

    def __init__(self, paths: RunPaths, step: int, *, rank: int, world_size: int) -> None:
        self._folder = _folder(paths, step)
        self._rank, self._world_size = rank, world_size
        self._state = read_json(self._folder / "state.json")
        self.training_state: dict[str, Any] = self._state["progress"]
        self.model = self._folder / "model"

    def check(self, config: RunConfig) -> None:
        """Refuse a checkpoint of another run.

        Raises:
            ValueError: the config differs from the one the checkpoint was made with.
        """
        signature = _signature(config, self._state["world_size"])
        if signature != self._state["signature"]:
            raise ValueError(
                f"{self._folder} belongs to a run with the signature {self._state['signature']}, this config has {signature}: "
                f"use the config it was started with, or another --dir"
            )

    def restore(self, engine: TrainingEngine) -> None:
        """Load weights, moments and RNG. Bit-exact; on another number of ranks the slices are cut anew and
        the RNG stays."""
        ranks = range(self._state["world_size"])
        if self._world_size == len(ranks):
            ranks = range(self._rank, self._rank + 1)
        files = [safe_open(_rank_file(self._folder, rank), framework="pt") for rank in ranks]

        def read(key: str, length: int, numel: int) -> Tensor:
            parts = [file.get_tensor(key) for file in files]
            if len(parts) == 1 and self._world_size == self._state["world_size"]:
                return parts[0]
            whole = torch.cat(parts)[:numel]
            mine = whole[self._rank * length : (self._rank + 1) * length]
            return torch.nn.functional.pad(mine, (0, length - len(mine)))

        engine.load_local_state(read, self._state["adam_step"])
        if self._world_size == self._state["world_size"]:
            torch.set_rng_state(files[0].get_tensor(RNG_KEY))


def collect_old_checkpoints(paths: RunPaths, keep: int) -> int:
    """Delete all but the newest `keep` checkpoints; returns the group cursor of the oldest one kept."""
    steps = checkpoint_steps(paths)
    for step in steps[:-keep]:
        leaving = (
            paths.checkpoints / f".{step:08d}.old.tmp"
        )  # a half-deleted folder must not look like a checkpoint
        os.rename(_folder(paths, step), leaving)
        shutil.rmtree(leaving)
    return read_json(_folder(paths, steps[-keep:][0]) / "state.json")["progress"]["next_group"]
