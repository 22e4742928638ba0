"""The ways to close a sandbox on this machine, from the strongest to none.

| tier       | what it is                                           | what it needs              |
|------------|------------------------------------------------------|----------------------------|
| `bwrap`    | bubblewrap (namespaces) and a filter of system calls | bubblewrap 0.8, namespaces |
| `landlock` | Landlock and the same filter, without namespaces     | Linux 5.13                 |
| `plain`    | limits on time and memory, **not** a sandbox         | Linux or macOS             |

Each of them works without root and without a daemon. `plain` is only used if it is asked for.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import sysconfig
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from tinyzero.errors import UserError
from tinyzero.grading.sandbox import landlock, seccomp

Tier = Literal["bwrap", "landlock", "plain"]
Choice = Literal["auto", "bwrap", "landlock", "plain"]
TIERS: tuple[Tier, ...] = get_args(Tier)
SANDBOXES: tuple[Tier, ...] = ("bwrap", "landlock")
"""The tiers that hold a program back, the strongest first."""

PLAIN = (
    "plain limits time and memory only: a program can read and write your files, use the network "
    "and start processes"
)

STARTING = 60.0  # seconds that the process inside may take until it is ready
ENVIRONMENT = {"PYTHONHASHSEED": "0"}  # all that is in it, so that sets have the same order

# It imports this package without the packages around it, which need more than Python itself.
BOOT = """
import sys, types
for name, folder in zip(("tinyzero", "tinyzero.grading", "tinyzero.grading.sandbox"), sys.argv[2:]):
    package = sys.modules[name] = types.ModuleType(name)
    package.__path__ = [folder]
from tinyzero.grading.sandbox.zygote import main
main(sys.argv[1], sys.argv[6:])
"""
PACKAGE = Path(__file__).parent
PYTHON = os.path.realpath(sys.executable)


class Zygote(NamedTuple):
    """A process inside a sandbox that forks a child for each program."""

    process: subprocess.Popen[bytes]
    control: socket.socket

    def stop(self) -> None:
        """Kill it, and with it everything inside the sandbox."""
        self.control.close()
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, 9)
        self.process.kill()
        self.process.wait()
        assert self.process.stderr is not None
        self.process.stderr.close()


def start(tier: Tier) -> Zygote:
    """Start the process inside a sandbox of this tier.

    Raises OSError, whose text says why, if the tier does not work here.
    """
    if tier != "plain" and not seccomp.is_supported():
        raise OSError("it needs Linux on x86-64 or aarch64")
    folders = [str(folder) for folder in (PACKAGE.parents[1], PACKAGE.parent, PACKAGE)]
    arguments = [*_python(), BOOT, tier, *folders, owner_mark()]
    if tier == "landlock":
        if not landlock.version():
            raise OSError("the kernel has no Landlock: it needs Linux 5.13, with Landlock enabled")
        arguments += _without(*readable_paths())
    if tier == "bwrap":
        arguments = [*bubblewrap(), *arguments]

    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            arguments,
            stdin=theirs.fileno(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env=ENVIRONMENT,
            cwd="/",
        )
    zygote = Zygote(process, ours)
    ours.settimeout(STARTING)
    try:
        if ours.recv(5) == b"ready":
            return zygote
        assert process.stderr is not None
        process.kill()
        said = process.stderr.read(4000).decode(errors="replace").strip().splitlines()
        reason = said[-1] if said else "it ended without a message"
    except TimeoutError:
        reason = f"it was not ready after {STARTING:g} s"
    zygote.stop()
    raise OSError(reason)


def owner_mark() -> str:
    """An argument of every process inside the sandboxes of this process, to recognise them by."""
    return f"started-by-{os.getpid()}"


@cache
def problem_with(tier: Tier) -> str:
    """Why a tier does not work on this machine, in one line; empty if it works. It is tried."""
    try:
        start(tier).stop()
    except OSError as error:
        return str(error)
    return ""


def pick_tier(choice: Choice = "auto") -> Tier:
    """The tier to use: the one that was chosen, or with "auto" the strongest one that works here.

    Raises UserError, in one line that says why and what to do, if no tier works.

    Example: `pick_tier("auto")` is "bwrap" on a machine with bubblewrap.
    """
    if choice != "auto":
        if problem := problem_with(choice):
            raise UserError(f"grading.sandbox is {choice!r}, which does not work here: {problem}")
        return choice

    for tier in SANDBOXES:
        if not problem_with(tier):
            return tier
    reasons = "; ".join(f"{tier}: {problem_with(tier)}" for tier in SANDBOXES)
    raise UserError(
        f"no sandbox works here ({reasons}): install bubblewrap, or accept the risk with "
        f"--grading.sandbox plain ({PLAIN})"
    )


def readable_paths() -> tuple[list[str], list[str]]:
    """What a program may read: Python and the libraries it needs; and what is hidden in these.

    Installed packages are hidden, because programs use the standard library alone.
    """
    standard_library = sysconfig.get_path("stdlib")
    folders = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", standard_library]
    files = [PYTHON, "/dev/null", "/dev/urandom", "/etc/ld.so.cache"]
    prefix = Path(sys.base_prefix, "lib")
    if not any(str(prefix).startswith(folder) for folder in folders):
        files += sorted(str(path) for path in prefix.glob("lib*.so*"))

    hidden = [
        str(Path(folder, name))
        for folder in (standard_library, "/usr/lib/python3")
        for name in ("site-packages", "dist-packages")
    ]
    kept = [path for path in (*folders, *files) if os.path.exists(path)]
    return kept, [path for path in hidden if os.path.isdir(path)]


def bubblewrap() -> list[str]:
    """The start of a command that runs the rest of it within namespaces that contain little.

    Raises OSError if bubblewrap is not installed.
    """
    command = shutil.which("bwrap")
    if command is None:
        raise OSError("bubblewrap is not installed (apt install bubblewrap)")

    arguments = [
        command,
        "--unshare-all",
        "--unshare-user",
        "--disable-userns",
        "--die-with-parent",
    ]
    arguments += ["--new-session", "--cap-drop", "ALL", "--chdir", "/"]
    readable, hidden = readable_paths()
    for path in readable:
        kind = "--dev-bind" if path.startswith("/dev/") else "--ro-bind"
        arguments += [kind, path, path]
    for path in hidden:
        arguments += ["--tmpfs", path]
    arguments += ["--ro-bind", str(PACKAGE.parent), str(PACKAGE.parent)]
    return [*arguments, "--remount-ro", "/", "--"]


def _without(readable: list[str], hidden: list[str]) -> list[str]:
    """`readable`, with each folder that contains a hidden one replaced by its other entries.

    Landlock can only allow, so what is around a hidden folder is allowed piece by piece.
    """
    kept = []
    for path in readable:
        inside = [one for one in hidden if one.startswith(f"{path}/")]
        if not inside:
            kept.append(path)
            continue
        entries = [f"{path}/{name}" for name in sorted(os.listdir(path))]
        kept += _without([entry for entry in entries if entry not in hidden], hidden)
    return kept


def _python() -> list[str]:
    """Python without the user's settings, site-packages, or files written next to sources."""
    return [PYTHON, "-s", "-S", "-P", "-B", "-c"]
