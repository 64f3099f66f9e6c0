"""Programs that are graded: what is run, what passes, and what hostile ones can do. The sandbox is the real one: it needs bwrap."""

import json
import os
import shutil
import stat
import struct
import time

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalerl.verify import sandbox as sandbox_module
from scalerl.verify.answers import NO_ANSWER, Verdict
from scalerl.verify.code import Program, find_program, grade_code, same_text, same_value
from scalerl.verify.pool import VerifierPool
from scalerl.verify.sandbox import OUTPUT_BYTES, SCRATCH_BYTES, WEAK, Limits, Outcome, Sandbox
from scalerl.verify.seccomp import build_filter

LIMITS = Limits(cpu_s=1, memory_mb=256)
SECRET = "d41d8cd98f00b204e9800998ecf8427e"
SUM = "print(sum(map(int, input().split())))"
SUM_TESTS = json.dumps([{"input": "1 2\n", "output": "3\n"}, {"input": "4 5", "output": "9"}])


def block(program: str) -> str:
    return f"<think>hm</think>So:\n```python\n{program}\n```\nDone."


def prints(text: str) -> str:
    return json.dumps([{"input": "", "output": text}])


def attempt(*lines: str) -> str:
    """A program that prints what each line gives, or the name of the exception it raises."""
    head = (
        "import ctypes, mmap, os, resource, signal, socket, subprocess, sys\n"
        "def attempt(action):\n"
        "    try:\n"
        "        print(action())\n"
        "    except Exception as error:\n"
        "        print(type(error).__name__)\n"
    )
    return head + "".join(f"attempt(lambda: {line})\n" for line in lines)


@pytest.fixture(scope="module")
def pool():
    os.environ["SECRET"] = SECRET
    with VerifierPool(num_workers=1, think_end="</think>", code=LIMITS) as pool:
        yield pool
    del os.environ["SECRET"]


@pytest.fixture(scope="module")
def sandbox():
    return Sandbox(LIMITS)


def grade(pool: VerifierPool, program: str, tests: str) -> Verdict:
    return pool.submit(block(program), tests, "code").result(60)


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
    return json.dumps([{"fn_name": "f", "arguments": given, "accepted": accepted} for given, accepted in cases])


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
        ("def f(a, b):\n    return a + b\nif __name__ == '__main__':\n    print(f(*map(int, input().split())))", "crashed"),
    ],
)
def test_calls(sandbox, program, reason):
    tests = call_tests(([1, 2], [[3.0], 3.0]), (["x", "y"], ["xy"]))
    assert grade_code(Program(program), tests, sandbox).reason == reason


def test_what_honest_programs_use(sandbox):
    deep = (
        "import sys, threading\nfrom dataclasses import dataclass\nsys.setrecursionlimit(10**6)\nthreading.stack_size(2**26)\n"
        "@dataclass\nclass N:\n    v: 'int'\n"
        "def depth(n):\n    return depth(n - 1) + 1 if n else 0\n"
        "def main():\n    print(depth(N(20000).v), sys.stdin.readline().strip(), 'é')\n"
        "if __name__ == '__main__':\n    t = threading.Thread(target=main); t.start(); t.join()\n    sys.exit(0)"
    )
    assert sandbox.run(deep, "ü\n".encode()) == Outcome(status="done", output="20000 ü é\n".encode())
    scratch = "open('a', 'w').write('kept'); print(open('a').read(), __import__('os').listdir('.'))"
    assert sandbox.run(scratch).output == b"kept ['a']\n"
    assert sandbox.run(scratch).output == b"kept ['a']\n"  # nothing is left from the first


