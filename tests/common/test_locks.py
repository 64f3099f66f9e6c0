"""The lock between processes, and files that are written once."""

import os
import subprocess
import sys

import pytest

from scalerl.common.files import write_new
from scalerl.common.locks import lock

COUNT = """
import sys
from pathlib import Path
from scalerl.common import locks
locks.POLL_S = 0.001
counter, lock = Path(sys.argv[1]), Path(sys.argv[2])
for _ in range(25):
    with locks.lock(lock, deadline_s=60, expires_s=60):
        counter.write_text(str(int(counter.read_text()) + 1))
"""


def test_four_processes_that_count_lose_no_count(tmp_path):
    counter, path = tmp_path / "counter", tmp_path / "lock.json"
    counter.write_text("0")
    command = [sys.executable, "-c", COUNT, str(counter), str(path)]
    processes = [subprocess.Popen(command) for _ in range(4)]
    assert [process.wait(60) for process in processes] == [0, 0, 0, 0]
    assert counter.read_text() == "100"
    assert list(tmp_path.iterdir()) == [counter]


def test_a_lock_is_let_go_after_an_error(tmp_path):
    path = tmp_path / "lock.json"

    def hold() -> None:
        with lock(path, deadline_s=0.0, expires_s=60):
            assert str(os.getpid()) in path.read_text()
            raise KeyError

    with pytest.raises(KeyError):
        hold()
    assert list(tmp_path.iterdir()) == []


def test_what_is_written_once_stays(tmp_path):
    path = tmp_path / "x.json"
    assert write_new(path, lambda temporary: temporary.write_text("first"))
    assert not write_new(path, lambda temporary: temporary.write_text("second"))
    assert path.read_text() == "first"

    def half(temporary):
        temporary.write_text("ha")
        raise KeyError

    with pytest.raises(KeyError):
        write_new(tmp_path / "y.json", half)
    assert list(tmp_path.iterdir()) == [path]
