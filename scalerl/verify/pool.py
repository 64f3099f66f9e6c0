"""Grades answers and programs in processes of their own: a hostile one costs its time limit and nothing
else."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import asdict
from itertools import count
from multiprocessing.connection import Connection
from types import TracebackType

from scalerl.verify.answers import NO_ANSWER, NO_CODE, Answer, Verdict, final_text, find_answer, quick_grade
from scalerl.verify.code import Program, find_program
from scalerl.verify.sandbox import WEAK, Limits, Sandbox

START_DEADLINE_S = 120.0
STOP_DEADLINE_S = 10.0


class VerifierPool:
    """Verdicts as futures. Most are there at once; the rest come from `num_workers` grading processes
    (server.py).

    The server is started with exec, not forked from this process, shares none of its memory and ends with it,
    even where this process is killed with SIGKILL. A future holds a RuntimeError only if somebody killed the
    server itself, the pool was closed first, or the sandbox of programs failed. Use it as a context manager,
    or call `close`.
    """

    def __init__(
        self, *, num_workers: int = 1, timeout_s: float = 0.5, think_end: str = "", code: Limits | None = None
    ) -> None:
        """Start the processes, which takes about a second.

        Args:
            num_workers: grading processes.
            timeout_s: CPU time allowed for one answer (and four times that of wall time); an answer that
                needs more is incorrect and its process is replaced.
            think_end: text that ends the thinking part, such as "</think>"; empty: all of a response is
                graded.
            code: limits of the programs to grade; None: only math.

        Raises:
            ValueError: no worker, or no time, or no sandbox as `code` wants it.
            RuntimeError: the processes did not start.
        """
        if num_workers < 1 or timeout_s <= 0:
            raise ValueError(
                f"a verifier of {num_workers} workers and {timeout_s} s an answer: give at least 1 and more than 0"
            )
        if code is not None and Sandbox(code).bwrap is None:
            print(WEAK, file=sys.stderr, flush=True)
        self._grades_code = code is not None
        self.counts: Counter[str] = Counter()
        """Verdicts so far, by reason."""
        self._think_end = think_end
        self._lock = threading.Lock()
        self._send_lock = threading.Lock()
        self._numbers = count()
        self._pending: dict[int, Future[Verdict]] = {}
        self._end: str | None = None
        self._process, self._connection = _start_server(num_workers, timeout_s, code)
        self._reader = threading.Thread(target=self._read_verdicts, name="verifier", daemon=True)
        self._reader.start()

    def submit(self, response: str, reference: str, task: str = "math") -> Future[Verdict]:
        """Grade a response against the answer of its problem, without blocking.

        Args:
            reference: math: the accepted forms, one per line; code: the unit tests (see code.py).
            task: "math", or "code" where the pool has limits for it.

        Raises:
            RuntimeError: the pool is closed, or somebody killed its server.
        """
        assert task == "math" or (task == "code" and self._grades_code), f"this pool does not grade {task}"
        answer, verdict = _read_response(final_text(response, self._think_end), reference, task)
        future: Future[Verdict] = Future()
        future.set_running_or_notify_cancel()
        with self._lock:
            if self._end is not None:
                raise RuntimeError(self._end)
            if verdict is None:
                number = next(self._numbers)
                self._pending[number] = future
        if verdict is None:
            self._send((number, answer, reference))
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

    def _send(self, task: object) -> None:
        # A lock of its own: the reader must go on while a full socket makes this wait for the server to read.
        with (
            self._send_lock,
            suppress(BrokenPipeError, ConnectionResetError),
        ):  # killed: the reader fails the futures
            self._connection.send(task)

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
                self._end = (
                    self._end
                    or f"the verifier's server (pid {self._process.pid}) was killed; start a new pool"
                )
                unfinished, self._pending = self._pending, {}
            for future in unfinished.values():
                future.set_exception(RuntimeError(self._end))


def _read_response(
    text: str | None, reference: str, task: str
) -> tuple[Answer | Program | None, Verdict | None]:
    """What is to be graded; the verdict where that is known at once."""
    if text is None:
        return None, NO_ANSWER
    if task == "code":
        program = find_program(text)
        return program, NO_CODE if program is None else None
    answer = find_answer(text)
    return answer, NO_ANSWER if answer is None else quick_grade(answer, reference)


def _start_server(
    num_workers: int, timeout_s: float, code: Limits | None
) -> tuple[subprocess.Popen, Connection]:
    ours, theirs = socket.socketpair()
    with theirs:
        command = [
            sys.executable,
            "-m",
            "scalerl.verify.server",
            str(theirs.fileno()),
            str(num_workers),
            str(timeout_s),
        ]
        command.append(json.dumps(None if code is None else asdict(code)))
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