# What hostile programs can do: each prints what stopped it, and the pool goes on


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        pytest.param(
            attempt(
                "open('/etc/passwd').read()",
                "os.listdir('/etc')",
                "os.listdir('/proc')",
                "os.listdir('/home')",
                "open('/dev/mem')",
            ),
            "FileNotFoundError\n" * 5,
            id="reading files",
        ),
        pytest.param(
            attempt("os.environ.get('SECRET')", "os.environ.get('PATH')", "os.environ.get('HOME')"),
            "None\n" * 3,
            id="environment",
        ),
        pytest.param(
            attempt(
                "open('/usr/lib/x', 'w')",
                "open('/x', 'w')",
                "os.mkdir('/y')",
                "open(sys.prefix + '/lib/x', 'w')",
                "os.chmod('/', 0)",
            ),
            "OSError\n" * 5,
            id="writing outside",
        ),
        pytest.param(
            attempt("socket.socket()", "socket.socket(socket.AF_UNIX)", "socket.create_connection(('127.0.0.1', 22), 1)"),
            "PermissionError\n" * 3,
            id="socket",
        ),
        pytest.param(
            attempt(
                "os.kill(os.getppid(), 9)", "os.kill(-1, 9)", "os.kill(1, 9)", "os.killpg(0, 9)", "os.kill(-os.getpgrp(), 9)"
            ),
            "PermissionError\n" * 5,
            id="killing its parent",
        ),
        pytest.param(
            attempt(
                "os.fork()",
                "subprocess.run([sys.executable, '-V'])",
                "os.posix_spawn(sys.executable, [sys.executable], {})",
                "os.system('true')",
                "ctypes.CDLL(None).syscall(56 if os.uname().machine == 'x86_64' else 220, signal.SIGCHLD, 0, 0, 0, 0)",
            ),
            "PermissionError\nPermissionError\nPermissionError\n32512\n-1\n",  # 32512: the shell was not started
            id="starting processes",
        ),
        pytest.param(
            "import os\nif os.name == 'posix':\n    try:\n        if os.fork() == 0:\n            os.setsid()\n            os.fork()\n"
            "            while True: pass\n    except PermissionError:\n        print('no daemon')",
            "no daemon",
            id="daemon",
        ),
        pytest.param(
            attempt("mmap.mmap(-1, 10 << 30)", "os.memfd_create('x')", "ctypes.CDLL(None).shmget(0, 10 << 30, 0o1600)"),
            "OSError\nPermissionError\n-1\n",
            id="memory elsewhere",
        ),
        pytest.param(
            attempt(
                *(f"resource.setrlimit(resource.{name}, (-1, -1))" for name in ("RLIMIT_AS", "RLIMIT_CPU", "RLIMIT_FSIZE")),
                "resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (0, 0))",
            ),
            "ValueError\nValueError\nValueError\nPermissionError\n",
            id="its own limits",
        ),
        pytest.param(
            attempt("os.ttyname(0)", "os.open('/dev/tty', 2)", "os.listdir('/dev')"),
            "OSError\nFileNotFoundError\nFileNotFoundError\n",
            id="terminal",
        ),
    ],
)
def test_what_is_out_of_reach(pool, program, expected):
    assert grade(pool, program, prints(expected)) == Verdict(True, "passed")
    assert grade(pool, SUM, SUM_TESTS) == Verdict(True, "passed")


@pytest.mark.parametrize(
    ("program", "reasons"),
    [
        pytest.param("while True: pass", {"timeout"}, id="infinite loop"),
        pytest.param("import os\nwhile True: os.fork()", {"crashed"}, id="fork bomb"),
        pytest.param(
            "import threading, time\nthreading.stack_size(32768)\n"
            "while True: threading.Thread(target=time.sleep, args=(99,), daemon=True).start()",
            {"crashed", "timeout", "memory"},
            id="thread bomb",
        ),
        pytest.param("x = bytearray(10 << 30)\nprint(3)", {"memory"}, id="10 GB"),
        pytest.param("x = []\nwhile True: x.append('x' * 10**6 + str(len(x)))", {"memory"}, id="10 GB in pieces"),
        pytest.param("while True: print('x' * 10**6)", {"crashed"}, id="flooding stdout"),
        pytest.param(
            "try:\n    while True: print('x' * 10**6, flush=True)\nexcept OSError:\n    __import__('os')._exit(0)",
            {"wrong_output"},
            id="flooding stdout and calling it a success",
        ),
        pytest.param("import sys\nwhile True: print('x' * 10**6, file=sys.stderr)", {"crashed"}, id="flooding stderr"),
        pytest.param("def f(): f()\nf()", {"crashed"}, id="deep recursion"),
        pytest.param(
            "import sys\nsys.setrecursionlimit(10**9)\ndef f(): f()\nf()", {"timeout", "memory", "crashed"}, id="deeper recursion"
        ),
        pytest.param("import ctypes\nctypes.string_at(0)", {"crashed"}, id="segmentation fault"),
        pytest.param("print(" + "(" * 10**5 + "3" + ")" * 10**5 + ")", {"crashed", "memory"}, id="deep syntax"),
        pytest.param("import sys\nsys.exit(0)", {"wrong_output"}, id="exit before the answer"),
        pytest.param("import sys\nprint(3)\nsys.exit(1)", {"crashed"}, id="exit code after the answer"),
        pytest.param("import os\nos._exit(86)", {"memory"}, id="forged exit code"),
        pytest.param(
            "import builtins, json\nclass Same(str):\n    def __eq__(self, other): return True\n    __hash__ = str.__hash__\n"
            "builtins.str = Same\njson.loads = json.dumps = lambda *a: 3\nprint(Same('x'))",
            {"wrong_output"},
            id="patching the comparison",
        ),
    ],
)
def test_what_it_costs(pool, program, reasons):
    begin_s = time.monotonic()
    verdict = grade(pool, program, prints("3"))
    assert not verdict.correct
    assert verdict.reason in reasons
    assert time.monotonic() - begin_s < 30
    assert grade(pool, SUM, SUM_TESTS) == Verdict(True, "passed")


