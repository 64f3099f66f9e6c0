"""Role processes: their group, their log, their device time, and that none outlives its parent."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scalerl.launch import processes
from scalerl.launch.local import local_layout, visible_gpus
from scalerl.launch.processes import Deaths, RoleProcess, free_port
from scalerl.metrics.ledger import ComputeLedger
from scalerl.paths import RunPaths
from scalerl.settings import load_config


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition, what: str, deadline_s: float = 20.0) -> None:
    end_s = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end_s, f"waited {deadline_s} s for {what}"
        time.sleep(0.02)


@pytest.fixture
def start_role(tmp_path, monkeypatch):
    """Start a role whose interpreter is replaced by a shell script."""
    paths = RunPaths(tmp_path / "run")
    paths.create()
    ledger = ComputeLedger(paths)

    def start(script: str, **fields) -> RoleProcess:
        executable = tmp_path / "interpreter"
        executable.write_text(f"#!/bin/bash\n{script}\n")
        executable.chmod(0o755)
        monkeypatch.setattr(processes.sys, "executable", str(executable))
        process = RoleProcess(name="generator-0", arguments=["generator"], **fields)
        process.start(paths, 1, ledger)
        process.ledger = ledger
        return process

    return start


def test_a_dead_role_takes_its_children_along(start_role, tmp_path):
    process = start_role(f"sleep 300 & echo $! > {tmp_path}/child; exit 7")
    wait_until(lambda: not process.running or process.poll() is not None, "the end of the role")
    child = int((tmp_path / "child").read_text())
    wait_until(lambda: not running(child), "the end of its child")
    assert not process.running


def test_stop_kills_what_ignores_sigterm(start_role, tmp_path):
    deaf = "trap '' TERM; sleep 300 & echo $!"
    process = start_role(f"{deaf} > {tmp_path}/child; touch {tmp_path}/ready; while true; do sleep 0.1; done")
    wait_until(lambda: (tmp_path / "ready").exists(), "the role to start")
    pid = process.pid
    process.stop(deadline_s=0.3)
    assert not process.running
    assert not running(pid)
    wait_until(lambda: not running(int((tmp_path / "child").read_text())), "the end of its child")


def test_exit_code_last_error_and_device_time(start_role):
    process = start_role("echo fine; echo 'ValueError: model.path is wrong'; echo bye; exit 3", num_devices=2)
    code = None
    end_s = time.monotonic() + 20
    while code is None and time.monotonic() < end_s:
        code = process.poll()
    assert code == 3
    assert process.last_error() == "ValueError: model.path is wrong"
    hours = process.ledger.gpu_hours()
    time.sleep(0.05)
    assert process.ledger.gpu_hours() == hours  # its clock stands still
    assert 0 < hours.generator * 3600 / 2 < 20


def test_role_sees_its_gpus_and_no_network(start_role):
    script = "echo $CUDA_VISIBLE_DEVICES $HF_HUB_OFFLINE $OMP_NUM_THREADS; exit 0"
    process = start_role(script, environment={"CUDA_VISIBLE_DEVICES": "4,5"})
    wait_until(lambda: process.poll() == 0, "the role to end")
    assert process.log.read_text().split()[:2] == ["4,5", "1"]


def test_a_role_dies_with_its_parent(tmp_path):
    child = f"""
import os, sys, time
from scalerl.common.os_process import die_with_parent
die_with_parent(int(sys.argv[1]))
open({str(tmp_path / "pid")!r}, "w").write(str(os.getpid()))
time.sleep(300)
"""
    parent = f"""
import os, subprocess, sys, time
subprocess.Popen([sys.executable, "-c", {child!r}, str(os.getpid())])
time.sleep(300)
"""
    process = subprocess.Popen([sys.executable, "-c", parent])
    wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), "the child to start")
    pid = int((tmp_path / "pid").read_text())
    assert running(pid)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    wait_until(lambda: not running(pid), "the child to die with its parent")


def test_devices_are_disjoint_and_counted(monkeypatch):
    config = load_config(
        [], ["trainer.num_ranks=2", "generator.num=2", "evaluation.num=2", "generator.tensor_parallel_size=2"]
    )
    layout = local_layout(config, [str(index) for index in range(10)])
    visible = {process.name: process.environment["CUDA_VISIBLE_DEVICES"] for process in layout.processes}
    engines = {"generator-0": "2,3", "generator-1": "4,5", "evaluator-0": "6,7", "evaluator-1": "8,9"}
    assert visible == {"trainer-0": "0", "trainer-1": "1"} | engines
    assert [process.num_devices for process in layout.processes] == [1, 1, 2, 2, 2, 2]
    with pytest.raises(ValueError, match=r"evaluation\.num=2 .*need 10 GPUs, this machine offers 9"):
        local_layout(config, ["0"] * 9)
    on_cpu = local_layout(config, []).processes
    assert all(
        "CUDA_VISIBLE_DEVICES" not in process.environment and process.num_devices == 1 for process in on_cpu
    )
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert visible_gpus() == ["3", "5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []


def test_the_rendezvous_gets_a_free_port_that_no_connection_is_given(monkeypatch):
    with socket.socket() as taken:
        port = free_port()
        assert port < int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
        taken.bind(("", port))
        taken.listen()
        monkeypatch.setattr(processes, "PORTS", range(port, port + 1))
        with pytest.raises(RuntimeError, match=f"no TCP port of {port} to {port} is free"):
            free_port()


def test_an_error_that_comes_again_is_counted_and_told_no_more(tmp_path):
    def process(name: str, error: str) -> RoleProcess:
        log = tmp_path / f"{name}.log"
        log.write_text(f"Traceback\n{error}\n")
        return RoleProcess(name=name, arguments=[name.partition("-")[0]], log=log)

    deaths = Deaths()
    long = "RuntimeError: CUDA out of memory" + " of this and that" * 30
    first, second = process("generator-0", long), process("generator-1", long)
    cause, told = deaths.count(first, 1)
    assert told == cause == f"generator-0 died with exit code 1 ({long[:150]}...); log: {first.log}"
    cause, told = deaths.count(second, 1)
    assert cause == f"generator-1 died with exit code 1 ({long[:150]}...); log: {second.log}"
    assert told == f"generator-1 died of the same error again (2 times); log: {second.log}"
    assert "again (3 times)" in deaths.count(first, 1)[1]
    assert (first.num_deaths, second.num_deaths) == (2, 1)
    # another error, and the same error of another role, are news
    assert "ValueError: shapes" in deaths.count(process("generator-0", "ValueError: shapes"), 1)[1]
    assert "CUDA out of memory" in deaths.count(process("trainer-0", long), None)[1]
