"""The grading processes of a VerifierPool, which starts it: `python -m scalerl.verify.server SOCKET OPTIONS`.

This process only waits, so it always notices a deadline, a dead worker or the end of its caller. The workers
compute: they are forked from here, where the libraries are loaded and warm already, so that replacing one
takes milliseconds.
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
from typing import Any

from scalerl.common.os_process import die_with_parent
from scalerl.sandbox.sandbox import WALL_PER_CPU, Limits, Sandbox
from scalerl.tasks.registry import find_task
from scalerl.tasks.task import Task, Verdict

MEMORY_BYTES = 2 << 30
"""The address space of a worker."""
ANSWERS_PER_WORKER = 1000
"""Answers after which a worker is replaced, before SymPy's caches matter."""
CALLER_CHECK_S = 1.0

Assignment = tuple[int, str, Any, str]
"""Its number, the name of the task, what was read from the response, the reference."""


class Worker:
    """A process that grades one response at a time."""

    def __init__(self, timeout_s: float, sandbox: Sandbox | None) -> None:
        self.timeout_s, self.sandbox = timeout_s, sandbox
        self.connection, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("fork")
        self.process = context.Process(
            target=work, args=(theirs, os.getpid(), timeout_s, sandbox), daemon=True
        )
        self.process.start()
        theirs.close()
        self.number: int | None = None
        """The assignment it computes on; None: it is idle."""
        self.deadline_s = float("inf")
        self.num_graded = 0

    def assign(self, assignment: Assignment) -> None:
        """Have an idle worker grade."""
        number, name, given, reference = assignment
        task = find_task(name)
        # The sandbox keeps the time of a program itself, test by test.
        limit_s = float("inf") if task.runs_programs else WALL_PER_CPU * self.timeout_s + task.load_s
        self.number, self.deadline_s = number, time.monotonic() + limit_s
        with suppress(BrokenPipeError, ConnectionResetError):  # it has died; the next poll_verdict notices
            self.connection.send((name, given, reference))

    def poll_verdict(self, readable: bool) -> Verdict | RuntimeError | None:
        """Return what became of the response by now; None while the worker is idle or within its time."""
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
    """Grade what comes over the connection, until the server ends, which ends this process, too.

    An answer is limited in CPU time, by the kernel: a busy machine must not turn right answers into wrong
    ones.
    """
    die_with_parent(server_pid)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while True:
        name, given, reference = connection.recv()
        task = find_task(name)
        if task.runs_programs:
            connection.send(_grade_program(task, given, reference, sandbox))
        else:
            connection.send(_grade_answer(task, given, reference, timeout_s))


def _grade_program(task: Task, given: Any, reference: str, sandbox: Sandbox | None) -> Verdict | RuntimeError:
    # A sandbox that fails says nothing about the program: that is the caller's error, not a verdict.
    try:
        return task.grade(given, reference, sandbox)
    except (RuntimeError, OSError) as error:
        return RuntimeError(f"no verdict on a program: {error}")


def _grade_answer(task: Task, given: Any, reference: str, timeout_s: float) -> Verdict | RuntimeError:
    try:
        task.load(reference)
    except Exception as error:  # says nothing about the answer
        return RuntimeError(f"no verdict on an answer, its reference cannot be read: {error!r}")
    signal.setitimer(signal.ITIMER_PROF, timeout_s)
    try:
        verdict = task.grade(given, reference, None)
    # Whatever a hostile answer makes a library raise (MemoryError, RecursionError, ...), it is not correct.
    except Exception:
        verdict = Verdict(False, "crashed")
    signal.setitimer(signal.ITIMER_PROF, 0)
    return verdict


def serve(caller: Connection, num_workers: int, timeout_s: float, sandbox: Sandbox | None) -> None:
    """Grade the caller's assignments, until it sends None or is gone.

    It gets (number, verdict) for each, as soon as that is there.
    """
    parent_pid = os.getppid()
    waiting: deque[Assignment] = deque()
    workers = [Worker(timeout_s, sandbox) for _ in range(num_workers)]
    caller.send("ready")
    try:
        while os.getppid() == parent_pid:
            nearest_s = min(worker.deadline_s for worker in workers) - time.monotonic()
            ready = wait(
                [caller, *(worker.connection for worker in workers)], max(0.0, min(nearest_s, CALLER_CHECK_S))
            )
            while caller.poll():
                assignment = caller.recv()
                if assignment is None:
                    return
                waiting.append(assignment)
            for index, worker in enumerate(workers):
                verdict = worker.poll_verdict(worker.connection in ready)
                if verdict is not None:
                    workers[index] = finish(worker, verdict, caller)
            for worker in workers:
                if worker.number is None and waiting:
                    worker.assign(waiting.popleft())
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the caller is gone
    finally:
        for worker in workers:
            worker.stop()


def finish(worker: Worker, verdict: Verdict | RuntimeError, caller: Connection) -> Worker:
    """Report a verdict; return the worker, idle again, or a new one in its place."""
    if worker.number is not None:
        caller.send((worker.number, verdict))
    worker.num_graded += 1
    cut_short = isinstance(verdict, Verdict) and verdict.reason in ("timeout", "crashed")
    if cut_short or worker.num_graded >= ANSWERS_PER_WORKER:
        worker.stop()
        return Worker(worker.timeout_s, worker.sandbox)
    worker.number, worker.deadline_s = None, float("inf")
    return worker


def main() -> None:
    """Serve the caller on the socket it passed on."""
    socket_descriptor, text = sys.argv[1:]
    options = json.loads(text)
    tasks = [find_task(name) for name in options["tasks"]]
    sandbox = Sandbox(Limits(**options["limits"])) if any(task.runs_programs for task in tasks) else None
    logging.disable(logging.CRITICAL)
    for task in tasks:
        task.warm_up()
    # What is loaded by now is shared with the workers: their garbage collector shall not touch it.
    gc.freeze()
    serve(Connection(int(socket_descriptor)), options["num_workers"], options["timeout_s"], sandbox)


if __name__ == "__main__":
    main()
