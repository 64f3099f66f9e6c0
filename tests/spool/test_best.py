"""best/: replaced only by a better policy, whole at any time it is there, and tested once it is final."""

import json
import os
import shutil

import pytest

from scalerl.spool.best import (
    keep_if_best,
    lacks_test,
    read_test,
    record_test,
    request_test,
    withdraw_test,
)
from scalerl.spool.evaluations import pending_evaluations
from scalerl.spool.weights import check_weights, hash_weights


@pytest.fixture(autouse=True)
def _config(run_folder, paths):
    paths.config.write_text('{"signature": "0"}')


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


CHOSEN = {
    "step": 7,
    "policy_version": 7,
    "epoch": 0.5,
    "generated_tokens": 9,
    "trained_tokens": 9,
    "flops": 1.0,
    "pass_rate": 0.5,
}


def choose(paths, name, **changes):
    """Make a policy the best, as the evaluator does, with the content of evaluations/<step>.json."""
    folder = policy(paths, name)
    evaluation = CHOSEN | {"name": name, "sha256": hash_weights(folder)} | changes
    assert keep_if_best(paths, folder, evaluation)


def test_the_best_policy_is_asked_for_where_evaluators_look(paths):
    assert not lacks_test(paths, "test.parquet"), "there is no best policy"
    choose(paths, "a")
    assert not lacks_test(paths, "")
    assert lacks_test(paths, "test.parquet")
    shutil.rmtree(paths.weights / "a")
    request_test(paths, "test.parquet")
    (request,) = pending_evaluations(paths)
    assert (request.step, request.name, request.test_set) == (7, "a", "test.parquet")
    check_weights(paths.weights / request.name, request.sha256)
    assert [path.name for path in (paths.weights / "a").iterdir()] == ["model.safetensors"]
    withdraw_test(paths)
    assert pending_evaluations(paths) == []
    request_test(paths, "test.parquet")
    assert len(pending_evaluations(paths)) == 1


def test_the_record_of_the_test_goes_with_the_policy_it_is_of(paths):
    choose(paths, "a")
    sizes = {"num_prompts": 4, "samples_per_prompt": 8, "test_set": "test.parquet"}
    result = CHOSEN | {"name": "a", "pass_rate": 0.3125, "standard_error": 0.0625} | sizes
    record_test(paths, result | {"prompt_ids": ["p"], "num_correct": [5]})
    tested = read_test(paths)
    assert str(tested) == "best policy (step 7): test 0.312 ± 0.062 (4 prompts), held-out 0.500"
    assert not {"prompt_ids", "num_correct"} & tested.extra.keys()
    assert not lacks_test(paths, "test.parquet")
    assert lacks_test(paths, "another.parquet")
    choose(paths, "b", pass_rate=0.6)
    assert read_test(paths) is None
    with pytest.raises(AssertionError, match="nothing replaces the best"):
        record_test(paths, result)
