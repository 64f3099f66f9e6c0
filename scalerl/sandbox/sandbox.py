"""Runs one program on one input where it can do no harm.

bubblewrap's namespaces, the kernel's limits and a filter of system calls keep it in:

| a program has       | with bubblewrap                          | weak (no bubblewrap)                  |
|---------------------|------------------------------------------|---------------------------------------|
| files               | Python and system libraries, read-only;  | WHATEVER ITS USER HAS, read and write |
|                     | an empty scratch folder, in memory       | (starts in an empty scratch folder)   |
| environment         | empty                                    | empty                                 |
| other processes     | sees none, signals none, starts none     | signals none, starts none             |
| network             | none, no loopback; sockets only in pairs | sockets only in pairs, within it      |
| CPU, memory, output | limits, for each input                   | the same                              |
| the expected output | is never in its reach                    | in the memory of the user's process   |
| threads             | 64 (root: only what memory allows)       | only what memory allows               |
"""

import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from marshal import dumps
from pathlib import Path
from typing import IO, Any, Literal

from scalerl.common.os_process import die_with_parent
from scalerl.sandbox.seccomp import build_filter

Status = Literal["done", "timeout", "memory", "crashed"]

WALL_PER_CPU = 4.0
"""Wall time allowed per CPU time, here and in the verifier pool: the backstop for what waits instead of
computing. A busy machine must not fail a right program."""
START_S = 10.0
"""Wall time allowed on top, to start Python on a busy machine."""
OUTPUT_BYTES = 16 << 20
"""The size of a file, standard output included."""
SCRATCH_BYTES = 64 << 20
STACK_BYTES = 100 << 20
"""The C stack of the main thread, which grows into it: recursion through C functions, such as that of a
function with lru_cache, takes about 500 bytes a level. The kernel leaves 128 MiB of room below any stack."""
THREADS = 64
MEMORY_EXIT = 86
"""The exit code of a program that ran out of memory."""
INSIDE = Path(__file__).with_name("inside.py").read_text()
LIBRARIES = ("/usr/lib", "/usr/lib64", "/lib", "/lib64")
WEAK = (
    "WEAK SANDBOX: bubblewrap (bwrap) does not work here, so programs written by the model can read and "
    "write every file that this user can, outside of their scratch folder. Still there: limits of time, "
    "memory and output, an empty environment, no further processes, no signals, no network."
)
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 22, 38, 2


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one program may use on one input."""

    cpu_s: int = 6
    """The CPU time."""
    memory_mb: int = 1024
    """The address space, in MiB."""
    allow_weak_sandbox: bool = False
    """Grade without bubblewrap where it does not work."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProgramRun:
    """One run of a program: how it ended, and what it left."""

    status: Status
    """timeout and memory: it ran into its limits; crashed: an exception, a signal or an exit code other than
    0."""
    output: bytes = b""
    """Its stdout, or the JSON of the result of its function; kept if "done"."""


