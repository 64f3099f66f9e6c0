"""Checkpoints: everything a run needs to continue, without pickle, whole as soon as the folder's name exists.

checkpoints/<step>/state.json               the training state, and the size of every other file
                   rank_<rank>.safetensors  a rank's slices of fp32 weights and Adam moments, and its RNG
                   model/                   the policy as a Hugging Face folder
            damaged-<step>/                 a checkpoint that is not whole, moved aside

The engine loads model/ as it would a base model; the slices then put exact fp32 weights and moments in place.
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

from scalerl.common.files import fsync_file, fsync_folder, publish_folder, read_json, write_json
from scalerl.config import RunConfig
from scalerl.fence import check_attempt
from scalerl.paths import RunPaths
from scalerl.trainer.engine import TrainingEngine

FORMAT = 1
"""Raised with every change of the files; a checkpoint of another format counts as damaged."""
RNG_KEY = "rng"
_HEADER_BYTES = 8
"""Bytes at the start of a safetensors file that hold the length of its header."""


def checkpoint_steps(paths: RunPaths) -> list[int]:
    """Return the steps that have a checkpoint, oldest first."""
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

    training_state: what `TrainingState.to_json` returns.
    write_model: a collective that fills a folder with the policy; only rank 0 gives it one.

    Raises:
        StaleAttempt: a newer attempt took the run folder over meanwhile; nothing is published.
    """
    step = training_state["step"]
    temporary = paths.checkpoints / f".{step:08d}.{attempt}.tmp"
    if engine.rank == 0:
        _make_empty(temporary)
    engine.barrier()
    rank_file = _rank_file(temporary, engine.rank)
    save_file(engine.local_state() | {RNG_KEY: torch.get_rng_state()}, rank_file)
    fsync_file(rank_file)
    write_model(temporary / "model" if engine.rank == 0 else None)
    # Every rank's file is on disk before rank 0 lists the sizes and gives the folder its name.
    engine.barrier()
    if engine.rank == 0:
        # state.json comes last: it lists what must be there, and without it the folder counts as damaged.
        write_json(temporary / "state.json", _content(temporary, engine, config, training_state))
        check_attempt(paths, attempt)
        publish_folder(temporary, _folder(paths, step))
    engine.barrier()


def _make_empty(folder: Path) -> None:
    """Make the folder that the files of a checkpoint go to; a trainer killed here may have left one."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "model").mkdir(parents=True)
    fsync_folder(folder.parent)


def _content(
    folder: Path, engine: TrainingEngine, config: RunConfig, training_state: dict[str, Any]
) -> dict[str, Any]:
    """Return the content of state.json, with the sizes of the files in `folder`."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {
        "format": FORMAT,
        "signature": _signature(config, engine.world_size),
        "world_size": engine.world_size,
        "adam_step": engine.adam_step,
        "progress": training_state,
        "bytes": {str(path.relative_to(folder)): path.stat().st_size for path in files},
    }


def _signature(config: RunConfig, world_size: int) -> str:
    """Return the run's signature as if it had `world_size` ranks."""
    # A checkpoint may be continued on another number of ranks, so their number is no part of its identity.
    trainer = config.trainer.model_copy(update={"num_ranks": world_size})
    return config.model_copy(update={"trainer": trainer}).signature()


def find_checkpoint(paths: RunPaths) -> int | None:
    """Return the step of the newest whole checkpoint, or None if the run has none yet; for rank 0 only.

    Damaged ones are moved aside to checkpoints/damaged-<step>/, and the reason is printed. Training goes on
    from an older one all the same: the spool still holds the groups that the lost steps trained.

    Raises:
        ValueError: there are checkpoints, but every one of them is damaged.
    """
    for leftover in paths.checkpoints.glob(".*.tmp"):
        shutil.rmtree(leftover)
    for step in reversed(checkpoint_steps(paths)):
        # Found here, before any rank loads: a disk that was full, a file system that lost what it had synced.
        reason = damage(_folder(paths, step))
        if reason is None:
            return step
        _move_aside(paths, step, reason)
    damaged = sorted(folder.name for folder in paths.checkpoints.glob("damaged-*"))
    if damaged:
        raise ValueError(
            f"no whole checkpoint is left in {paths.checkpoints}, only {', '.join(damaged)}: restore one "
            f"from a copy, or delete the folders damaged-* to start the run from its first step"
        )
    return None