def test_a_program_that_waits_is_ended_by_the_clock(sandbox, monkeypatch):
    monkeypatch.setattr(sandbox_module, "START_S", 0.0)
    begin_s = time.monotonic()
    assert sandbox.run("import time; print(3, flush=True); time.sleep(99)") == Outcome(status="timeout")
    left_behind = "import threading, time; threading.Thread(target=time.sleep, args=(99,)).start(); print(3, flush=True)"
    assert sandbox.run(left_behind) == Outcome(status="timeout")
    assert time.monotonic() - begin_s < 2 * 4 * LIMITS.cpu_s + 5
    assert not [child for child in psutil.Process().children(recursive=True) if "bwrap" in child.name()]


def test_scratch_and_output_are_bounded(sandbox):
    fill = (
        "total = 0\ntry:\n    for number in range(99):\n        with open(str(number), 'wb', 0) as file:\n"
        "            while True:\n                try:\n                    total += file.write(bytes(1 << 20))\n"
        "                except OSError as error:\n                    if error.errno == 28: raise\n                    break\n"
        "except OSError:\n    print(total)"
    )
    assert int(sandbox.run(fill).output) <= SCRATCH_BYTES
    flood = "import os\ntry:\n    while True: os.write(1, b'x' * 10**6)\nexcept OSError:\n    os._exit(0)"
    assert len(sandbox.run(flood).output) == OUTPUT_BYTES


SEARCH = """
import gc, os, re, sys
texts = [sys.stdin.read()]
for root, _, names in os.walk("/"):
    if not root.startswith(("/usr", "/lib")) and "/lib/" not in root + "/":
        for name in names:
            try:
                texts.append(open(os.path.join(root, name), errors="ignore").read(1 << 20))
            except OSError:
                pass
for descriptor in range(32):
    try:
        os.lseek(descriptor, 0, 0)
        texts.append(os.read(descriptor, 1 << 20).decode(errors="ignore"))
    except OSError:
        pass
frame = sys._getframe()
while frame:
    texts += [repr(frame.f_globals), repr(frame.f_locals)]
    frame = frame.f_back
texts += [repr(thing)[:10000] for thing in gc.get_objects() if isinstance(thing, (dict, list, tuple))]
found = [match for text in texts for match in re.findall("[0-9a-f]{32}", text)]
print(*sorted(set(found)))
"""


def test_the_expected_output_is_nowhere_to_be_found():
    sandbox = Sandbox(Limits(cpu_s=10, memory_mb=256))  # it reads all of its memory
    found = json.dumps([{"input": SECRET, "output": SECRET}])
    hidden = json.dumps([{"input": "", "output": SECRET}])
    assert grade_code(Program(SEARCH), found, sandbox) == Verdict(True, "passed")  # it does find what is there
    assert grade_code(Program(SEARCH), hidden, sandbox) == Verdict(False, "wrong_output")


def test_nothing_is_left_of_a_pool_that_is_closed_while_programs_run():
    pool = VerifierPool(num_workers=2, code=LIMITS)
    futures = [pool.submit(block("import time; time.sleep(99)"), prints("3"), "code") for _ in range(3)]
    server = psutil.Process(pool._process.pid)
    deadline_s = time.monotonic() + 30
    while sum(child.name() == "bwrap" for child in server.children(recursive=True)) < 4:  # two each: outside and inside
        assert time.monotonic() < deadline_s, "waited 30 s for two sandboxes"
        time.sleep(0.02)
    processes = [server, *server.children(recursive=True)]
    pool.close()
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert alive == []
    for future in futures:
        with pytest.raises(RuntimeError, match="closed"):
            future.result(1)


# Where bubblewrap does not work


