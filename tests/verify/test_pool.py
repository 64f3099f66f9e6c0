"""The processes that grade: their limits, and what happens where one of them ends."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from scalerl.tasks.task import Verdict
from scalerl.verify.pool import VerifierPool

BY_ALGEBRA = ("\\boxed{\\frac{2x}{6}}", "x/3")
"""A response and a reference that no comparison of texts decides."""


@pytest.fixture(scope="module")
def pool():
    with VerifierPool(num_workers=1, timeout_s=0.5) as pool:
        yield pool


def wait_for(condition, what: str, deadline_s: float = 20) -> None:
    end_s = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end_s, f"waited {deadline_s} s for {what}"
        time.sleep(0.02)


def test_verdicts_and_their_count():
    with VerifierPool(num_workers=2, think_end="</think>") as pool:
        rows = [
            ("</think>5", "5"),
            ("</think>6", "5"),
            ("5", "5"),
            ("</think>" + BY_ALGEBRA[0], BY_ALGEBRA[1]),
        ] * 3
        verdicts = [future.result(20) for future in [pool.submit(*row) for row in rows]]
        assert (
            verdicts
            == [
                Verdict(True, "equal"),
                Verdict(False, "different"),
                Verdict(False, "no_answer"),
                Verdict(True, "equal"),
            ]
            * 3
        )
        assert pool.counts == {"equal": 6, "different": 3, "no_answer": 3}


HOSTILE = {
    "power": "9**9**9**9",
    "latex power": "\\boxed{9^{9^{9^{9}}}}",
    "factorials": "\\boxed{((((10^9)!)!)!)}",
    "sum": "\\boxed{\\sum_{n=1}^{10^{10}} n!}",
    "memory": "\\boxed{2^{10^{12}}}",
    "deep": "\\boxed{" + "\\frac{1}{" * 900 + "1" + "}" * 900 + "}",
    "braces": "\\boxed{" + "{" * 4000 + "1" + "}" * 4000 + "}",
    "unclosed": "\\boxed{" + "{" * 10_000_000,
    "boxes": "\\boxed{" * 100_000,
    "long": "x" * 10_000_000,
    "long number": "\\boxed{" + "9" * 9000 + "}",
    "spaces": "#### " * 2_000_000,
    "dollars": "$" * 100_000,
    "surrogate": "\\boxed{\ud800}",
    "null": "\x00",
}


@pytest.mark.parametrize("response", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_input_costs_its_time_and_the_next_answer_is_graded(pool, response):
    own_cpu_s, begin_s = time.process_time(), time.monotonic()
    hostile, normal = pool.submit(response, "5"), pool.submit(*BY_ALGEBRA)
    assert not hostile.result(20).correct
    # Half a second of processor time, and never more than 2 s of wall time, however busy the machine; 1 s to
    # notice.
    assert time.monotonic() - begin_s < 3
    assert time.process_time() - own_cpu_s < 0.5
    assert normal.result(20) == Verdict(True, "equal")


def test_too_much_work_is_reported_as_such(pool):
    before = pool.counts["timeout"]
    assert pool.submit("\\boxed{9^{9^{9^{9}}}}", "5").result(20) == Verdict(False, "timeout")
    assert pool.counts["timeout"] == before + 1


def workers_of(pool: VerifierPool) -> list[psutil.Process]:
    return psutil.Process(pool._process.pid).children()


def test_a_killed_worker_costs_the_answer_it_was_grading_and_no_other():
    with VerifierPool(num_workers=1, timeout_s=20) as pool:
        (idle,) = workers_of(pool)
        idle.kill()
        wait_for(
            lambda: [worker.pid for worker in workers_of(pool)] not in ([], [idle.pid]), "another worker"
        )
        assert pool.submit(*BY_ALGEBRA).result(20) == Verdict(True, "equal")
        (busy,) = workers_of(pool)
        spent_s = busy.cpu_times().user
        unlucky = pool.submit("\\boxed{9^{9^{9^{9}}}}", "5")
        wait_for(lambda: busy.cpu_times().user > spent_s + 0.1, "the worker to compute")
        busy.kill()
        assert unlucky.result(20) == Verdict(False, "crashed")
        assert pool.submit(*BY_ALGEBRA).result(20) == Verdict(True, "equal")


def test_a_worker_is_replaced_before_it_grows_old():
    with VerifierPool(num_workers=1) as pool:
        first = workers_of(pool)
        answers = [pool.submit(f"\\boxed{{x+{number}}}", f"{number} + x") for number in range(1, 1002)]
        assert all(future.result(60).correct for future in answers)
        assert workers_of(pool) != first


def test_submit_does_not_wait_for_verdicts():
    with VerifierPool(num_workers=1, timeout_s=20) as pool:
        (worker,) = workers_of(pool)
        worker.suspend()
        futures = [pool.submit(*BY_ALGEBRA) for _ in range(300)]
        assert pool.submit("5", "5").done()
        assert not any(future.done() for future in futures)
        worker.resume()
        assert all(future.result(30).correct for future in futures)


def test_close_leaves_no_process_and_fails_what_is_unfinished():
    pool = VerifierPool(num_workers=2, timeout_s=60)
    processes = [psutil.Process(pool._process.pid), *workers_of(pool)]
    unfinished = pool.submit("\\boxed{9^{9^{9^{9}}}}", "5")
    pool.close()
    pool.close()
    assert len(processes) == 3
    assert not any(process.is_running() for process in processes)
    with pytest.raises(RuntimeError, match="closed"):
        unfinished.result(0)
    with pytest.raises(RuntimeError, match="closed"):
        pool.submit("5", "5")


def test_a_killed_server_is_an_error_and_its_workers_die():
    pool = VerifierPool(num_workers=2, timeout_s=60)
    workers = workers_of(pool)
    unfinished = [pool.submit("\\boxed{9^{9^{9^{9}}}}", "5") for _ in range(2)]
    wait_for(lambda: all(worker.cpu_times().user > 0.05 for worker in workers), "the workers to compute")
    os.kill(pool._process.pid, signal.SIGKILL)
    for future in unfinished:
        with pytest.raises(RuntimeError, match="was killed; start a new pool"):
            future.result(20)
    wait_for(lambda: not any(worker.is_running() for worker in workers), "the workers to die")
    with pytest.raises(RuntimeError, match="was killed"):
        pool.submit("5", "5")
    pool.close()


CALLER = """
import sys, time
from scalerl.verify.pool import VerifierPool
pool = VerifierPool(num_workers=2, timeout_s=60)
futures = [pool.submit("\\\\boxed{9^{9^{9^{9}}}}", "5") for _ in range(2)]
print(pool._process.pid, flush=True)
time.sleep(60)
"""


def test_nothing_outlives_a_killed_caller():
    # No guard around the caller's main code: the server does not import it.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    caller = subprocess.Popen(
        [sys.executable, "-c", CALLER], stdout=subprocess.PIPE, text=True, env=environment
    )
    server = psutil.Process(int(caller.stdout.readline()))
    processes = [server, *server.children()]
    wait_for(lambda: all(process.cpu_times().user > 0.05 for process in processes), "the workers to compute")
    caller.kill()
    caller.wait()
    caller.stdout.close()
    assert len(processes) == 3
    wait_for(lambda: not any(process.is_running() for process in processes), "server and workers to die")


def test_impossible_pools():
    with pytest.raises(ValueError, match="0 workers"):
        VerifierPool(num_workers=0)
    with pytest.raises(ValueError, match=r"0\.0 s an answer"):
        VerifierPool(timeout_s=0.0)
