"""best/: replaced only by a better policy, and whole at any time it is there."""

import json
import os
import shutil

import pytest

from scalerl.evaluator.best import keep_if_best

pytestmark = pytest.mark.usefixtures("run_folder")


def policy(paths, name):
    folder = paths.weights / name
    folder.mkdir()
    (folder / "model.safetensors").write_text(f"weights of {name}")
    return folder


def best(paths):
    return (paths.best / "model.safetensors").read_text(), json.loads(
        (paths.best / "evaluation.json").read_text()
    )["pass_rate"]


def test_only_a_higher_pass_rate_replaces_the_best(paths):
    assert keep_if_best(paths, policy(paths, "a"), {"pass_rate": 0.5})
    assert best(paths) == ("weights of a", 0.5)
    assert not keep_if_best(paths, policy(paths, "b"), {"pass_rate": 0.5})
    assert keep_if_best(paths, policy(paths, "c"), {"pass_rate": 0.75})
    assert not keep_if_best(paths, paths.weights / "a", {"pass_rate": 0.5})
    assert best(paths) == ("weights of c", 0.75)
    shutil.rmtree(paths.weights / "c")
    assert best(paths) == ("weights of c", 0.75), "the best outlives the clean-up of weights/"
    assert not [path for path in paths.root.iterdir() if path.name.startswith(".")]


def test_weights_are_linked_where_the_file_system_can_and_copied_elsewhere(paths, monkeypatch):
    folder = policy(paths, "a")
    keep_if_best(paths, folder, {"pass_rate": 0.1})
    assert (paths.best / "model.safetensors").samefile(folder / "model.safetensors")

    def refuse(source, target):
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    keep_if_best(paths, folder, {"pass_rate": 0.2})
    assert best(paths) == ("weights of a", 0.2)
    assert not (paths.best / "model.safetensors").samefile(folder / "model.safetensors")


@pytest.mark.parametrize("crash_at", range(2))
def test_a_crash_between_the_renames_is_repaired_by_doing_it_again(paths, monkeypatch, crash_at):
    keep_if_best(paths, policy(paths, "a"), {"pass_rate": 0.5})
    renames, rename = [], os.rename

    def crash(source, target):
        if len(renames) == crash_at:
            raise KeyboardInterrupt
        renames.append((source, target))
        rename(source, target)

    monkeypatch.setattr(os, "rename", crash)
    with pytest.raises(KeyboardInterrupt):
        keep_if_best(paths, policy(paths, "b"), {"pass_rate": 0.6})
    monkeypatch.undo()
    assert keep_if_best(paths, paths.weights / "b", {"pass_rate": 0.6})
    assert best(paths) == ("weights of b", 0.6)
    assert not [path for path in paths.root.iterdir() if path.name.startswith(".")]