class Sandbox:
    """Runs programs, one after the other, each in a sandbox of its own."""

    def __init__(self, limits: Limits) -> None:
        """Find out whether bubblewrap works here.

        Raises:
            ValueError: bubblewrap is not there or does not work here, and the limits do not allow the weak
                sandbox.
        """
        self._limits = limits
        self.wall_s = WALL_PER_CPU * limits.cpu_s + START_S
        """The longest that one input may take, in seconds."""
        self._filter = build_filter()
        self.bwrap = shutil.which("bwrap")
        """The path of bubblewrap; None: this is the weak sandbox."""
        if self.bwrap is not None and self._works():
            return
        if not limits.allow_weak_sandbox:
            raise ValueError(
                "code is graded inside bubblewrap, and bwrap is not installed, or may not make namespaces "
                "here (try: bwrap --unshare-all --ro-bind / / true); install and allow it, or set "
                "generator.allow_weak_sandbox=true, with which programs written by the model reach every "
                "file that this user can"
            )
        self.bwrap = None
        if not self._works():
            raise ValueError(
                "no program runs in the weak sandbox: this kernel refuses its system call filter or its "
                "limits"
            )

    def run(
        self, program: str, stdin: bytes = b"", *, fn_name: str = "", arguments: Sequence[Any] = ()
    ) -> ProgramRun:
        """Run Python source on `stdin`, or call its function `fn_name` with `arguments`.

        Raises:
            RuntimeError: the sandbox itself failed, before the program was started.
        """
        task = {
            "program": program,
            "fn_name": fn_name,
            "arguments": list(arguments),
            "limits": self._kernel_limits(),
            "memory_exit": MEMORY_EXIT,
        }
        with ExitStack() as stack:
            contents = (dumps(task), stdin, b"", b"")
            given, test, output, errors = (stack.enter_context(_memory_file(content)) for content in contents)
            weak = self.bwrap is None  # bwrap makes the scratch folder itself, in memory
            folder = stack.enter_context(_scratch_folder()) if weak else "/"
            status = self._run(given, test, output, errors, folder)
            if os.fstat(given.fileno()).st_size:  # inside.py empties it, then starts the program
                message = _content(errors).decode(errors="replace").strip()
                raise RuntimeError(
                    f"the sandbox ({self.bwrap or 'weak'}) failed before it started a program ({status}): "
                    f"{message}"
                )
            return ProgramRun(status=status, output=_content(output) if status == "done" else b"")

    def _works(self) -> bool:
        try:
            return self.run("print(input())", b"works") == ProgramRun(status="done", output=b"works\n")
        except RuntimeError:
            return False

    def _kernel_limits(self) -> dict[str, int]:
        limits = {
            "RLIMIT_CPU": self._limits.cpu_s,
            "RLIMIT_AS": self._limits.memory_mb << 20,
            "RLIMIT_STACK": STACK_BYTES,
            "RLIMIT_FSIZE": OUTPUT_BYTES,
            "RLIMIT_NOFILE": 32,
            "RLIMIT_CORE": 0,
        }
        # Without a user namespace of its own it would count everything that this user runs.
        return limits if self.bwrap is None else limits | {"RLIMIT_NPROC": THREADS}

    def _run(
        self, task: IO[bytes], stdin: IO[bytes], stdout: IO[bytes], stderr: IO[bytes], folder: str
    ) -> Status:
        with _memory_file(self._filter) as filter_file:
            descriptors = [task.fileno(), filter_file.fileno()]
            process = subprocess.Popen(
                self._command(*descriptors),
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                env={},
                cwd=folder,
                pass_fds=descriptors,
                start_new_session=True,
                preexec_fn=_confine(self._filter, os.getpid()) if self.bwrap is None else None,
            )
        try:
            ended = _wait(process, self.wall_s)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            code = process.wait()
        return _status(code) if ended else "timeout"

    def _command(self, task: int, filter_: int) -> list[str]:
        python = os.path.realpath(sys.executable)
        run = [python, "-I", "-S", "-X", "utf8", "-c", INSIDE, str(task)]
        if self.bwrap is None:
            return run
        library = str(Path(python).parents[1] / "lib")
        visible = [word for path in (python, library, *LIBRARIES) for word in ("--ro-bind-try", path, path)]
        return [
            *(self.bwrap, "--unshare-all", "--die-with-parent", "--cap-drop", "ALL", "--clearenv"),
            *visible,
            *(
                "--size",
                str(SCRATCH_BYTES),
                "--tmpfs",
                "/scratch",
                "--chdir",
                "/scratch",
                "--remount-ro",
                "/",
            ),
            *("--seccomp", str(filter_), "--"),
            *run,
        ]


def _memory_file(content: bytes) -> IO[bytes]:
    """Return a file in memory, in no file system, at its beginning; the caller closes it."""
    # not in a `with` of its own, which would close it here
    file = open(os.memfd_create("scalerl"), "w+b")  # noqa: SIM115
    file.write(content)
    file.seek(0)
    return file


@contextmanager
def _scratch_folder() -> Iterator[str]:
    """Make a folder, removed afterwards by rm, whatever was made in it: shutil recurses, and fails where
    folders are nested deep."""
    folder = tempfile.mkdtemp(prefix="scalerl-code-")
    try:
        yield folder
    finally:
        subprocess.run(["/bin/rm", "-rf", "--", folder], check=False)


def _content(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read()


def _wait(process: subprocess.Popen, deadline_s: float) -> bool:
    """Say whether the process ended in time. Popen.wait would notice up to 50 ms late."""
    descriptor = os.pidfd_open(process.pid)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(deadline_s * 1000))
    finally:
        os.close(descriptor)


def _status(code: int) -> Status:
    """Return how a program ended: bwrap exits with 128 + N where it died of signal N, else the code is -N."""
    number = -code if code < 0 else code - 128
    if number in (signal.SIGXCPU, signal.SIGKILL):
        return "timeout"
    if code == MEMORY_EXIT:
        return "memory"
    return "done" if code == 0 else "crashed"


def _confine(filter_: bytes, parent_pid: int) -> Callable[[], None]:
    """Return a function that does what bwrap would do, as far as it goes without: to be called in the new
    process, before Python starts in it."""
    library = ctypes.CDLL(None, use_errno=True)
    text = ctypes.create_string_buffer(filter_, len(filter_))

    class FilterProgram(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))

    program = FilterProgram(len(filter_) // 8, ctypes.addressof(text))

    def confine() -> None:
        die_with_parent(parent_pid)
        library.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        if library.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0):
            raise OSError(ctypes.get_errno(), "the system call filter was refused")
        assert text is not None

    return confine
