"""Grades responses in processes of their own: a hostile one costs its time limit and nothing else."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import asdict
from itertools import count
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

from scalerl.sandbox.sandbox import WEAK, Limits, Sandbox
from scalerl.tasks.answers import final_text
from scalerl.tasks.registry import TASKS, find_task
from scalerl.tasks.task import NO_ANSWER, Verdict

START_DEADLINE_S = 120.0
STOP_DEADLINE_S = 10.0


def check_tasks(tasks: Iterable[str], limits: Limits) -> Sandbox | None:
    """Check that this machine can grade these tasks; return the sandbox, if one of them runs programs.

    Raises:
        ValueError: there is no such task, something it needs is not installed, or there is no sandbox as
            `limits` wants it.
    """
    found = [find_task(name) for name in tasks]
    for task in found:
        task.check_installed()
    return Sandbox(limits) if any(task.runs_programs for task in found) else None


class VerifierPool:
    """Verdicts as futures. Most are there at once; the rest come from grading processes (server.py).

    The server is started with exec, not forked from this process, shares none of its memory and ends with it,
    even where this process is killed with SIGKILL. A future holds a RuntimeError only if somebody killed the
    server itself, the pool was closed first, or the sandbox of programs failed. Use it as a context manager,
    or call `close`.
    """

    def __init__(
        self,
        *,
        tasks: Iterable[str] = ("math",),
        limits: Limits | None = None,
        num_workers: int = 1,
        timeout_s: float = 0.5,
        think_end: str = "",
    ) -> None:
        """Start the processes, which takes about a second.

        Args:
            tasks: names of the tasks it grades.
            limits: what a program may use, where a task runs programs; None: the defaults.
            num_workers: grading processes.
            timeout_s: CPU time allowed for one answer (and WALL_PER_CPU times that of wall time); an answer
                that needs more is incorrect and its process is replaced.
            think_end: text that ends the thinking part, such as "</think>"; empty: all of a response is
                graded.

        Raises:
            ValueError: no worker, or no time, or this machine cannot grade one of the tasks.
            RuntimeError: the processes did not start.
        """
        if num_workers < 1 or timeout_s <= 0:
            given = f"{num_workers} workers and {timeout_s} s an answer"
            raise ValueError(f"a verifier of {given}: give at least 1 and more than 0")
        limits = limits or Limits()
        self._tasks = sorted(set(tasks))
        sandbox = check_tasks(self._tasks, limits)
        if sandbox is not None and sandbox.bwrap is None:
            print(WEAK, file=sys.stderr, flush=True)
        self.counts: Counter[str] = Counter()
        """The number of verdicts so far, by reason."""
        self._think_end = think_end
        self._lock = threading.Lock()
        self._send_lock = threading.Lock()
        self._numbers = count()
        self._pending: dict[int, Future[Verdict]] = {}
        self._end: str | None = None
        settings = {"num_workers": num_workers, "timeout_s": timeout_s, "limits": asdict(limits)}
        self._process, self._connection = _start_server({"tasks": self._tasks, **settings})
        self._reader = threading.Thread(target=self._read_verdicts, name="verifier", daemon=True)
        self._reader.start()

    def submit(self, response: str, reference: str, task: str = "math") -> Future[Verdict]:
        """Grade a response against the reference of its problem, without blocking.

        Raises:
            RuntimeError: the pool is closed, or somebody killed its server.
        """
        assert task in self._tasks, f"this pool grades {self._tasks}, it does not grade {task}"
        given, verdict = _read_response(final_text(response, self._think_end), reference, task)
        future: Future[Verdict] = Future()
        future.set_running_or_notify_cancel()
        with self._lock:
            if self._end is not None:
                raise RuntimeError(self._end)
            if verdict is None:
                number = next(self._numbers)
                self._pending[number] = future
        if verdict is None:
            self._send((number, task, given, reference))
        else:
            self._resolve(future, verdict)
        return future

    def close(self) -> None:
        """Stop the processes; unfinished futures get a RuntimeError. Closing twice does nothing."""
        with self._lock:
            closing = self._end is None
            self._end = self._end or "the verifier pool is closed"
        if closing:
            self._send(None)
        try:
            self._process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        self._connection.close()

    def __enter__(self) -> "VerifierPool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _send(self, message: object) -> None:
        # A lock of its own: the reader must go on while a full socket makes this wait for the server to read.
        # Where the server was killed, the reader fails the futures.
        with self._send_lock, suppress(BrokenPipeError, ConnectionResetError):
            self._connection.send(message)

    def _resolve(self, future: Future[Verdict], verdict: Verdict) -> None:
        with self._lock:
            self.counts[verdict.reason] += 1
        future.set_result(verdict)

    def _read_verdicts(self) -> None:
        try:
            while True:
                number, verdict = self._connection.recv()
                with self._lock:
                    future = self._pending.pop(number)
                if isinstance(verdict, Verdict):
                    self._resolve(future, verdict)
                else:
                    future.set_exception(verdict)
        except (EOFError, ConnectionResetError):
            with self._lock:
                killed = f"the verifier's server (pid {self._process.pid}) was killed; start a new pool"
                self._end = self._end or killed
                unfinished, self._pending = self._pending, {}
            for future in unfinished.values():
                future.set_exception(RuntimeError(self._end))


def _read_response(text: str | None, reference: str, name: str) -> tuple[Any, Verdict | None]:
    """Return what is to be graded, and the verdict where that is known at once."""
    if text is None:
        return None, NO_ANSWER
    task = TASKS[name]
    given = task.read(text)
    return given, task.nothing_read if given is None else task.compare(given, reference)


def _start_server(options: dict[str, Any]) -> tuple[subprocess.Popen, Connection]:
    ours, theirs = socket.socketpair()
    with theirs:
        module = "scalerl.verify.server"
        command = [sys.executable, "-m", module, str(theirs.fileno()), json.dumps(options)]
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "OMP_NUM_THREADS": "1",
        }
        process = subprocess.Popen(
            command,
            env=environment,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the caller, which still wants its verdicts
        )
    connection = Connection(ours.detach())
    try:
        if not connection.poll(START_DEADLINE_S):
            raise RuntimeError(
                f"waited {START_DEADLINE_S:.0f} s for the verifier's server to start ({' '.join(command)})"
            )
        connection.recv()
    except (EOFError, RuntimeError) as error:
        process.kill()
        exit_code = process.wait()
        raise RuntimeError(
            f"the verifier's server did not start (exit code {exit_code}); its output is above"
        ) from error
    return process, connection
