"""One process of a run: its command, its log, its process group and its device time."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from scalerl.metrics import ComputeLedger, Interval, Role

PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when process `parent`, which started it, dies for whatever reason."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above
        os._exit(1)


def free_port() -> int:
    """A TCP port nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def role_environment(gpus: list[str]) -> dict[str, str]:
    """The environment of every role: no network unless the user set otherwise, one thread, its own GPUs."""
    defaults = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "TOKENIZERS_PARALLELISM": "false"}
    environment = defaults | dict(os.environ) | {"PYTHONUNBUFFERED": "1"}
    if gpus:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    return environment


@dataclass(kw_only=True)
class RoleProcess:
    """A process of the run, started in a process group of its own so that all of it can be ended."""

    name: str
    """Of the process and its log: trainer-0, generator-3, evaluator."""
    role: Role
    arguments: list[str]
    """Of `scalerl role`, beside --dir, --attempt and --parent."""
    gpus: list[str]
    log: Path
    num_deaths: int = 0
    environment: dict[str, str] = field(default_factory=dict)
    _process: subprocess.Popen | None = None
    _interval: Interval | None = None

    def start(self, run_dir: Path, attempt: int, ledger: ComputeLedger) -> None:
        """Start the process; its output is appended to its log."""
        assert self._process is None
        self.log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "scalerl", "role", *self.arguments]
        command += ["--dir", str(run_dir), "--attempt", str(attempt), "--parent", str(os.getpid())]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=role_environment(self.gpus) | self.environment,
                start_new_session=True,
            )
        self._interval = ledger.open(self.role, devices=max(1, len(self.gpus)))

    @property
    def running(self) -> bool:
        return self._process is not None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def poll(self) -> int | None:
        """The exit code if the process has ended since the last call (its whole group is ended then), else None."""
        if self._process is None or self._process.poll() is None:
            return None
        code = self._process.returncode
        self._end_group()
        return code

    def signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def stop(self, deadline_s: float) -> None:
        """SIGTERM, then after `deadline_s` seconds SIGKILL, for the process and all its children."""
        if self._process is None:
            return
        self.signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=deadline_s)
        self._end_group()

    def _end_group(self) -> None:
        assert self._process is not None and self._interval is not None
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._interval.end_s = time.time()
        self._process = None

    def last_error(self) -> str:
        """The last line of the log that names an error, else its last line."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        lines = [line.strip() for line in lines[-400:] if line.strip()]
        errors = [line for line in lines if "Error" in line or line.startswith("error")]
        return (errors or lines or ["its log is empty"])[-1]
