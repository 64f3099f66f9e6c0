"""Finding, grading and time-limiting answers; the processes that do it."""

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalerl.data.readers import BadRow, read_problem_file
from scalerl.tasks.algebra import equal_by_algebra
from scalerl.tasks.answers import Answer, compare_texts, final_text, find_answer
from scalerl.tasks.registry import TASKS
from scalerl.tasks.task import Verdict
from scalerl.verify.pool import VerifierPool

SAMPLES = Path(__file__).parents[1] / "data" / "problems"
BY_ALGEBRA = ("\\boxed{\\frac{2}{6}}", "1/3")
"""A response and a reference that no comparison of texts decides."""


def grade(response: str, reference: str, *, think_end: str = "") -> bool:
    """Grade a response here, without the processes of a pool."""
    text, task = final_text(response, think_end), TASKS["math"]
    answer = None if text is None else task.read(text)
    if answer is None:
        return False
    return (task.compare(answer, reference) or task.grade(answer, reference, None)).correct


@pytest.fixture(autouse=True, scope="module")
def _quiet_library():
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="module")
def pool():
    with VerifierPool(num_workers=1, timeout_s=0.5) as pool:
        yield pool


def wait_for(condition, what: str, deadline_s: float = 20) -> None:
    end_s = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end_s, f"waited {deadline_s} s for {what}"
        time.sleep(0.02)


# Where the answer is


@pytest.mark.parametrize(
    ("response", "think_end", "text"),
    [
        ("thoughts </think> 5", "</think>", " 5"),
        ("a </think> b </think>", "</think>", ""),
        ("never ends", "</think>", None),
        ("<7*3=1>1", ">", "1"),
        ("all of it", "", "all of it"),
    ],
)
def test_final_text(response, think_end, text):
    assert final_text(response, think_end) == text


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("So \\boxed{5}, no: \\boxed{\\frac{1}{2}}.", Answer("\\frac{1}{2}", True)),
        ("\\boxed{ \\left\\{ 1, 2 \\right\\} }", Answer("\\left\\{ 1, 2 \\right\\}", True)),
        ("\\boxed{5} #### 6", Answer("5", True)),
        ("work\n#### 72\nthank you", Answer("72", False)),
        ("#### 1 #### 2", Answer("2", False)),
        (" The answer is 5. ", Answer("The answer is 5.", False)),
        ("\\boxed{}", None),
        ("#### ", None),
        (" \n ", None),
        ("", None),
    ],
)
def test_find_answer(text, answer):
    assert find_answer(text) == answer


# What is equal


@pytest.mark.parametrize("path", sorted(SAMPLES.glob("*.[jp]*")), ids=lambda path: path.name)
def test_every_reference_answers_its_own_problem(path):
    problems = [row.problem for row in read_problem_file(path) if not isinstance(row.problem, BadRow)]
    assert problems
    for problem in problems:
        for form in problem.answer.split("\n"):
            assert grade(
                f"<think>\\boxed{{0}}</think>Thus $\\boxed{{{form}}}$.", problem.answer, think_end="</think>"
            )
            assert equal_by_algebra(Answer(form, boxed=True), form)  # and without the comparison of texts


@pytest.mark.parametrize(
    ("response", "reference", "correct"),
    [
        ("5", "5", True),
        ("The answer is 5", "5", True),
        ("The answer is 6", "5", False),
        ("#### 1,080", "1080", True),
        ("#### 72 dollars", "72", True),
        ("#### -3", "3", False),
        ("\\boxed{025}", "25", True),
        ("\\boxed{25}", "025", True),
        ("\\boxed{0.5}", "\\frac12", True),
        ("\\boxed{\\dfrac{3}{6}}", "1/2", True),
        ("\\boxed{0.49}", "\\frac12", False),
        ("\\boxed{336}", "336^\\circ", True),
        ("\\boxed{x^2 + 1}", "1+x^2", True),
        ("1 + x^2", "x^2+1", True),
        ("x^2 - 1", "x^2+1", False),
        ("2\\sqrt{3}", "\\sqrt{12}", True),
        ("\\boxed{(1, 2)}", "(2, 1)", False),
        ("\\boxed{\\{2, 1\\}}", "\\{1, 2\\}", True),
        ("\\boxed{0.02}", "0.01\n0.02", True),
        ("\\boxed{0.015}", "0.01\n0.02", False),
        ("\\boxed{2}", "2 \\text{ euros}", True),
        ("\\boxed{\\text{east}}", "\\text{west}", False),
        ("\\boxed{4.5 \\times 10^{33}}", "4.5e33", True),
        ("\\boxed{1.0e-5}", "10^{-5}", True),
        ("\\boxed{4.5e32}", "4.5e33", False),
        ("\\boxed{30}", "30^\\circ.", True),
        ("\\boxed{10000}", "10,\\!000", True),
        ("1 2 3 4 5", "4", False),
        ("\\boxed{5} or \\boxed{6}", "5", False),
        ("no answer at all", "5", False),
        ("", "5", False),
    ],
)
def test_grade(response, reference, correct):
    assert grade(response, reference) is correct


def test_only_what_follows_the_thinking_counts():
    assert not grade("\\boxed{5}", "5", think_end="</think>")
    assert not grade("\\boxed{5}</think>", "5", think_end="</think>")
    assert not grade("\\boxed{5}</think>\\boxed{6}", "5", think_end="</think>")
    assert grade("\\boxed{6}</think>\\boxed{5}", "5", think_end="</think>")


@settings(max_examples=40, deadline=None)
@given(left=st.integers(-50, 50), right=st.integers(-50, 50), width=st.integers(1, 4), boxed=st.booleans())
def test_the_quick_way_agrees_with_algebra(left, right, width, boxed):
    answer = Answer(f"{left:0{width}d}", boxed)
    quick = compare_texts(answer, str(right))
    assert quick is not None
    assert quick.correct == (left == right) == equal_by_algebra(answer, str(right))


# The pool


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
        answers = [pool.submit(f"\\boxed{{{number}/7}}", f"{2 * number}/14") for number in range(1001)]
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
