"""Programs that are graded: what is run, and what passes. The sandbox is the real one: it needs bwrap."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from programs import LIMITS, SUM, SUM_TESTS, block, grade, prints

from scalerl.sandbox.sandbox import ProgramRun, Sandbox
from scalerl.tasks.code import Program, find_program, grade_code, same_text, same_value
from scalerl.tasks.task import NO_ANSWER, Verdict
from scalerl.verify.pool import VerifierPool


@pytest.fixture(scope="module")
def pool(bubblewrap):
    with VerifierPool(num_workers=1, think_end="</think>", tasks=["math", "code"], limits=LIMITS) as pool:
        yield pool


@pytest.fixture(scope="module")
def sandbox(bubblewrap):
    return Sandbox(LIMITS)


# What is run


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ("```python\na\n```", "a"),
        ("```py\na\n  b\n```\nor\n```Python3 \nc\n```\nend", "c"),
        ("```python\na\n```\nwhich prints\n```\n3\n```", "a"),
        ("```\n3\n```\n```python\na\n```", "a"),
        ("stray\n```\n```python\na\n```", "a"),
        ("```python\ncut\n```python\na\n```", "a"),
        ("```python\na\n```\n```python\ncut", "a"),
        ("```python\ncut", None),
        ("```cpp\nint a;\n```", None),
        ("```python\n \n```", None),
        ("no code at all", None),
    ],
)
def test_the_last_closed_python_block_is_the_program(text, program):
    assert find_program(text) == (None if program is None else Program(program))


def test_finding_a_program_takes_linear_time():
    begin_s = time.monotonic()
    assert find_program("```python\n" * 300_000) is None
    assert time.monotonic() - begin_s < 5


def test_verdicts_of_the_pool(pool):
    wrong_second = "a = input()\nprint(3)"
    assert grade(pool, SUM, SUM_TESTS) == Verdict(True, "passed")
    assert grade(pool, wrong_second, SUM_TESTS) == Verdict(False, "wrong_output")
    assert grade(pool, "syntax error", SUM_TESTS) == Verdict(False, "crashed")
    assert pool.submit("</think>The answer is 3.", SUM_TESTS, "code").result(1) == Verdict(False, "no_code")
    assert pool.submit(f"```python\n{SUM}\n```", SUM_TESTS, "code").result(1) == NO_ANSWER
    assert pool.submit("</think>\\boxed{0.5}", "\\frac{1}{2}").result(20) == Verdict(True, "equal")
    assert pool.counts["no_code"] >= 1


def test_the_order_of_code_and_math_is_kept_by_the_futures(pool):
    rows = [(block(f"print({n})"), prints(str(n % 2)), "code") for n in range(4)]
    rows += [(f"</think>\\boxed{{{n}/2}}", "0.5", "math") for n in range(4)]
    verdicts = [future.result(60).correct for future in [pool.submit(*row) for row in rows]]
    assert verdicts == [True, True, False, False, False, True, False, False]


def test_a_pool_without_limits_for_code_refuses_code():
    with VerifierPool() as math_only, pytest.raises(AssertionError, match="does not grade code"):
        math_only.submit(block(SUM), SUM_TESTS, "code")


# What passes


@pytest.mark.parametrize(
    ("output", "expected", "same"),
    [
        ("3\n", "3", True),
        ("3 \n\n", "3\n", True),
        ("1 2\n3", "1 2\n3\n", True),
        ("1\n2", "1 2", False),
        (" 1   2", "1 2", True),
        ("12", "1 2", False),
        ("1\n\n2", "1\n2", False),
        ("3.0", "3", False),
        ("0.3333333", "0.33333333333", True),
        ("x 0.333 y", "x 0.33333333333 y", False),
        ("1000000007", "1000000008", False),
        ("1000000000.0", "1000000000.5", True),
        ("YES", "Yes", False),
        ("", "", True),
        ("1", "", False),
        ("nan", "0.5", False),
    ],
)
def test_outputs(output, expected, same):
    assert same_text(output.encode(), expected) is same


@given(st.text())
def test_every_text_is_the_same_as_itself(text):
    text = text.replace("\ud800", "")
    assert same_text(text.encode(errors="ignore"), text.encode(errors="ignore").decode())


def test_an_output_that_is_no_text_is_wrong():
    assert not same_text(b"\xff", "3")


@pytest.mark.parametrize(
    ("value", "expected", "same"),
    [
        ([1, "a", None], [1, "a", None], True),
        (2.0, 2, True),
        (2, 2.0, True),
        (2.1, 2, False),
        (0.1 + 0.2, 0.3, True),
        (True, 1, False),
        (1, True, False),
        ("1", 1, False),
        ([1, 2], [1], False),
        ({"a": [0.5]}, {"a": [0.5000000001]}, True),
        ({"a": 1, "b": 2}, {"a": 1}, False),
    ],
)
def test_results(value, expected, same):
    assert same_value(value, expected) is same


def call_tests(*cases) -> str:
    return json.dumps(
        [{"fn_name": "f", "arguments": given, "accepted": accepted} for given, accepted in cases]
    )


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("def f(a, b):\n    print('noise')\n    return a + b", "passed"),
        ("class Solution:\n    def f(self, a, b):\n        return a + b", "passed"),
        ("def f(a, b):\n    return [a + b, 0]", "wrong_output"),
        ("def f(a, b):\n    pass", "wrong_output"),
        ("def g(a, b):\n    return a + b", "crashed"),
        ("def f(a, b):\n    return {a}", "crashed"),
        ("import sys\ndef f(a, b):\n    sys.exit(0)", "wrong_output"),
        ("def f(a, b):\n    return 10**4000", "wrong_output"),
        ("def f(a, b):\n    return 10**5000", "crashed"),
        ("def f(a, b):\n    return float('nan')", "wrong_output"),
        ("def f(a, b):\n    return [[]] * 10**5", "wrong_output"),
        (
            "def f(a, b):\n    return a + b\n"
            "if __name__ == '__main__':\n    print(f(*map(int, input().split())))",
            "passed",
        ),
        (
            "class Solution:\n    def f(self, a: List[int], b: Optional[int]) -> int:\n"
            "        return reduce(add, [a, b])",
            "passed",
        ),
        (
            "def f(a, b):\n    return pow(2, 3, 5) == 3 and bisect.bisect_left([1], inf) == 1 and "
            "Counter() == {} and a + b",
            "passed",
        ),
    ],
)
def test_calls(sandbox, program, reason):
    tests = call_tests(([1, 2], [[3.0], 3.0]), (["x", "y"], ["xy"]))
    assert grade_code(Program(program), tests, sandbox).reason == reason


def test_all_tests_together_have_a_limit_too(sandbox, monkeypatch):
    monkeypatch.setattr("scalerl.tasks.code.TIME_LIMITS", 1.5 / sandbox.wall_s)
    slow = Program("import time\ntime.sleep(0.5)\nprint(3)")
    assert grade_code(slow, prints("3"), sandbox).reason == "passed"
    many = json.dumps(json.loads(prints("3")) * 10)
    assert grade_code(slow, many, sandbox).reason == "timeout"


@pytest.mark.parametrize("ending", ["exit()", "quit(0)", "sys.exit()"])
def test_programs_that_end_themselves(sandbox, ending):
    assert sandbox.run(f"import sys\nprint(3)\n{ending}\nprint(4)") == ProgramRun(
        status="done", output=b"3\n"
    )


def test_what_honest_programs_use(sandbox):
    deep = (
        "import sys, threading\nfrom dataclasses import dataclass\n"
        "sys.setrecursionlimit(10**6)\nthreading.stack_size(2**26)\n"
        "@dataclass\nclass N:\n    v: 'int'\n"
        "def depth(n):\n    return depth(n - 1) + 1 if n else 0\n"
        "def main():\n    print(depth(N(20000).v), sys.stdin.readline().strip(), 'é')\n"
        "if __name__ == '__main__':\n    t = threading.Thread(target=main); t.start(); t.join()\n"
        "    sys.exit(0)"
    )
    assert sandbox.run(deep, "ü\n".encode()) == ProgramRun(status="done", output="20000 ü é\n".encode())
    scratch = "open('a', 'w').write('kept'); print(open('a').read(), __import__('os').listdir('.'))"
    assert sandbox.run(scratch).output == b"kept ['a']\n"
    assert sandbox.run(scratch).output == b"kept ['a']\n"  # nothing is left from the first


# What honest programs do


def test_honest_recursion_a_hundred_thousand_deep(sandbox):
    program = (
        "import functools, sys\nsys.setrecursionlimit(10**6)\n@functools.lru_cache(None)\n"
        "def count(n): return 0 if n == 0 else count(n - 1) + 1\nprint(count(int(input())))"
    )
    for depth in (18_000, 100_000):
        assert sandbox.run(program, str(depth).encode()) == ProgramRun(
            status="done", output=f"{depth}\n".encode()
        )


@pytest.mark.parametrize(
    "program",
    [
        "print(open('/dev/stdin').read(), end='')",
        "import sys\nsys.stdin = open('/dev/stdin')\nprint(input(), input(), sep='\\n')",
        "from pathlib import Path\nprint(Path('/dev/stdin').read_text(), end='')",
        "open('/dev/stdout', 'w').write(open(0).read())",
    ],
)
def test_standard_streams_by_their_names(sandbox, program):
    assert sandbox.run(program, b"1\n2\n") == ProgramRun(status="done", output=b"1\n2\n")
