"""The lock that keeps two launchers from submitting a run twice."""

import json
import os
import subprocess

import pytest

from scalerl.common.files import read_json
from scalerl.sweep.submissions import sweep_lock


def test_the_lock_of_a_dead_launcher_counts_no_longer(tmp_path):
    (tmp_path / "submissions").mkdir()
    lock = tmp_path / "submissions" / "lock.json"
    dead = subprocess.Popen(["true"])
    dead.wait()
    lock.write_text(json.dumps({"host": os.uname().nodename, "pid": dead.pid}))
    with sweep_lock(tmp_path, deadline_s=5):
        assert read_json(lock)["pid"] == os.getpid()
    assert list(lock.parent.iterdir()) == []


def test_a_lock_that_another_launcher_took_over_first_is_left_to_it(tmp_path, monkeypatch):
    (tmp_path / "submissions").mkdir()
    lock = tmp_path / "submissions" / "lock.json"
    lock.write_text(json.dumps({"host": "elsewhere", "pid": 1}))
    os.utime(lock, (0, 0))
    rename = os.rename

    def too_late(source, target) -> None:
        lock.write_text(
            json.dumps({"host": "elsewhere", "pid": 2})
        )  # between the look at the old lock and its removal
        rename(source, target)

    monkeypatch.setattr(os, "rename", too_late)
    with pytest.raises(TimeoutError), sweep_lock(tmp_path, deadline_s=0.5):
        pass
    assert read_json(lock)["pid"] == 2


def test_a_lock_that_is_held_is_waited_for(tmp_path):
    (tmp_path / "submissions").mkdir()
    lock = tmp_path / "submissions" / "lock.json"
    lock.write_text(json.dumps({"host": "elsewhere", "pid": 1}))
    with (
        pytest.raises(TimeoutError, match="another launcher is at work"),
        sweep_lock(tmp_path, deadline_s=0.5),
    ):
        pass
    os.utime(lock, (0, 0))
    with sweep_lock(tmp_path, deadline_s=5):
        pass
