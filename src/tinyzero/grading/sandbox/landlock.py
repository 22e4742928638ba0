"""Landlock: Linux restricts what a process can reach among the files, without root or namespaces.

See https://docs.kernel.org/userspace-api/landlock.html. A restricted process and its children can
read the given paths and nothing else. The kernel must be 5.13 or newer. Newer kernels also deny TCP
(from 6.7) and signals to processes outside (from 6.12).
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # the same on every machine
ASK_FOR_VERSION, PATH_BENEATH = 1, 1
SET_NO_NEW_PRIVILEGES = 38

READ_FILE, READ_FOLDER = 1 << 2, 1 << 3
FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}  # how many rights each version knows
MOST_FILE_RIGHTS = 16  # from version 5
NETWORK_RIGHTS, NETWORK_SINCE = 0b11, 4  # bind and connect
SCOPES, SCOPES_SINCE = 0b11, 6  # abstract sockets and signals


def version() -> int:
    """The version of Landlock that the kernel supports, or 0 if it has none."""
    supported = _call(CREATE_RULESET, None, ctypes.c_size_t(0), ASK_FOR_VERSION)
    return max(0, supported)


def restrict(readable: Iterable[str]) -> None:
    """Let this process and its children read these files and folders, and do nothing else to files.

    Paths that do not exist are ignored. Raises OSError if the kernel refuses.
    """
    supported = version()
    if supported < 1:
        raise OSError("the kernel has no Landlock")

    rights = (1 << FILE_RIGHTS.get(supported, MOST_FILE_RIGHTS)) - 1
    attributes = struct.pack("=Q", rights)
    if supported >= NETWORK_SINCE:
        attributes += struct.pack("=Q", NETWORK_RIGHTS)
    if supported >= SCOPES_SINCE:
        attributes += struct.pack("=Q", SCOPES)

    ruleset = _call(CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0)
    _require(ruleset >= 0)
    for path in readable:
        _allow_reading(ruleset, path)

    _require(ctypes.CDLL(None).prctl(SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0) == 0)
    _require(_call(RESTRICT_SELF, ruleset, 0) == 0)
    os.close(ruleset)


def _allow_reading(ruleset: int, path: str) -> None:
    """Add the rule that a file, or everything below a folder, may be read."""
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return

    rights = READ_FILE | READ_FOLDER if os.path.isdir(path) else READ_FILE
    rule = struct.pack("=Qi", rights, descriptor)
    _require(_call(ADD_RULE, ruleset, PATH_BENEATH, rule, 0) == 0)
    os.close(descriptor)


def _call(*arguments: object) -> int:
    """Make a system call; a negative result means that `ctypes.get_errno()` says why."""
    return int(ctypes.CDLL(None, use_errno=True).syscall(*arguments))


def _require(succeeded: bool) -> None:
    if not succeeded:
        raise OSError(ctypes.get_errno(), f"Landlock: {os.strerror(ctypes.get_errno())}")
