"""What a reward does besides computing: an audit hook sees files, processes, networks and code.

Python calls an audit hook whenever something opens a file, starts a process, connects, or compiles
text. A hook cannot be removed, so it is set only in a worker process that ends with the check.
"""

from __future__ import annotations

import ast
import os
import sys
import sysconfig
from typing import Any, NamedTuple

MARKER = "740231957"
"""A number that is in no problem: if it is compiled, the text of the answer was compiled."""

KINDS = {
    "open": "files",
    "os.remove": "files",
    "os.rename": "files",
    "os.rmdir": "files",
    "os.mkdir": "files",
    "os.link": "files",
    "os.symlink": "files",
    "os.truncate": "files",
    "os.chmod": "files",
    "subprocess.Popen": "processes",
    "os.system": "processes",
    "os.exec": "processes",
    "os.posix_spawn": "processes",
    "os.spawn": "processes",
    "os.fork": "processes",
    "os.forkpty": "processes",
    "os.startfile": "processes",
    "os.kill": "processes",
    "socket.connect": "network",
    "socket.bind": "network",
    "socket.sendto": "network",
    "socket.getaddrinfo": "network",
    "socket.gethostbyname": "network",
    "ctypes.dlopen": "native code",
    "ctypes.call_function": "native code",
    "ctypes.string_at": "native code",
    "compile": "code",
    "exec": "code",
}

LONGEST = 100_000  # characters of an event that are searched for the answer
QUIET = ("/dev/", "/proc/", "/sys/")  # reading here changes nothing and holds no answers
STANDARD = sysconfig.get_path("stdlib")


class Act(NamedTuple):
    """Something that a reward did. `kind` is "code", "files", "processes", "network" or "native code"."""

    kind: str
    event: str
    detail: str
    place: str
    """The file and the line that did it."""
    uses_text: bool
    """Whether the answer's own text is in it."""


class Watch:
    """Records the acts of one reward at a time: `begin(text)`, the reward, then `end()`."""

    def __init__(self) -> None:
        self._text: str | None = None
        self._acts: list[Act] = []
        self._is_looking = False
        sys.addaudithook(self._hear)

    def begin(self, text: str) -> None:
        """From now on, acts count."""
        self._acts = []
        self._text = text

    def end(self) -> list[Act]:
        """The acts since `begin`; from now on none counts."""
        self._text = None
        return self._acts

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._text is None or self._is_looking or event not in KINDS:
            return
        self._is_looking = True
        try:
            act = _act(event, arguments, self._text)
        finally:
            self._is_looking = False
        if act is None or len(self._acts) > 20:
            return
        self._acts.append(act)
        if act.uses_text and act.kind != "code" and not _only_reads(event, arguments):
            raise PermissionError(f"check-task does not let a text of its own reach {event}")


def _act(event: str, arguments: tuple[Any, ...], text: str) -> Act | None:
    """What happened, or None if it is harmless."""
    kind = KINDS[event]
    said = _said(event, arguments)
    uses_text = _uses(said, text, at_least=2 if kind == "code" else 1)
    if kind == "code" and not uses_text:  # dataclasses and named tuples are compiled too
        return None
    if event == "open" and not uses_text and _is_ordinary(arguments):
        return None
    frame = sys._getframe(2)  # who did it: below are this function and the hook
    if frame.f_code.co_filename == ast.__file__ or _is_importing(frame):
        return None
    while frame.f_back and frame.f_code.co_filename.startswith(STANDARD + os.sep):
        if "site-packages" in frame.f_code.co_filename:
            break
        frame = frame.f_back
    place = f"{os.path.basename(frame.f_code.co_filename)}, line {frame.f_lineno}"
    return Act(kind, event, said[:200], place, uses_text)


def _said(event: str, arguments: tuple[Any, ...]) -> str:
    """The words in an event's arguments: a path, a command, or source code."""
    if event == "exec":
        code = arguments[0]
        return " ".join(map(str, (*code.co_consts, *code.co_names)))[:LONGEST]
    kept = arguments[:1] if event in ("open", "compile") else arguments
    words = [one.decode(errors="replace") if isinstance(one, bytes) else str(one) for one in kept]
    return " ".join(words)[:LONGEST]


def _uses(said: str, text: str, at_least: int) -> bool:
    said = said.strip()
    return MARKER in said or (len(said) >= at_least and said in text)


def _is_ordinary(arguments: tuple[Any, ...]) -> bool:
    """Whether opening this is no news: Python's own sources, a descriptor, or a device."""
    path = arguments[0]
    if isinstance(path, int):
        return True
    name = os.fsdecode(path) if isinstance(path, (str, bytes, os.PathLike)) else str(path)
    return name.startswith(QUIET) or (name.endswith((".py", ".pyc")) and _reads(arguments))


def _only_reads(event: str, arguments: tuple[Any, ...]) -> bool:
    return event == "open" and _reads(arguments)


def _reads(arguments: tuple[Any, ...]) -> bool:
    """Whether a file is opened only to be read: by its mode, or by its flags if it has none."""
    mode, flags = (*arguments, None, None)[1:3]
    if isinstance(mode, str):
        return not set(mode) & set("wax+")
    writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT
    return not (isinstance(flags, int) and flags & writes)


def _is_importing(frame: Any) -> bool:
    while frame:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
