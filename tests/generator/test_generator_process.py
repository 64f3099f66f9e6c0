"""A generator as a process of its own, against manifests the test publishes."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

pytestmark = pytest.mark.engine

START = "from pathlib import Path; import sys; from scalerl.generator import run_generator; "
START += "run_generator(Path(sys.argv[1]), index=int(sys.argv[2]), attempt=1)"


@pytest.fixture
def start_generator():
    started = []

    def start(trainer, index: int) -> subprocess.Popen:
        log = (trainer.paths.logs / f"generator-{index}-{len(started)}.log").open("w")
        command = [sys.executable, "-c", START, str(trainer.paths.root), str(index)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        started.append(subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def descendants(process: subprocess.Popen) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def assert_gone(processes: list[psutil.Process], deadline_s: float = 15) -> None:
    _, alive = psutil.wait_procs(processes, timeout=deadline_s)
    assert not alive


def end(process: subprocess.Popen) -> None:
    children = descendants(process)
    assert children, "the verifier works in processes of its own"
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    assert_gone(children)


def test_one_of_two_generators(make_run, start_generator):
    """Number 1 does the odd groups, and the even ones are nobody's; the end-to-end tests run both."""
    trainer = make_run(**{"generator.num": 2, "length.length_control": "none"})
    process = start_generator(trainer, 1)
    first = trainer.publish(0, range(0, 12))
    trainer.wait_for(range(1, 12, 2))
    for group in range(1, 12, 2):
        rollouts = trainer.spool.read(group)
        assert {rollout.writer for rollout in rollouts} == {"generator-1"}
        assert {rollout.prompt_id for rollout in rollouts} == {dict(first.admitted)[group]}
        assert len(rollouts) == 4
        assert {version for rollout in rollouts for version in rollout.policy_versions} == {0}
        assert {rollout.attempt for rollout in rollouts} == {1}
        assert all(rollout.reward == (1.0 if rollout.correct else -1.0) for rollout in rollouts)

    # a shard that is no good is set aside by its reader, and made again without anybody asking
    trainer.spool.quarantine(trainer.spool.path(7), "made up by the test")
    trainer.wait_for(range(7, 8), deadline_s=20)
    assert {rollout.writer for rollout in trainer.spool.read(7)} == {"generator-1"}

    # it dies in the middle of a new policy's groups and comes back: the rest is done, and nothing twice
    trainer.publish(1, range(12, 132))
    trainer.wait_for(range(13, 16, 2))
    children = descendants(process)
    process.kill()
    process.wait()
    assert_gone(children)
    done = trainer.spool.present(0, 132)
    assert len(done) < 66, "killed in the middle"
    before = {group: trainer.spool.path(group).stat().st_mtime_ns for group in done}
    process = start_generator(trainer, 1)
    trainer.wait_for(range(1, 132, 2))
    time.sleep(2.5)  # one more look at the spool: nothing may be made again
    assert {group: trainer.spool.path(group).stat().st_mtime_ns for group in done} == before
    assert trainer.spool.present(0, 10_000) == set(range(1, 132, 2))
    for group in range(13, 132, 2):
        rollouts = trainer.spool.read(group)
        assert [rollout.completion for rollout in rollouts] == [0, 1, 2, 3]
        assert {version for rollout in rollouts for version in rollout.policy_versions} == {1}

    end(process)
    assert not [path for path in trainer.paths.weights.iterdir() if path.name.startswith(".")]
