"""The process inside the sandbox: it forks one child per program, and never sees a program itself.

`tiers.py` starts it in a Python that imports nothing of TinyZero but this package. A child reads
its program from a connection of its own, gives up the right to do anything but compute, and sends
one line for each call. Whatever a program does, it can only change its own child.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import ModuleType
from typing import Any, NoReturn

from tinyzero.grading.forks import fork_on_request
from tinyzero.grading.sandbox import landlock, seccomp
from tinyzero.grading.sandbox.values import canonical, parse_arguments

SET_PARENT_DEATH_SIGNAL, SET_DUMPABLE, SET_CHILD_SUBREAPER = 1, 4, 36  # of prctl
CAPABILITY_VERSION = 0x20080522
PRELOADED = (
    "bisect collections copy dataclasses datetime enum fractions functools heapq itertools math "
    "operator random re statistics string textwrap typing"
)
"""Modules that programs often import, and that are therefore loaded once."""

PYTHON_ITSELF = 100 << 20  # bytes of address space that Python takes before a program starts

FAILED = "!"
"""A line that begins with this says why there is no value."""


def main(tier: str, readable: Sequence[str]) -> NoReturn:
    """Close the sandbox around this process, say that it is ready, and run programs.

    The standard input is the socket to the process outside. Errors are written to the standard
    error before the sandbox is ready, and discarded afterwards.
    """
    with suppress(ValueError):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process outside
    control = socket.socket(fileno=os.dup(0))
    for name in PRELOADED.split():
        __import__(name)

    os.environ.clear()
    null_device = os.open(os.devnull, os.O_RDWR)
    program_filter = None
    adopted = _adopted_children()
    if sys.platform == "linux":
        _harden()
    if tier == "landlock":
        landlock.restrict(readable)
    if tier != "plain":
        _drop_capabilities()
        program_filter = seccomp.prepare()

    for descriptor in (0, 1, 2):
        os.dup2(null_device, descriptor)
    gc.freeze()  # a child then copies less memory

    def run_child(connection: socket.socket) -> NoReturn:
        try:
            _run_program(connection, program_filter)
        finally:
            os._exit(1)

    control.sendall(b"ready")
    try:
        fork_on_request(control, run_child, clean_up=adopted)
    finally:
        os._exit(0)


def _harden() -> None:
    """Die with the process outside, keep children from looking into this one, adopt orphans."""
    libc = ctypes.CDLL(None)
    libc.prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    libc.prctl(SET_DUMPABLE, 0, 0, 0, 0)
    libc.prctl(SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _drop_capabilities() -> None:
    """Give up root's special rights, which also works without being root.

    Raises OSError if the kernel refuses.
    """
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    no_capabilities = (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.capset(header, no_capabilities):
        raise OSError(ctypes.get_errno(), "cannot drop capabilities")


def _adopted_children() -> Callable[[], None]:
    """A function that kills the processes that a program left behind, as far as the system says.

    It is the second line of defence: in every tier but "plain", programs cannot start processes.
    """
    try:
        children = os.open(f"/proc/self/task/{os.getpid()}/children", os.O_RDONLY)
    except OSError:
        return lambda: None

    def kill_adopted() -> None:
        while pids := os.pread(children, 65_536, 0).split():
            for pid in map(int, pids):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                with suppress(ChildProcessError):
                    os.waitpid(pid, 0)

    return kill_adopted


def _run_program(connection: socket.socket, program_filter: Any) -> NoReturn:
    """The child: read a request, give up all rights, run the program, and report."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)

    with connection.makefile("rb") as request_file:
        request = json.loads(request_file.read())
    calls = [parse_arguments(call) for call in request["calls"]]

    output = os.dup2(connection.fileno(), 3)
    os.closerange(4, 1024)
    _set_limits(request["seconds"], request["memory"])
    if program_filter is not None:
        seccomp.install(program_filter)

    try:
        function = _define(request["source"], request["function"], output)
        for arguments in calls:
            _send(output, _call(function, arguments))
    finally:
        os._exit(0)  # nothing that the program registered may run


def _set_limits(seconds: float, memory: int) -> None:
    """Limit the CPU seconds, the bytes of memory on top of Python's own, and files."""
    allowed = memory + PYTHON_ITSELF
    with suppress(OSError, ValueError):  # macOS has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (allowed, allowed))

    whole_seconds = int(seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (whole_seconds, whole_seconds))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))


def _define(source: str, name: str, output: int) -> Callable[..., object]:
    """The function that a program defines. If it defines none, say why and end."""
    try:
        code = compile(source, "<program>", "exec", dont_inherit=True)
    except MemoryError:
        _fail(output, "memory", "the program does not fit into the memory")
    except BaseException as error:  # SyntaxError, ValueError and RecursionError are the usual ones
        _fail(output, "syntax", _brief(error))

    module = ModuleType("program")
    sys.modules["program"] = module
    try:
        exec(code, module.__dict__)
    except MemoryError:
        _fail(output, "memory", "the program takes too much memory")
    except BaseException as error:
        _fail(output, "raised", _brief(error))

    function = module.__dict__.get(name)
    if not callable(function):
        _fail(output, "missing", f"the program defines no function {name}")
    return function  # type: ignore[no-any-return]


def _call(function: Callable[..., object], arguments: tuple[object, ...]) -> str:
    """The line for one call: the text of its value, or why it is missing."""
    try:
        return canonical(function(*arguments))
    except MemoryError:
        return f"{FAILED}memory the call takes too much memory"
    except BaseException as error:
        return f"{FAILED}raised {_brief(error)}"


def _fail(output: int, kind: str, reason: str) -> NoReturn:
    _send(output, f"{FAILED}{kind} {reason}")
    os._exit(0)


def _send(output: int, line: str) -> None:
    """Send a line. Every text of a value is ASCII and has no line break."""
    data = line.encode("ascii", "backslashreplace").replace(b"\n", b" ") + b"\n"
    while data:
        data = data[os.write(output, data) :]


def _brief(error: BaseException) -> str:
    """What was raised, in at most 200 characters."""
    try:
        return f"{type(error).__name__}: {error}"[:200]
    except BaseException:
        return "an error whose text cannot be read"
