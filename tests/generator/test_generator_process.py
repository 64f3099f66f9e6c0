"""A generator as a process of its own, against manifests the test publishes."""

import os
import signal
import subprocess
import sys

import psutil
import pytest

pytestmark = pytest.mark.engine

START = "from pathlib import Path; import sys; from scalerl.generator import run_generator; "
START += "run_generator(Path(sys.argv[1]), index=int(sys.argv[2]), attempt=1)"


def descendants(process: subprocess.Popen) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def test_one_of_two_generators_until_sigterm(make_run):
    """Number 1 does the odd groups, and the even ones are nobody's.

    The end-to-end tests run both, and kill one: the groups it had begun are made again, and none twice.
    """
    trainer = make_run(**{"generator.num": 2, "length.length_control": "none"})
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-c", START, str(trainer.paths.root), "1"]
    log = (trainer.paths.logs / "generator-1.log").open("w")
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        first = trainer.publish(0, range(0, 12))
        trainer.wait_for(range(1, 12, 2))
        for group in range(1, 12, 2):
            rollouts = trainer.spool.read(group)
            assert [rollout.completion for rollout in rollouts] == [0, 1, 2, 3]
            assert {rollout.writer for rollout in rollouts} == {"generator-1"}
            assert {rollout.prompt_id for rollout in rollouts} == {dict(first.admitted)[group]}
            assert {version for rollout in rollouts for version in rollout.policy_versions} == {0}
            assert {rollout.attempt for rollout in rollouts} == {1}
            assert all(rollout.reward == (1.0 if rollout.correct else -1.0) for rollout in rollouts)

        # a shard that is no good is set aside by its reader, and made again without anybody asking
        kept = {group: trainer.spool.path(group).stat().st_mtime_ns for group in (1, 3, 5, 9, 11)}
        trainer.spool.quarantine(trainer.spool.path(7), "made up by the test")
        trainer.wait_for(range(7, 8), deadline_s=20)
        assert {rollout.writer for rollout in trainer.spool.read(7)} == {"generator-1"}
        assert kept == {group: trainer.spool.path(group).stat().st_mtime_ns for group in kept}

        trainer.publish(1, range(12, 24))
        trainer.wait_for(range(13, 24, 2))
        assert trainer.spool.present(0, 10_000) == set(range(1, 24, 2))
        versions = [rollout.policy_versions for group in (13, 23) for rollout in trainer.spool.read(group)]
        assert {version for each in versions for version in each} == {1}

        children = descendants(process)
        assert children, "the verifier works in processes of its own"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        _, alive = psutil.wait_procs(children, timeout=15)
        assert not alive
    finally:
        process.kill()
        process.wait()
    assert not [path for path in trainer.paths.weights.iterdir() if path.name.startswith(".")]
