"""The side effects of a reward: an audit hook sees files, processes, networks and code.

Python calls an audit hook whenever something opens a file, starts a process, connects, or compiles
text. A hook cannot be removed, so it is only set in a worker process that ends with the check.
"""

from __future__ import annotations

import ast
import os
import sys
import sysconfig
from typing import Any, NamedTuple

MARKER = "740231957"
"""A number that is in no problem. If it is compiled, the text of the answer was compiled."""

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
"""The kind of side effect of each audit event that counts."""

LONGEST = 100_000  # characters of an event that are compared with the answer
MOST_EFFECTS = 20  # recorded for one reward
QUIET = ("/dev/", "/proc/", "/sys/")  # reading here changes nothing, and no answers are there
STANDARD_LIBRARY = sysconfig.get_path("stdlib")


class SideEffect(NamedTuple):
    """Something that a reward did apart from computing.

    Example: `SideEffect("files", "open", "answers.txt", "my_task.py, line 12", uses_text=False)`.
    """

    kind: str
    """One of "code", "files", "processes", "network" and "native code"."""
    event: str
    """The name of Python's audit event."""
    detail: str
    """A path, a command, an address, or source code."""
    location: str
    """The file and the line that caused it."""
    uses_text: bool
    """Whether the detail contains the text of the answer."""


class Watch:
    """Records the side effects of one reward at a time.

    Example: `watch.begin(text)`, then the reward, then `effects = watch.end()`.
    """

    def __init__(self) -> None:
        self._text: str | None = None
        self._effects: list[SideEffect] = []
        self._is_recording = False
        sys.addaudithook(self._hear)

    def begin(self, text: str) -> None:
        """Start to record, for a reward of `text`."""
        self._effects = []
        self._text = text

    def end(self) -> list[SideEffect]:
        """Stop, and return the side effects since `begin`."""
        self._text = None
        return self._effects

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        """The audit hook: Python calls it with every event, ours included."""
        if self._text is None or self._is_recording or event not in KINDS:
            return

        self._is_recording = True
        try:
            effect = _side_effect(event, arguments, self._text)
        finally:
            self._is_recording = False
        if effect is None or len(self._effects) > MOST_EFFECTS:
            return

        self._effects.append(effect)
        if effect.uses_text and effect.kind != "code" and not _only_reads(event, arguments):
            raise PermissionError(f"check-task does not let a text of its own reach {event}")


def _side_effect(event: str, arguments: tuple[Any, ...], text: str) -> SideEffect | None:
    """The side effect behind an event, or None if it is harmless."""
    kind = KINDS[event]
    detail = _detail(event, arguments)
    uses_text = _contains(detail, text, at_least=2 if kind == "code" else 1)
    if kind == "code" and not uses_text:  # dataclasses and named tuples are compiled too
        return None
    if event == "open" and _is_ordinary(arguments, uses_text):
        return None

    frame = sys._getframe(2)  # the caller: below it are this function and the hook
    if frame.f_code.co_filename == ast.__file__ or _is_importing(frame):
        return None
    while frame.f_back and frame.f_code.co_filename.startswith(STANDARD_LIBRARY + os.sep):
        if "site-packages" in frame.f_code.co_filename:
            break
        frame = frame.f_back

    location = f"{os.path.basename(frame.f_code.co_filename)}, line {frame.f_lineno}"
    return SideEffect(kind, event, detail[:200], location, uses_text)


def _detail(event: str, arguments: tuple[Any, ...]) -> str:
    """The words in an event's arguments: a path, a command, or source code."""
    if event == "exec":
        code = arguments[0]
        return " ".join(map(str, (*code.co_consts, *code.co_names)))[:LONGEST]

    kept = arguments[:1] if event in ("open", "compile") else arguments
    words = [
        word.decode(errors="replace") if isinstance(word, bytes) else str(word) for word in kept
    ]
    return " ".join(words)[:LONGEST]


def _contains(detail: str, text: str, at_least: int) -> bool:
    """Whether the detail is a part of the answer, of `at_least` that many characters."""
    detail = detail.strip()
    return MARKER in detail or (len(detail) >= at_least and detail in text)


def _is_ordinary(arguments: tuple[Any, ...], uses_text: bool) -> bool:
    """Whether this opens a descriptor, a device, or Python's own sources."""
    path = arguments[0]
    if isinstance(path, int):
        return True
    if uses_text:
        return False
    name = os.fsdecode(path) if isinstance(path, (str, bytes, os.PathLike)) else str(path)
    return name.startswith(QUIET) or (name.endswith((".py", ".pyc")) and _reads(arguments))


def _only_reads(event: str, arguments: tuple[Any, ...]) -> bool:
    return event == "open" and _reads(arguments)


def _reads(arguments: tuple[Any, ...]) -> bool:
    """Whether a file is opened only for reading: by its mode, or by its flags if it has none."""
    mode, flags = (*arguments, None, None)[1:3]
    if isinstance(mode, str):
        return not set(mode) & set("wax+")
    writing_flags = os.O_WRONLY | os.O_RDWR | os.O_CREAT
    return not (isinstance(flags, int) and flags & writing_flags)


def _is_importing(frame: Any) -> bool:
    """Whether an import is in progress, which opens and compiles files of its own."""
    while frame:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
