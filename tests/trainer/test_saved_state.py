"""Which checkpoint a run continues from; real ones are written and read in test_zero3.py and
test_training_run.py."""

import json

import pytest
import torch
from safetensors.torch import save_file

from scalerl.common.files import write_json
from scalerl.paths import RunPaths
from scalerl.settings import build_config
from scalerl.trainer.checkpoint import (
    FORMAT,
    SavedState,
    _signature,
    collect_old_checkpoints,
    find_checkpoint,
)

pytestmark = pytest.mark.usefixtures("run_folder")

CONFIG = build_config({"budget.max_steps": 1, "trainer.num_ranks": 2})


def make_checkpoint(paths: RunPaths, step: int, world_size: int = 2):
    folder = paths.checkpoints / f"{step:08d}"
    (folder / "model").mkdir(parents=True)
    for rank in range(world_size):
        save_file({"rng": torch.zeros(3)}, folder / f"rank_{rank:05d}.safetensors")
    save_file({"weight": torch.ones(5)}, folder / "model" / "model.safetensors")
    state = {
        "format": FORMAT,
        "signature": _signature(CONFIG, world_size),
        "world_size": world_size,
        "adam_step": step,
        "progress": {"step": step, "next_group": 10 * step},
        "bytes": {
            str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*.safetensors")
        },
    }
    write_json(folder / "state.json", state)
    return folder


def test_a_fresh_run_has_none(paths):
    assert find_checkpoint(paths) is None


def test_the_newest_whole_one_is_taken_and_leftovers_are_removed(paths):
    for step in (2, 4):
        make_checkpoint(paths, step)
    leftover = paths.checkpoints / ".00000006.1.tmp"
    leftover.mkdir()
    assert find_checkpoint(paths) == 4
    assert not leftover.exists()


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def scramble(path):
    path.write_bytes(b"\xff" * path.stat().st_size)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: (folder / "state.json").unlink(), "state.json: "),
        (lambda folder: (folder / "state.json").write_text('{"format": '), "state.json: "),
        (
            lambda folder: (folder / "state.json").write_text('{"format": 99}'),
            "state.json is not of checkpoint format 1",
        ),
        (lambda folder: (folder / "rank_00001.safetensors").unlink(), "rank_00001.safetensors is missing"),
        (lambda folder: cut(folder / "rank_00000.safetensors"), "rank_00000.safetensors has"),
        (
            lambda folder: scramble(folder / "rank_00000.safetensors"),
            "rank_00000.safetensors is not a whole safetensors file",
        ),
        (lambda folder: cut(folder / "model" / "model.safetensors"), "model.safetensors has"),
    ],
)
def test_a_damaged_one_is_set_aside_for_the_one_before(paths, capsys, damage, reason):
    make_checkpoint(paths, 2)
    damage(make_checkpoint(paths, 4))
    assert find_checkpoint(paths) == 2
    assert (paths.checkpoints / "damaged-00000004").exists()
    assert f"checkpoint 4 is damaged ({reason}" in capsys.readouterr().out.replace("model/", "")
    make_checkpoint(paths, 4)  # the replayed run can write it again
    assert find_checkpoint(paths) == 4


def test_only_damaged_ones_are_no_fresh_run(paths):
    (make_checkpoint(paths, 2) / "state.json").unlink()
    for _ in range(2):
        with pytest.raises(ValueError, match=r"no whole checkpoint is left .* damaged-00000002: restore one"):
            find_checkpoint(paths)


def test_a_rank_that_the_state_does_not_list_is_missing(paths):
    folder = make_checkpoint(paths, 2)
    state = json.loads((folder / "state.json").read_text())
    del state["bytes"]["rank_00001.safetensors"]
    write_json(folder / "state.json", state)
    with pytest.raises(ValueError, match="no whole checkpoint"):
        find_checkpoint(paths)


def test_old_ones_go_and_the_cursor_of_the_oldest_kept_is_returned(paths):
    for step in (1, 2, 3):
        make_checkpoint(paths, step)
    assert collect_old_checkpoints(paths, keep=2) == 20
    assert sorted(path.name for path in paths.checkpoints.iterdir()) == ["00000002", "00000003"]
    assert collect_old_checkpoints(paths, keep=5) == 20


def test_another_config_is_refused_but_another_number_of_ranks_is_not(paths):
    make_checkpoint(paths, 2)
    saved = SavedState(paths, 2, rank=0, world_size=1)
    saved.check(build_config({"budget.max_steps": 9, "trainer.num_ranks": 1}))
    with pytest.raises(ValueError, match="belongs to a run with the signature"):
        saved.check(build_config({"budget.max_steps": 1, "trainer.num_ranks": 2, "algo.loss_type": "dapo"}))
