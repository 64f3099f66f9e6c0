"""The verifier as a config and a set of problems ask for it."""

import pytest

from scalerl.data.problem import Problem
from scalerl.role import start_verifier
from scalerl.settings import build_config
from scalerl.tasks.task import Verdict

MATH = Problem(prompt_id="a", prompt="1+1?", answer="2", source="test")
CODE = Problem(
    prompt_id="b", prompt="Echo.", answer='[{"input": "5", "output": "5"}]', task="code", source="test"
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


def test_math_needs_no_sandbox_and_code_is_refused_without(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    start_verifier(config(), [MATH]).close()
    with pytest.raises(ValueError, match=r"generator\.allow_weak_sandbox=true"):
        start_verifier(config(), [MATH, CODE])
    start_verifier(config(allow_weak_sandbox=True), [CODE]).close()