def _move_aside(paths: RunPaths, step: int, reason: str) -> None:
    """Keep a damaged checkpoint for a repair, under a name that no trainer takes for a checkpoint."""
    aside = paths.checkpoints / f"damaged-{step:08d}"
    shutil.rmtree(aside, ignore_errors=True)
    os.rename(_folder(paths, step), aside)
    print(f"checkpoint {step} is damaged ({reason}): moved to {aside}, trying the one before", flush=True)


def damage(folder: Path) -> str | None:
    """Say what is wrong with a checkpoint folder; None if it is whole."""
    # Sizes and headers, not hashes: to read all of a large checkpoint would take as long as to load it.
    try:
        content = json.loads((folder / "state.json").read_text())
    except (OSError, ValueError) as error:
        return f"state.json: {error}"
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        return f"state.json is not of checkpoint format {FORMAT}"
    names = {_rank_file(folder, rank).name for rank in range(content["world_size"])}
    missing = names - content["bytes"].keys()
    if missing:
        return f"state.json lists no {', '.join(sorted(missing))}"
    for name, size in content["bytes"].items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes, not {size}"
        if path.suffix == ".safetensors" and not _whole_safetensors(path):
            return f"{name} is not a whole safetensors file"
    return None


def _whole_safetensors(path: Path) -> bool:
    """Say whether the header of a safetensors file is readable and fits the size of the file."""
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
        """Read state.json of the checkpoint of `step`; weights and moments wait for `restore`."""
        self._folder = _folder(paths, step)
        self._rank, self._world_size = rank, world_size
        self._content = read_json(self._folder / "state.json")
        self.training_state: dict[str, Any] = self._content["progress"]
        """State to give to `TrainingState.restore`."""
        self.model = self._folder / "model"
        """Hugging Face folder to build the engine from."""

    def check(self, config: RunConfig) -> None:
        """Refuse a checkpoint of another run.

        Raises:
            ValueError: the config differs from the one the checkpoint was made with.
        """
        expected, found = self._content["signature"], _signature(config, self._content["world_size"])
        if found != expected:
            raise ValueError(
                f"{self._folder} belongs to a run with the signature {expected}, this config has {found}: "
                f"use the config it was started with, or another --dir"
            )

    def restore(self, engine: TrainingEngine) -> None:
        """Load weights and moments, bit-exact, into an engine that was built from `model`.

        On as many ranks as wrote the checkpoint the RNG is restored, too; on another number the slices are
        cut anew.
        """
        saved_ranks = self._content["world_size"]
        same = self._world_size == saved_ranks
        ranks = [self._rank] if same else range(saved_ranks)
        files = [safe_open(_rank_file(self._folder, rank), framework="pt") for rank in ranks]

        def read(key: str, length: int, numel: int) -> Tensor:
            if same:
                return files[0].get_tensor(key)
            # ZeRO-3 pads the last slice to the common length: join, cut the padding off, cut anew, pad again.
            whole = torch.cat([file.get_tensor(key) for file in files])[:numel]
            mine = whole[self._rank * length : (self._rank + 1) * length]
            return torch.nn.functional.pad(mine, (0, length - len(mine)))

        engine.load_local_state(read, self._content["adam_step"])
        if same:
            torch.set_rng_state(files[0].get_tensor(RNG_KEY))


def collect_old_checkpoints(paths: RunPaths, keep: int) -> int:
    """Delete all but the newest `keep` checkpoints; return the next group of the oldest one kept."""
    steps = checkpoint_steps(paths)
    for step in steps[:-keep]:
        # Renamed first: a half-deleted folder must not look like a checkpoint.
        leaving = paths.checkpoints / f".{step:08d}.old.tmp"
        os.rename(_folder(paths, step), leaving)
        shutil.rmtree(leaving)
    # Shards before this group are needed by no checkpoint any more.
    return read_json(_folder(paths, steps[-keep:][0]) / "state.json")["progress"]["next_group"]
