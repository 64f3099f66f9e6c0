"""The grading processes of a VerifierPool; pool.py starts it: `python -m scalerl.verify.server SOCKET
NUM_WORKERS TIMEOUT_S CODE`.
 This process only waits, so it always notices a deadline, a dead worker or the end of its caller. The workers
compute: they are forked from here, where the library is loaded and warm already, so that replacing one takes
milliseconds.
"""

import gc
import json
import logging
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections import deque
from contextlib import suppress
from multiprocessing.connection import Connection, wait

from scalerl.os_process import die_with_parent
from scalerl.verify.answers import Answer, Verdict
from scalerl.verify.code import Program, grade_code
from scalerl.verify.math import equal_by_algebra
from scalerl.verify.sandbox import WALL_PER_CPU, Limits, Sandbox

MEMORY_BYTES = 2 << 30
"""Address space of a worker."""
ANSWERS_PER_WORKER = 1000
"""A worker is then replaced, before SymPy's caches matter."""
CALLER_CHECK_S = 1.0

Task = tuple[int, Answer | Program, str]
"""Number of the task, the answer or program, the reference."""


class Worker:
    """A process that grades one answer or program at a time."""

    def __init__(self, timeout_s: float, sandbox: Sandbox | None) -> None:
        self.timeout_s, self.sandbox = timeout_s, sandbox
        self.connection, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("fork")
        self.process = context.Process(
            target=work, args=(theirs, os.getpid(), timeout_s, sandbox), daemon=True
        )
        self.process.start()
        theirs.close()
        self.task_number: int | None = None
        self.deadline_s = float("inf")
        self.num_graded = 0

    def assign(self, task: Task) -> None:
        """Have an idle worker grade. The sandbox keeps the time of a program, test by test."""
        number, answer, reference = task
        limit_s = float("inf") if isinstance(answer, Program) else WALL_PER_CPU * self.timeout_s
        self.task_number, self.deadline_s = number, time.monotonic() + limit_s
        with suppress(BrokenPipeError, ConnectionResetError):  # it has died; the next poll_verdict notices
            self.connection.send((answer, reference))

    def poll_verdict(self, readable: bool) -> Verdict | RuntimeError | None:
        """What became of the answer by now; None while the worker is idle or computing within its time."""
        if readable:
            try:
                return self.connection.recv()
            except (EOFError, ConnectionResetError):
                self.process.join()
                return Verdict(False, "timeout" if self.process.exitcode == -signal.SIGPROF else "crashed")
        return Verdict(False, "timeout") if time.monotonic() >= self.deadline_s else None

    def stop(self) -> None:
        """Kill the process, whatever it is doing."""
        self.process.kill()
        self.process.join()
        self.connection.close()


def work(connection: Connection, server_pid: int, timeout_s: float, sandbox: Sandbox | None) -> None:
    """The life of a worker; it dies with the server, even where that is killed, and whatever it computes.

    An answer is limited in CPU time, by the kernel: a busy machine must not turn right answers into wrong
    ones.
    """
    die_with_parent(server_pid)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while True:
        answer, reference = connection.recv()
        if isinstance(answer, Program):
            assert sandbox is not None, "the pool was started without limits for code"
            connection.send(_grade_code(answer, reference, sandbox))
        else:
            connection.send(_grade_math(answer, reference, timeout_s))


def _grade_code(program: Program, reference: str, sandbox: Sandbox) -> Verdict | RuntimeError:
    """A sandbox that fails says nothing about the program: that is the caller's error, not a verdict."""
    try:
        return grade_code(program, reference, sandbox)
    except (RuntimeError, OSError) as error:
        return RuntimeError(f"no verdict on a program: {error}")


def _grade_math(answer: Answer, reference: str, timeout_s: float) -> Verdict:
    signal.setitimer(signal.ITIMER_PROF, timeout_s)
    try:
        equal = equal_by_algebra(answer, reference)
        verdict = Verdict(equal, "equal" if equal else "different")
    except (
        Exception
    ):  # whatever hostile input makes SymPy raise (MemoryError, RecursionError, ...), it is not equal
        verdict = Verdict(False, "crashed")
    signal.setitimer(signal.ITIMER_PROF, 0)
    return verdict


def serve(caller: Connection, num_workers: int, timeout_s: float, sandbox: Sandbox | None) -> None:
    """Grade the caller's tasks and send (number, verdict) for each, as soon as it is there, until it sends
    None or is gone."""
    parent_pid = os.getppid()
    waiting: deque[Task] = deque()
    workers = [Worker(timeout_s, sandbox) for _ in range(num_workers)]
    caller.send("ready")
    try:
        while os.getppid() == parent_pid:
            nearest_s = min(worker.deadline_s for worker in workers) - time.monotonic()
            ready = wait(
                [caller, *(worker.connection for worker in workers)], max(0.0, min(nearest_s, CALLER_CHECK_S))
            )
            while caller.poll():
                task = caller.recv()
                if task is None:
                    return
                waiting.append(task)
            for index, worker in enumerate(workers):
                verdict = worker.poll_verdict(worker.connection in ready)
                if verdict is not None:
                    workers[index] = finish(worker, verdict, caller)
            for worker in workers:
                if worker.task_number is None and waiting:
                    worker.assign(waiting.popleft())
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the caller is gone
    finally:
        for worker in workers:
            worker.stop()


def finish(worker: Worker, verdict: Verdict | RuntimeError, caller: Connection) -> Worker:
    """Report a verdict; returns the worker, idle again, or a new one in its place."""
    if worker.task_number is not None:
        caller.send((worker.task_number, verdict))
    worker.num_graded += 1
    cut_short = isinstance(verdict, Verdict) and verdict.reason in ("timeout", "crashed")
    if cut_short or worker.num_graded >= ANSWERS_PER_WORKER:
        worker.stop()
        return Worker(worker.timeout_s, worker.sandbox)
    worker.task_number, worker.deadline_s = None, float("inf")
    return worker


def main() -> None:
    """Serve the caller on the socket it passed on."""
    socket_descriptor, num_workers, timeout_s, code = sys.argv[1:]
    limits = json.loads(code)
    sandbox = None if limits is None else Sandbox(Limits(**limits))
    logging.disable(logging.CRITICAL)
    equal_by_algebra(
        Answer("\\frac{1}{2}", boxed=True), "0.5"
    )  # builds the parsers that every worker inherits
    gc.freeze()
    serve(Connection(int(socket_descriptor)), int(num_workers), float(timeout_s), sandbox)


if __name__ == "__main__":
    main()
