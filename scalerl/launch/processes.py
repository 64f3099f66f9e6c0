"""One process of a run: its command, its log, its process group and its device time."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from scalerl.metrics.ledger import ComputeLedger, Interval, Role
from scalerl.paths import RunPaths

MAX_ERROR_CHARACTERS = 150
"""Length at which the error of a role is cut; its log has the rest."""
PORTS = range(20_000, 30_000)
"""Below those that Linux gives to connections: the trainer listens seconds after the choice, and none must
have taken the port then."""


def free_port() -> int:
    """Return a TCP port of this host that nobody listens on.

    Raises:
        RuntimeError: no port of PORTS is free.
    """
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket() as sock, suppress(OSError):
            sock.bind(("", port))
            return port
    raise RuntimeError(
        f"no TCP port of {PORTS.start} to {PORTS.stop - 1} is free on this host, for the trainer's rendezvous"
    )


@dataclass(kw_only=True)
class RoleProcess:
    """A process of the run, started in a process group of its own so that all of it can be ended."""

    name: str
    """Name of the process and its log: trainer-0, generator-3, evaluator-0."""
    arguments: list[str]
    """Arguments of `scalerl role` beside --dir, --attempt and --parent; the first is the role."""
    num_devices: int = 1
    gpus: int = 0
    """GPUs that each of its tasks sees; 0: it computes on CPUs."""
    prefix: list[str] = field(default_factory=list)
    """Words before the command, such as those of srun."""
    environment: dict[str, str] = field(default_factory=dict)
    """Environment beside `base_environment`."""
    num_deaths: int = 0
    log: Path = Path()
    """Where its output goes, once it is started."""
    _process: subprocess.Popen | None = None
    _interval: Interval | None = None

    @property
    def role(self) -> Role:
        """Return what the process does."""
        return cast(Role, self.arguments[0])

    def base_environment(self) -> dict[str, str]:
        """Return the environment of every role: no network unless the user set otherwise, one thread."""
        defaults = {
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        return defaults | dict(os.environ) | {"PYTHONUNBUFFERED": "1"}

    def words_before(self, attempt: int) -> list[str]:
        """Return the words before the command in this attempt."""
        return self.prefix

    def start(self, paths: RunPaths, attempt: int, ledger: ComputeLedger) -> None:
        """Start the process; its output is appended to its log."""
        assert self._process is None
        self.log = paths.log(attempt, self.name)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        command = [*self.words_before(attempt), sys.executable, "-m", "scalerl", "role", *self.arguments]
        command += ["--dir", str(paths.root), "--attempt", str(attempt), "--gpus", str(self.gpus)]
        # a step's parent is srun's daemon, on another node perhaps; Slurm ends it
        if not self.prefix:
            command += ["--parent", str(os.getpid())]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.base_environment() | self.environment,
                start_new_session=True,
            )
        # its device time counts from here, the start of the engine included
        self._interval = ledger.open(self.role, devices=self.num_devices)

    @property
    def running(self) -> bool:
        """Say whether it was started, and its end was not seen yet."""
        return self._process is not None

    @property
    def pid(self) -> int | None:
        """Return its process id; None while it does not run."""
        return self._process.pid if self._process else None

    def poll(self) -> int | None:
        """Return the exit code if the process has ended since the last call, else None.

        Its whole group is ended then.
        """
        if self._process is None or self._process.poll() is None:
            return None
        code = self._process.returncode
        self._end()
        return code

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process, if it runs, and not to its children."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def stop(self, deadline_s: float) -> None:
        """End the process and all its children: by SIGTERM, and after `deadline_s` seconds by SIGKILL."""
        if self._process is None:
            return
        self.signal(signal.SIGTERM)
        try:
            self._process.wait(timeout=deadline_s)
        except subprocess.TimeoutExpired:
            self.kill()
        self._end()

    def kill(self) -> None:
        """Send SIGKILL to all of it, at once."""
        assert self._process is not None
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def abandon(self) -> None:
        """Kill what runs on this machine and leave the rest alone.

        The rest are steps of a job that Slurm may have given to another start by now.
        """
        if self._process is not None:
            RoleProcess.kill(self)
            self._end()

    def _end(self) -> None:
        assert self._process is not None and self._interval is not None
        # children it may have left; the group is there as long as one of them is
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._interval.end_s = time.time()
        self._process = None

    def last_error(self) -> str:
        """Return the last line of the log that names an error, else its last line."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        lines = [line.strip() for line in lines[-400:] if line.strip()]
        errors = [line for line in lines if "Error" in line or line.startswith("error")]
        return (errors or lines or ["its log is empty"])[-1]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """All processes of a run, not started yet."""

    trainers: list[RoleProcess]
    """Processes that make up the ranks; they are started and ended together, and fewer than the ranks under
    Slurm."""
    generators: list[RoleProcess]
    evaluators: list[RoleProcess]
    trainer_address: str
    """Host of rank 0."""

    @property
    def processes(self) -> list[RoleProcess]:
        """Return all of them."""
        return [*self.trainers, *self.generators, *self.evaluators]


class Deaths:
    """The roles of one attempt that died, and of what: told in full once, and counted from then on."""

    def __init__(self) -> None:
        """Begin with none."""
        self._errors: Counter[tuple[str, str]] = Counter()

    def count(self, process: RoleProcess, code: int | None) -> tuple[str, str]:
        """Count a process that ended too early; code: its exit code.

        Returns:
            (what it died of and where its log is, in one line; the same for the user, to whom an error that a
            process of this role has died of before is not told again)
        """
        process.num_deaths += 1
        error = process.last_error()
        error = f"{error[:MAX_ERROR_CHARACTERS]}..." if len(error) > MAX_ERROR_CHARACTERS else error
        self._errors[process.role, error] += 1
        times = self._errors[process.role, error]
        cause = f"{process.name} died with exit code {code} ({error}); log: {process.log}"
        again = f"{process.name} died of the same error again ({times} times); log: {process.log}"
        return cause, (cause if times == 1 else again)
