"""What roles share: the end by SIGTERM, and the verifier that config and problems ask for."""

import signal
import subprocess
import sys

import pytest

from scalerl.data.problem import Problem
from scalerl.role import start_verifier
from scalerl.settings import build_config
from scalerl.tasks.reasoning_gym import make_reference
from scalerl.tasks.task import Verdict

MATH = Problem(prompt_id="a", prompt="1+1?", answer="2", source="test")
CODE = Problem(
    prompt_id="b", prompt="Echo.", answer='[{"input": "5", "output": "5"}]', task="code", source="test"
)

ROLE = """
import time
from scalerl.role import StopSignal
stop = StopSignal()
stop.loop_started = {loop_started}
print("ready", flush=True)
while not stop.requested:
    time.sleep(0.01)
print("finished its round", flush=True)
"""


@pytest.mark.parametrize(("loop_started", "last_words"), [(False, ""), (True, "finished its round\n")])
def test_sigterm_ends_a_role_with_status_0(loop_started, last_words):
    role = ROLE.format(loop_started=loop_started)
    process = subprocess.Popen([sys.executable, "-c", role], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=10)[0] == last_words
    assert process.returncode == 0


PUZZLE = Problem(
    prompt_id="c",
    prompt="1 + 1 =",
    answer=make_reference("chain_sum", {}, {"question": "1 + 1 =", "answer": "2", "metadata": {}}),
    task="reasoning_gym",
    source="test",
)


def config(**changes):
    values = {"budget.max_steps": 1, "length.think_end": "</think>", "generator.code_timeout_s": 1}
    return build_config(values | {f"generator.{key}": value for key, value in changes.items()})


def test_both_tasks_by_the_limits_of_the_config(bubblewrap):
    hungry = "</think>```python\nx = bytearray(100 << 20)\nprint(input())\n```"
    for memory_mb, verdict in ((64, Verdict(False, "memory")), (512, Verdict(True, "passed"))):
        with start_verifier(config(code_memory_mb=memory_mb), [MATH, CODE]) as pool:
            assert pool.submit("5</think>2", MATH.answer, MATH.task).result(20).correct
            assert pool.submit(hungry, CODE.answer, CODE.task).result(60) == verdict


@pytest.mark.filterwarnings("ignore::SyntaxWarning")
def test_puzzles_beside_math():
    with start_verifier(config(), [MATH, PUZZLE]) as pool:
        assert pool.submit("5</think>3", MATH.answer, MATH.task).result(20) == Verdict(False, "different")
        assert pool.submit("</think><answer>+2.0</answer>", PUZZLE.answer, PUZZLE.task).result(20).correct


def test_math_needs_no_sandbox_and_code_is_refused_without(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    start_verifier(config(), [MATH]).close()
    with pytest.raises(ValueError, match=r"generator\.allow_weak_sandbox=true"):
        start_verifier(config(), [MATH, CODE])
    start_verifier(config(allow_weak_sandbox=True), [CODE]).close()
