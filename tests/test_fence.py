"""The fencing token: one owner of a run folder, and no harm from the one before."""

import os
import subprocess
import time
from pathlib import Path

import pytest

from scalerl.fence import StaleAttempt, check_attempt, claim_attempt, current_attempt, heartbeat, release_attempt
from scalerl.files import read_json, write_json
from scalerl.paths import RunPaths


@pytest.fixture
def paths(tmp_path):
    return RunPaths(tmp_path)


def own(paths, **owner):
    write_json(paths.attempt, {"attempt": 3, "host": os.uname().nodename, "pid": 1, "started_ticks": -1, "job_id": None} | owner)


def test_attempts_count_up_and_older_ones_are_refused(paths):
    assert current_attempt(paths) == 0
    assert claim_attempt(paths) == 1
    check_attempt(paths, 1)
    release_attempt(paths, 1)
    assert claim_attempt(paths) == 2
    with pytest.raises(StaleAttempt, match=r"attempt 2 owns .* belongs to attempt 1"):
        check_attempt(paths, 1)


def test_a_live_supervisor_on_this_host_keeps_the_folder(paths):
    process = subprocess.Popen(["sleep", "60"])
    own(paths, pid=process.pid, started_ticks=1)
    assert claim_attempt(paths) == 4, "another process with the number of the old one"
    own(paths, pid=process.pid, started_ticks=int(Path(f"/proc/{process.pid}/stat").read_text().split()[21]))
    with pytest.raises(ValueError, match=f"being run by process {process.pid}"):
        claim_attempt(paths)
    process.kill()
    process.wait()
    assert claim_attempt(paths) == 4


def test_a_supervisor_on_another_host_is_alive_while_its_heart_beats(paths):
    own(paths, host="elsewhere", pid=1)
    heartbeat(paths)
    with pytest.raises(ValueError, match="on elsewhere"):
        claim_attempt(paths)
    os.utime(paths.attempt, (time.time() - 120, time.time() - 120))
    assert claim_attempt(paths) == 4


def test_two_claims_at_once_do_not_both_succeed(paths):
    paths.attempt.with_suffix(".lock").touch()
    with pytest.raises(ValueError, match="claiming"):
        claim_attempt(paths)
    paths.attempt.with_suffix(".lock").unlink()
    assert claim_attempt(paths) == 1
    assert read_json(paths.attempt)["pid"] == os.getpid()
