"""A real Slurm for the tests of this folder: cluster.sh, started once a session, with an empty queue before
every test."""

import fcntl
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from left_out import leave_out

from scalerl.cluster import slurm

HERE = Path(__file__).parent
PROGRAMS = ("munged", "mariadbd", "slurmdbd", "slurmctld", "slurmd", "sbatch", "sacct")
INSTALL = "apt-get install --no-install-recommends slurm-wlm munge slurmdbd mariadb-server"


class Cluster:
    """Four nodes, node1 .. node4, of 8 CPUs, 16 GiB and 4 GPUs of type `fake`; partitions low (default),
    grace and high."""

    nodes = ("node1", "node2", "node3", "node4")

    def control(self, *arguments: str) -> str:
        """The output of cluster.sh."""
        done = subprocess.run([HERE / "cluster.sh", *arguments], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"cluster.sh {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def crash(self, node: str) -> None:
        """The node loses power: its daemon and all processes of its jobs are gone."""
        self.control("crash", node)

    def crash_daemon(self, node: str) -> None:
        """Slurm loses the node, whose jobs go on."""
        self.control("crash-daemon", node)

    def revive(self) -> None:
        """Bring back what is down."""
        self.control("revive")

    def submit(self, command: str, *options: str) -> str:
        """The job id of a shell command as a batch job; its output is lost unless the options say where
        to."""
        return slurm.call("sbatch", "--parsable", "--output=/dev/null", *options, f"--wrap={command}").strip()

    def state(self, job_id: str) -> str:
        """Such as PENDING, RUNNING or COMPLETED."""
        return slurm.describe("job", job_id)["JobState"]

    def wait_for(self, condition: Callable[[], bool], what: str, deadline_s: float = 60) -> None:
        end_s, silent = time.monotonic() + deadline_s, ""

        def holds() -> bool:
            nonlocal silent
            try:
                return condition()
            except slurm.SlurmError as error:  # a busy slurmctld answers the next time
                silent = f"; {error}"
                return False

        while not holds():
            assert time.monotonic() < end_s, (
                f"waited {deadline_s:.0f} s for {what}; the queue: {slurm.call('squeue')}{silent}"
            )
            time.sleep(0.2)

    def wait_state(self, job_id: str, *states: str, deadline_s: float = 60) -> str:
        """Wait until the job is in one of `states`; which one."""
        self.wait_for(
            lambda: self.state(job_id) in states, f"job {job_id} to be {' or '.join(states)}", deadline_s
        )
        return self.state(job_id)

    def wait_idle(self, deadline_s: float = 60) -> None:
        """Wait until no job is queued and every node is idle."""

        def idle() -> bool:
            states = slurm.call("sinfo", "--noheader", "--Node", "--partition=low", "--format=%T").split()
            return not slurm.call("squeue", "--noheader").strip() and states == ["idle"] * len(self.nodes)

        self.wait_for(idle, "an idle cluster", deadline_s)

    def empty(self) -> None:
        """Revive what is down and end every job."""
        self.revive()
        if jobs := slurm.call("squeue", "--noheader", "--format=%A").split():
            # cancelled processes have KillWait to end; these need no time for goodbyes. A job that just ended
            # is no failure.
            subprocess.run(["scancel", "--full", "--signal=KILL", *jobs], capture_output=True, timeout=60)
            subprocess.run(["scancel", *jobs], capture_output=True, timeout=60)
        self.wait_idle()


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A running cluster; $SLURM_CONF and $SCALERL_SITE point to it for the session."""
    if missing := [program for program in PROGRAMS if shutil.which(program) is None]:
        leave_out(f"Slurm is not installed: there is no {', '.join(missing)} ({INSTALL})", "on a real Slurm")
    if os.geteuid() != 0:
        leave_out("Slurm's daemons need root", "on a real Slurm")
    root = Path(os.environ.get("SCALERL_SLURM_ROOT", "/tmp/scalerl-slurm"))
    root.parent.mkdir(parents=True, exist_ok=True)
    with root.with_name(f"{root.name}.lock").open("w") as lock, pytest.MonkeyPatch.context() as patch:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            advice = "set SCALERL_SLURM_ROOT and SCALERL_SLURM_PORT"
            pytest.fail(f"another test session uses the cluster under {root}: {advice}")
        for name in [name for name in os.environ if name.startswith(("SLURM_", "SBATCH_", "SRUN_"))]:
            patch.delenv(name)
        patch.setenv("SLURM_CONF", str(root / "etc" / "slurm.conf"))
        patch.setenv("SCALERL_SITE", str(HERE / "site.toml"))
        running = Cluster()
        try:
            running.control("start")
            yield running
        finally:
            running.control("stop")


@pytest.fixture(autouse=True)
def _empty_queue(cluster: Cluster) -> None:
    cluster.empty()
