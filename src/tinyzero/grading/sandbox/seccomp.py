"""The list of system calls that a program in the sandbox may make; Linux refuses all others.

A program can compute, read files, and write to what is already open. It cannot start processes or
threads, open a file for writing, use the network, send signals, or change its rights. The filter is
a small program for the kernel (classic BPF, see `man 2 seccomp`), so no library is needed.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct

MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""For each machine: its column in CALLS, and the kernel's number for it (AUDIT_ARCH)."""

CALLS: dict[str, tuple[int | None, int | None]] = {
    # reading files
    "read": (0, 63),
    "pread64": (17, 67),
    "lseek": (8, 62),
    "close": (3, 57),
    "stat": (4, None),
    "lstat": (6, None),
    "fstat": (5, 80),
    "newfstatat": (262, 79),
    "getdents": (78, None),
    "getdents64": (217, 61),
    "readlink": (89, None),
    "readlinkat": (267, 78),
    "getcwd": (79, 17),
    # writing to what is open: the connection to the process outside, and /dev/null
    "write": (1, 64),
    # memory
    "brk": (12, 214),
    "mmap": (9, 222),
    "munmap": (11, 215),
    "mprotect": (10, 226),
    "mremap": (25, 216),
    "madvise": (28, 233),
    # its own signals and waiting
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    "restart_syscall": (219, 128),
    "futex": (202, 98),
    "sched_yield": (24, 124),
    "nanosleep": (35, 101),
    "clock_nanosleep": (230, 115),
    # time and randomness
    "time": (201, None),
    "gettimeofday": (96, 169),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "times": (100, 153),
    "getrusage": (98, 165),
    "getrandom": (318, 278),
    # who it is
    "uname": (63, 160),
    "getpid": (39, 172),
    "getppid": (110, 173),
    "gettid": (186, 178),
    "getuid": (102, 174),
    "geteuid": (107, 175),
    "getgid": (104, 176),
    "getegid": (108, 177),
    # the end
    "exit": (60, 93),
    "exit_group": (231, 94),
}
"""The system calls that are allowed, with their numbers on x86-64 and on aarch64."""

OPENING: dict[str, tuple[int | None, int | None]] = {"openat": (257, 56), "open": (2, None)}
"""The system calls that are allowed if they open a file only for reading."""

FLAGS_OF = {"openat": 2, "open": 1}  # which argument holds the flags
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

# classic BPF
LOAD, EQUAL, ANY_BIT, AT_LEAST, RETURN = 0x20, 0x15, 0x45, 0x35, 0x06
NUMBER_AT, MACHINE_AT, ARGUMENTS_AT = 0, 4, 16  # offsets in struct seccomp_data
X32 = 0x40000000  # numbers from here on are another ABI of x86-64
ALLOW, KILL, REFUSE = 0x7FFF0000, 0x80000000, 0x00050000 | 1  # 1 is EPERM

SET_NO_NEW_PRIVILEGES, SET_SECCOMP, FILTER = 38, 22, 2


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]


def is_supported() -> bool:
    """Whether the numbers of this machine's system calls are known."""
    return platform.system() == "Linux" and platform.machine() in MACHINES


def build_filter(machine: str) -> bytes:
    """The filter for a machine, "x86_64" or "aarch64", as instructions of classic BPF."""
    column, audit_number = MACHINES[machine]
    instructions = [
        (LOAD, 0, 0, MACHINE_AT),
        (EQUAL, 1, 0, audit_number),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, NUMBER_AT),
        (AT_LEAST, 0, 1, X32),
        (RETURN, 0, 0, KILL),
    ]
    for numbers in CALLS.values():
        if (number := numbers[column]) is not None:
            instructions += [(EQUAL, 0, 1, number), (RETURN, 0, 0, ALLOW)]

    for name, numbers in OPENING.items():
        if (number := numbers[column]) is not None:
            instructions += [
                (EQUAL, 0, 4, number),
                (LOAD, 0, 0, ARGUMENTS_AT + 8 * FLAGS_OF[name]),
                (ANY_BIT, 0, 1, WRITING),
                (RETURN, 0, 0, REFUSE),
                (RETURN, 0, 0, ALLOW),
            ]

    instructions.append((RETURN, 0, 0, REFUSE))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)


def prepare() -> _Program:
    """The filter for this machine, ready for `install`."""
    instructions = build_filter(platform.machine())
    return _Program(len(instructions) // 8, instructions)


def install(program: _Program) -> None:
    """Let the kernel apply the filter to this process from now on. It cannot be removed.

    Raises OSError if the kernel does not support it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "no_new_privs")
    if libc.prctl(SET_SECCOMP, FILTER, ctypes.byref(program), 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")
