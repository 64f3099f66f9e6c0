"""What hostile programs can do: each prints what stopped it, and the pool goes on. The sandbox is the real
one: it needs bwrap."""

import json
import os
import time
from dataclasses import replace

import psutil
import pytest
from programs import LIMITS, SECRET, SUM, SUM_TESTS, attempt, block, grade, prints

from scalerl.sandbox.sandbox import OUTPUT_BYTES, SCRATCH_BYTES, Limits, ProgramRun, Sandbox
from scalerl.tasks.code import Program, grade_code
from scalerl.tasks.task import Verdict
from scalerl.verify.pool import VerifierPool


@pytest.fixture(scope="module")
def pool(bubblewrap):
    os.environ["SECRET"] = SECRET
    with VerifierPool(num_workers=1, think_end="</think>", tasks=["code"], limits=LIMITS) as pool:
        yield pool
    del os.environ["SECRET"]


@pytest.fixture(scope="module")
def sandbox(bubblewrap):
    return Sandbox(LIMITS)


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
            attempt(
                "socket.socket()",
                "socket.socket(socket.AF_UNIX)",
                "socket.create_connection(('127.0.0.1', 22), 1)",
            ),
            "PermissionError\n" * 3,
            id="socket",
        ),
        pytest.param(
            attempt(
                "os.kill(os.getppid(), 9)",
                "os.kill(-1, 9)",
                "os.kill(1, 9)",
                "os.killpg(0, 9)",
                "os.kill(-os.getpgrp(), 9)",
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
                "ctypes.CDLL(None).syscall("
                "56 if os.uname().machine == 'x86_64' else 220, signal.SIGCHLD, 0, 0, 0, 0)",
            ),
            # 32512: the shell was not started
            "PermissionError\nPermissionError\nPermissionError\n32512\n-1\n",
            id="starting processes",
        ),
        pytest.param(
            "import os\nif os.name == 'posix':\n    try:\n        if os.fork() == 0:\n"
            "            os.setsid()\n            os.fork()\n"
            "            while True: pass\n    except PermissionError:\n        print('no daemon')",
            "no daemon",
            id="daemon",
        ),
        pytest.param(
            attempt(
                *("mmap.mmap(-1, 10 << 30)", "os.memfd_create('x')"),
                *(
                    "ctypes.CDLL(None).shmget(0, 10 << 30, 0o1600)",
                    "ctypes.CDLL(None).semget(0, 32000, 0o1600)",
                ),
            ),
            "OSError\nPermissionError\n-1\n-1\n",
            id="memory elsewhere",
        ),
        pytest.param(
            attempt(
                *(
                    f"resource.setrlimit(resource.{name}, (-1, -1))"
                    for name in ("RLIMIT_AS", "RLIMIT_CPU", "RLIMIT_FSIZE")
                ),
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
        pytest.param(
            "x = []\nwhile True: x.append('x' * 10**6 + str(len(x)))", {"memory"}, id="10 GB in pieces"
        ),
        pytest.param("while True: print('x' * 10**6)", {"crashed"}, id="flooding stdout"),
        pytest.param(
            "try:\n    while True: print('x' * 10**6, flush=True)\n"
            "except OSError:\n    __import__('os')._exit(0)",
            {"wrong_output"},
            id="flooding stdout and calling it a success",
        ),
        pytest.param(
            "import sys\nwhile True: print('x' * 10**6, file=sys.stderr)", {"crashed"}, id="flooding stderr"
        ),
        pytest.param("def f(): f()\nf()", {"crashed"}, id="deep recursion"),
        pytest.param(
            "import sys\nsys.setrecursionlimit(10**9)\ndef f(): f()\nf()",
            {"timeout", "memory", "crashed"},
            id="deeper recursion",
        ),
        pytest.param("import ctypes\nctypes.string_at(0)", {"crashed"}, id="segmentation fault"),
        pytest.param(
            "print(" + "(" * 10**5 + "3" + ")" * 10**5 + ")", {"crashed", "memory"}, id="deep syntax"
        ),
        pytest.param("import sys\nsys.exit(0)", {"wrong_output"}, id="exit before the answer"),
        pytest.param("import sys\nprint(3)\nsys.exit(1)", {"crashed"}, id="exit code after the answer"),
        pytest.param("import os\nos._exit(86)", {"memory"}, id="forged exit code"),
        pytest.param(
            "import builtins, json\nclass Same(str):\n    def __eq__(self, other): return True\n"
            "    __hash__ = str.__hash__\n"
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
    monkeypatch.setattr(sandbox, "wall_s", 4.0)
    begin_s = time.monotonic()
    assert sandbox.run("import time; print(3, flush=True); time.sleep(99)") == ProgramRun(status="timeout")
    left_behind = (
        "import threading, time; threading.Thread(target=time.sleep, args=(99,)).start(); "
        "print(3, flush=True)"
    )
    assert sandbox.run(left_behind) == ProgramRun(status="timeout")
    assert time.monotonic() - begin_s < 2 * sandbox.wall_s + 5
    assert not [child for child in psutil.Process().children(recursive=True) if "bwrap" in child.name()]


def test_scratch_and_output_are_bounded(bubblewrap):
    sandbox = Sandbox(replace(LIMITS, cpu_s=10))
    fill = (
        "total = 0\ntry:\n    for number in range(99):\n        with open(str(number), 'wb', 0) as file:\n"
        "            while True:\n                try:\n"
        "                    total += file.write(bytes(1 << 20))\n"
        "                except OSError as error:\n"
        "                    if error.errno == 28: raise\n                    break\n"
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


def test_the_expected_output_is_nowhere_to_be_found(bubblewrap):
    sandbox = Sandbox(Limits(cpu_s=10, memory_mb=256))  # it reads all of its memory
    found = json.dumps([{"input": SECRET, "output": SECRET}])
    hidden = json.dumps([{"input": "", "output": SECRET}])
    assert grade_code(Program(SEARCH), found, sandbox) == Verdict(
        True, "passed"
    )  # it does find what is there
    assert grade_code(Program(SEARCH), hidden, sandbox) == Verdict(False, "wrong_output")


def test_nothing_is_left_of_a_pool_that_is_closed_while_programs_run(bubblewrap):
    pool = VerifierPool(num_workers=2, tasks=["code"], limits=LIMITS)
    futures = [pool.submit(block("import time; time.sleep(99)"), prints("3"), "code") for _ in range(3)]
    server = psutil.Process(pool._process.pid)
    deadline_s = time.monotonic() + 30
    while (
        sum(child.name() == "bwrap" for child in server.children(recursive=True)) < 4
    ):  # two each: outside and inside
        assert time.monotonic() < deadline_s, "waited 30 s for two sandboxes"
        time.sleep(0.02)
    processes = [server, *server.children(recursive=True)]
    pool.close()
    _, alive = psutil.wait_procs(processes, timeout=60)
    assert alive == []
    for future in futures:
        with pytest.raises(RuntimeError, match="closed"):
            future.result(1)
