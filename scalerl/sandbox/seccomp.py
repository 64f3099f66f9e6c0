"""The system calls a graded program may not make, as a seccomp filter.

It is one process, without network, and signals nobody. Namespaces hide the machine; this filter keeps what is
left small. Without it, memory could be taken where RLIMIT_AS does not count it (further processes, shared
memory, memory files), and a weak sandbox could kill whatever its user runs.
"""

import errno
import platform
import struct

CLONE_THREAD = 0x00010000
X32_SYSCALLS = 0x40000000
ALLOW, DENY, NOT_THERE, KILL = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS, 0x80000000
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # classic BPF
# Offsets in struct seccomp_data; ARGUMENTS: the low halves of the first two.
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, (16, 24)

AUDIT_ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
CLONE = {"x86_64": 56, "aarch64": 220}
CLONE3 = 435
PRLIMIT = {"x86_64": 302, "aarch64": 261}
FCNTL = {"x86_64": 72, "aarch64": 25}
IOCTL = {"x86_64": 16, "aarch64": 29}
SET_OWNER = (8, 15, 0x8901, 0x8902)
"""F_SETOWN, F_SETOWN_EX; FIOSETOWN, SIOCSPGRP: who gets the signals of a file, which may be any process."""
DENIED = {
    "fork": (57, None),
    "vfork": (58, None),
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424),
    "pidfd_open": (434, 434),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "socket": (41, 198),
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "io_uring_setup": (425, 425),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_by_handle_at": (304, 265),
}
"""The number of each call on x86_64 and on aarch64; None: it has none there."""


def build_filter() -> bytes:
    """Return the filter for this machine: the struct sock_filter array of `bwrap --seccomp` and prctl.

    A denied call fails with EPERM; threads stay allowed (clone with CLONE_THREAD), and so do a program's own
    limits.

    Raises:
        ValueError: a machine whose system call numbers are not known here.
    """
    machine = platform.machine()
    if machine not in AUDIT_ARCHITECTURE:
        raise ValueError(
            f"no system call filter for {machine}: code is graded on {' and '.join(AUDIT_ARCHITECTURE)}"
        )
    denied = [numbers[machine == "aarch64"] for numbers in DENIED.values()]
    program = [
        (LOAD, 0, 0, ARCHITECTURE),
        (EQUAL, 1, 0, AUDIT_ARCHITECTURE[machine]),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, NUMBER),
        (AT_LEAST, 0, 1, X32_SYSCALLS),
        (RETURN, 0, 0, KILL),
        # glibc then falls back to clone, whose flags a filter can read.
        *((EQUAL, 0, 1, CLONE3), (RETURN, 0, 0, NOT_THERE)),
        *(
            line
            for number in denied
            if number is not None
            for line in ((EQUAL, 0, 1, number), (RETURN, 0, 0, DENY))
        ),
        *_if(CLONE[machine], 0, (ANY_BIT, 1, 0, CLONE_THREAD)),
        *_if(PRLIMIT[machine], 0, (EQUAL, 1, 0, 0)),  # 0: of the caller itself
        *(
            line
            for call in (FCNTL, IOCTL)
            for value in SET_OWNER
            for line in _if(call[machine], 1, (EQUAL, 0, 1, value))
        ),
        (RETURN, 0, 0, ALLOW),
    ]
    return b"".join(struct.pack("HBBI", *line) for line in program)


def _if(number: int, argument: int, test: tuple[int, int, int, int]) -> list[tuple[int, int, int, int]]:
    """Return lines that deny a system call if `test` says so of an argument.

    `test` skips a line where it does not. The number of the call is loaded again afterwards.
    """
    return [
        *((EQUAL, 0, 3, number), (LOAD, 0, 0, ARGUMENTS[argument]), test, (RETURN, 0, 0, DENY)),
        (LOAD, 0, 0, NUMBER),
    ]