@pytest.fixture
def weak(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    return Sandbox(Limits(cpu_s=1, memory_mb=256, allow_weak_sandbox=True))


def test_without_bubblewrap_code_is_refused_unless_allowed(monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        with pytest.raises(ValueError, match=r"bwrap is not installed.*allow_weak_sandbox=true"):
            VerifierPool(code=LIMITS)
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(broken.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="may not make namespaces here"):
        Sandbox(LIMITS)


def test_the_weak_sandbox_says_what_is_missing_and_grades(monkeypatch, tmp_path, capfd):
    monkeypatch.setenv("PATH", str(tmp_path))
    with VerifierPool(code=Limits(cpu_s=1, memory_mb=256, allow_weak_sandbox=True)) as pool:
        verdicts = [pool.submit(block(program), SUM_TESTS, "code").result(60) for program in (SUM, "print(3)")]
    assert verdicts == [Verdict(True, "passed"), Verdict(False, "wrong_output")]
    assert capfd.readouterr().err.count(WEAK) == 1
    assert "read and write every file" in WEAK


def test_the_minimum_of_the_weak_sandbox(weak, monkeypatch):
    monkeypatch.setenv("SECRET", SECRET)
    outcome = weak.run(
        attempt(
            "os.fork()",
            "os.kill(os.getppid(), 9)",
            "os.kill(-1, 9)",
            "socket.socket()",
            "resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (0, 0))",
            "os.environ.get('SECRET')",
            "os.listdir('.')",
        )
    )
    assert outcome.output.decode().split() == ["PermissionError"] * 5 + ["None", "[]"]
    assert weak.run("while True: pass").status == "timeout"
    assert weak.run("x = bytearray(10 << 30)").status == "memory"
    assert weak.run("while True: print('x' * 10**6)").status == "crashed"


def test_a_sandbox_that_breaks_is_an_error_and_no_verdict(monkeypatch, tmp_path):
    """bwrap works for the checks of pool and server, and then no more."""
    (tmp_path / "count").write_text("0")
    wrapper = tmp_path / "bwrap"
    wrapper.write_text(
        f"#!/bin/sh\nread n < {tmp_path}/count\necho $((n+1)) > {tmp_path}/count\n"
        f'[ $n -lt 2 ] && exec {shutil.which("bwrap")} "$@"\necho no more namespaces >&2\nexit 1\n'
    )
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with VerifierPool(code=LIMITS) as pool:
        future = pool.submit(block(SUM), SUM_TESTS, "code")
        with pytest.raises(RuntimeError, match="no more namespaces"):
            future.result(60)


# The system call filter, on machines other than this one


def interpret(program: bytes, architecture: int, number: int, argument: int) -> int:
    """What a classic BPF program answers to a system call."""
    data = struct.pack("<IIQQQQQQQ", number, architecture, 0, argument, 0, 0, 0, 0, 0)
    instructions = list(struct.iter_unpack("HBBI", program))
    accumulator, position = 0, 0
    while True:
        code, if_true, if_false, operand = instructions[position]
        position += 1
        if code == 0x06:
            return operand
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, operand)
            continue
        holds = {0x15: accumulator == operand, 0x35: accumulator >= operand, 0x45: bool(accumulator & operand)}[code]
        position += if_true if holds else if_false


@pytest.mark.parametrize(
    ("machine", "architecture", "fork", "clone", "write", "socket"),
    [("x86_64", 0xC000003E, 57, 56, 1, 41), ("aarch64", 0xC00000B7, None, 220, 64, 198)],
)
def test_the_filter_of_each_machine(monkeypatch, machine, architecture, fork, clone, write, socket):
    monkeypatch.setattr("platform.machine", lambda: machine)
    program = build_filter()
    allow, denied, killed, no_such_call = 0x7FFF0000, 0x00050001, 0x80000000, 0x00050026

    def answer(number, argument=0, architecture=architecture):
        return interpret(program, architecture, number, argument)

    assert answer(write) == allow
    assert answer(socket) == denied
    assert fork is None or answer(fork) == denied
    assert answer(clone, 0x003D0F00) == allow  # the flags of pthread_create
    assert answer(clone, 17) == denied  # those of fork
    assert answer(435) == no_such_call  # clone3: the C library then takes clone
    assert answer(write, architecture=0x40000003) == killed  # a 32-bit program
    assert answer(0x40000000 + write) == killed


def test_a_machine_without_a_filter_is_refused(monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(ValueError, match="riscv64: code is graded on x86_64 and aarch64"):
        build_filter()
