"""The fencing token: one owner of a run folder, and no harm from the one before."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scalerl.common.files import read_json, write_json
from scalerl.fence import (
    StaleAttempt,
    asked_to_stop,
    check_attempt,
    claim_attempt,
    current_attempt,
    heartbeat,
    release_attempt,
)

pytestmark = pytest.mark.usefixtures("run_folder")


def own(paths, **owner):
    write_json(
        paths.attempt,
        {
            "attempt": 3,
            "host": os.uname().nodename,
            "pid": 1,
            "started_ticks": -1,
            "job_id": None,
            "restarts": 0,
        }
        | owner,
    )


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
    paths.attempt_lock.write_text('{"host": "elsewhere", "pid": 1}')
    with pytest.raises(ValueError, match="claiming"):
        claim_attempt(paths)
    paths.attempt_lock.unlink()
    assert claim_attempt(paths) == 1
    assert read_json(paths.attempt)["pid"] == os.getpid()


def test_a_later_start_of_the_same_slurm_job_takes_over_from_an_earlier_one(paths):
    process = subprocess.Popen(["sleep", "60"])
    ticks = int(Path(f"/proc/{process.pid}/stat").read_text().split()[21])
    own(paths, pid=process.pid, started_ticks=ticks, job_id="7", restarts=1)
    for job_id, restarts in (
        (None, 0),
        ("8", 2),
        ("7", 1),
    ):  # not in a job; another job; a second supervisor in the same start
        with pytest.raises(ValueError, match="being run by"):
            claim_attempt(paths, job_id, restarts)
    assert claim_attempt(paths, "7", 2) == 4
    process.kill()
    process.wait()


def test_the_lock_of_a_supervisor_that_died_while_it_claimed_expires(paths):
    paths.attempt_lock.write_text('{"host": "elsewhere", "pid": 1}')
    os.utime(paths.attempt_lock, (time.time() - 120, time.time() - 120))
    assert claim_attempt(paths) == 1
    assert not paths.attempt_lock.exists()


def test_a_role_ends_itself_when_its_attempt_is_over(paths):
    claim_attempt(paths)
    program = f"""
import time
from pathlib import Path
from scalerl import fence
from scalerl.paths import RunPaths
fence.WATCH_S = 0.1
fence.end_when_stale(RunPaths(Path({str(paths.root)!r})), 1)
time.sleep(60)
"""
    roles = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    time.sleep(0.5)
    assert all(role.poll() is None for role in roles)
    release_attempt(paths, 1)
    assert [role.wait(20) for role in roles] == [0, 0]
    assert "attempt 1 has ended" in roles[0].stdout.read()


def test_a_role_that_fails_because_its_attempt_is_over_has_not_failed(paths):
    claim_attempt(paths)
    program = f"""
from scalerl.cli import main, runs
def fail(_):
    raise ConnectionError("the other rank is gone")
runs._run_role = fail
main(["role", "evaluator", "--index", "0", "--dir", {str(paths.root)!r}, "--attempt", "1"])
"""

    def run() -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)

    failed = run()
    assert (failed.returncode, failed.stdout) == (1, "")
    assert "ConnectionError: the other rank is gone" in failed.stderr
    release_attempt(paths, 1)
    claim_attempt(paths)
    ended = run()
    assert ended.returncode == 0
    assert "fenced off: attempt 2 owns" in ended.stdout
    assert "ConnectionError: the other rank is gone" in ended.stderr


def test_a_trainer_heeds_the_stop_file_of_its_own_attempt_only(paths):
    assert not asked_to_stop(paths, 2)
    write_json(paths.stop, {"attempt": 1, "reason": "an earlier supervisor that hung while it wrote"})
    assert not asked_to_stop(paths, 2)
    write_json(paths.stop, {"attempt": 2, "reason": "interrupted"})
    assert asked_to_stop(paths, 2)
