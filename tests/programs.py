"""Programs to be graded, and the tests they are held against."""

import json

from scalerl.sandbox.sandbox import Limits
from scalerl.tasks.task import Verdict
from scalerl.verify.pool import VerifierPool

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
        "import ctypes, fcntl, mmap, os, resource, signal, socket, struct, subprocess, sys\n"
        "def attempt(action):\n"
        "    try:\n"
        "        print(action())\n"
        "    except Exception as error:\n"
        "        print(type(error).__name__)\n"
    )
    return head + "".join(f"attempt(lambda: {line})\n" for line in lines)


def grade(pool: VerifierPool, program: str, tests: str) -> Verdict:
    return pool.submit(block(program), tests, "code").result(60)
