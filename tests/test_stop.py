"""SIGTERM before and during the loop of a role."""

import signal
import subprocess
import sys

import pytest

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
