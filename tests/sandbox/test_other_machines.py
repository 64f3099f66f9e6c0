"""Grading programs on machines other than this one: where bubblewrap does not work, and the system call
filter of each."""

import os
import shutil
import stat
import struct

import pytest
from programs import LIMITS, SECRET, SUM, SUM_TESTS, attempt, block

from scalerl.sandbox.sandbox import WEAK, Limits, Sandbox
from scalerl.sandbox.seccomp import build_filter
from scalerl.tasks.task import Verdict
from scalerl.verify.pool import VerifierPool


@pytest.fixture
def weak(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    return Sandbox(Limits(cpu_s=1, memory_mb=256, allow_weak_sandbox=True))


def test_without_bubblewrap_code_is_refused_unless_allowed(monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        with pytest.raises(ValueError, match=r"bwrap is not installed.*allow_weak_sandbox=true"):
            VerifierPool(tasks=["code"], limits=LIMITS)
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(broken.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="may not make namespaces here"):
        Sandbox(LIMITS)


def test_the_weak_sandbox_says_what_is_missing_and_grades(monkeypatch, tmp_path, capfd):
    monkeypatch.setenv("PATH", str(tmp_path))
    with VerifierPool(tasks=["code"], limits=Limits(cpu_s=1, memory_mb=256, allow_weak_sandbox=True)) as pool:
        verdicts = [
            pool.submit(block(program), SUM_TESTS, "code").result(60) for program in (SUM, "print(3)")
        ]
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
            "fcntl.fcntl(0, fcntl.F_SETOWN, os.getppid())",
            "fcntl.ioctl(socket.socketpair()[0], 0x8901, struct.pack('i', os.getppid()))",
            "resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (0, 0))",
            "os.environ.get('SECRET')",
            "os.listdir('.')",
        )
    )
    assert outcome.output.decode().split() == ["PermissionError"] * 7 + ["None", "[]"]
    assert weak.run("while True: pass").status == "timeout"
    assert weak.run("x = bytearray(10 << 30)").status == "memory"
    assert weak.run("while True: print('x' * 10**6)").status == "crashed"


def test_nothing_is_left_of_a_scratch_folder(weak, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    nested = "import os\nfor _ in range(1500):\n    os.mkdir('a'); os.chdir('a')\nprint('done')"
    assert weak.run(nested).output == b"done\n"
    assert list(tmp_path.iterdir()) == []


def test_a_sandbox_that_breaks_is_an_error_and_no_verdict(bubblewrap, monkeypatch, tmp_path):
    """bwrap works for the checks of pool and server, and then no more."""
    (tmp_path / "count").write_text("0")
    wrapper = tmp_path / "bwrap"
    wrapper.write_text(
        f"#!/bin/sh\nread n < {tmp_path}/count\necho $((n+1)) > {tmp_path}/count\n"
        f'[ $n -lt 2 ] && exec {shutil.which("bwrap")} "$@"\necho no more namespaces >&2\nexit 1\n'
    )
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with VerifierPool(tasks=["code"], limits=LIMITS) as pool:
        future = pool.submit(block(SUM), SUM_TESTS, "code")
        with pytest.raises(RuntimeError, match="no more namespaces"):
            future.result(60)


# The system call filter


def interpret(program: bytes, architecture: int, number: int, *arguments: int) -> int:
    """What a classic BPF program answers to a system call of two arguments."""
    data = struct.pack("<IIQQQQQQQ", number, architecture, 0, *arguments, 0, 0, 0, 0)
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
        holds = {
            0x15: accumulator == operand,
            0x35: accumulator >= operand,
            0x45: bool(accumulator & operand),
        }[code]
        position += if_true if holds else if_false


@pytest.mark.parametrize(
    ("machine", "architecture", "fork", "clone", "write", "socket", "prlimit", "fcntl"),
    [("x86_64", 0xC000003E, 57, 56, 1, 41, 302, 72), ("aarch64", 0xC00000B7, None, 220, 64, 198, 261, 25)],
)
def test_the_filter_of_each_machine(
    monkeypatch, machine, architecture, fork, clone, write, socket, prlimit, fcntl
):
    monkeypatch.setattr("platform.machine", lambda: machine)
    program = build_filter()
    allow, denied, killed, no_such_call = 0x7FFF0000, 0x00050001, 0x80000000, 0x00050026

    def answer(number, first=0, second=0, architecture=architecture):
        return interpret(program, architecture, number, first, second)

    assert answer(write) == allow
    assert answer(socket) == denied
    assert fork is None or answer(fork) == denied
    assert answer(clone, 0x003D0F00) == allow  # the flags of pthread_create
    assert answer(clone, 17) == denied  # those of fork
    assert answer(prlimit) == allow and answer(prlimit, 7) == denied  # its own limits; those of process 7
    assert answer(fcntl, 3, 4) == allow and answer(fcntl, 3, 8) == denied  # F_SETFL; F_SETOWN
    assert answer(435) == no_such_call  # clone3: the C library then takes clone
    assert answer(write, architecture=0x40000003) == killed  # a 32-bit program
    assert answer(0x40000000 + write) == killed


def test_a_machine_without_a_filter_is_refused(monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(ValueError, match="riscv64: code is graded on x86_64 and aarch64"):
        build_filter()
