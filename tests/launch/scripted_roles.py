"""Roles that run a few lines of a test in place of the engines."""

import os
import subprocess
import sys
import time

from scalerl.paths import RunPaths

REAL_PYTHON = sys.executable
FAKE_ROLE = """
import json, os, pathlib, signal, sys, time
arguments = dict(zip(sys.argv[5::2], sys.argv[6::2]))
role, folder = sys.argv[4], pathlib.Path(arguments["--dir"])
index, attempt = int(arguments.get("--index", 0)), int(arguments["--attempt"])
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
def write(path, text):
    path.with_suffix(f".{os.getpid()}").write_text(text)
    path.with_suffix(f".{os.getpid()}").rename(path)
def post(kind, step, **values):
    text = json.dumps(dict(kind=kind, step=step, attempt=attempt, time_s=time.time(), **values))
    write(folder / "inbox" / f"{kind}-{step:08d}.json", text)
def end(exhausted=False):
    (folder / "end.json").write_text(json.dumps(dict(attempt=attempt, step=0, exhausted=exhausted)))
    sys.exit(0)
def step_row(step, **values):
    measured = dict(reward=0.0, pass_rate=0.5, generated_tokens=step * 10, off_policyness_mean=1.0)
    post("step", step, **(measured | values))
"""


def processes_of(paths: RunPaths) -> list[str]:
    found = subprocess.run(["pgrep", "-f", str(paths.root)], capture_output=True, text=True).stdout.split()
    return [pid for pid in found if int(pid) != os.getpid()]


def wait_until(condition, what: str, deadline_s: float = 30.0) -> None:
    end_s = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end_s, f"waited {deadline_s} s for {what}"
        time.sleep(0.02)
