"""Programs that try to get out of the sandbox, or to be paid without solving anything.

`tinyzero sandbox` runs all of them on this machine, and so do the tests. A program says "escaped"
if its attempt succeeded. It has also escaped if its values count as right, if it left a process or
a file behind, or if it kept the process outside busy for longer than its time limit.
"""

from __future__ import annotations

import os
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from tinyzero.errors import Ungraded
from tinyzero.grading.sandbox.runner import Limits, Outcome, Sandbox
from tinyzero.grading.sandbox.tiers import Tier, owner_mark
from tinyzero.grading.sandbox.values import canonical

LIMITS = Limits(seconds=0.5, memory=128)
GRACE = 5.0  # seconds on top of the limit: the machine may be busy
PAID = "it was paid"
SECRET = "TINYZERO_SECRET_8d1c"
FILE = "tinyzero-escaped"

INPUTS = (3, 41, -5)


def hidden(x: int) -> int:
    """What the programs are asked to compute, and do not know."""
    return 3 * x * x + 7 * x + 11


class Escape(NamedTuple):
    """A program that tries something, and the values it must not return."""

    name: str
    source: str
    expected: tuple[object, ...] = tuple(map(hidden, INPUTS))


class Result(NamedTuple):
    """What happened when a program tried to escape."""

    name: str
    escaped: bool
    what: str
    """What happened, in a few words."""


HELPERS = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)

def native(name, *arguments):
    result = getattr(libc, name)(*arguments)
    if result == -1:
        raise OSError(ctypes.get_errno(), name)
    return result

def tried(*attempts):
    for attempt in attempts:
        try:
            if attempt() is not False:
                return 'escaped'
        except BaseException:
            pass
    return 'stopped'
"""

PATHS = """
import tempfile
PLACES = ['/tmp', '/var/tmp', '/dev/shm', '/etc', '/usr', '/usr/lib', '/root', '/', '.', 'FOLDER',
          '/run', '/home', os.path.dirname(os.__file__)]
"""

ATTEMPTS = {
    "connects to this machine": """
import socket
def f(x):
    return tried(lambda: socket.create_connection(('127.0.0.1', PORT), 0.2),
                 lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
                 lambda: socket.socket(socket.AF_UNIX))
""",
    "listens for connections": """
import socket
def f(x):
    return tried(lambda: socket.create_server(('127.0.0.1', 0)), lambda: socket.socketpair())
""",
    "fork bomb": """
def f(x):
    def bomb():
        while True:
            os.fork()
    return tried(bomb, lambda: native('fork'), lambda: native('vfork'))
""",
    "starts threads": """
import _thread, threading
def f(x):
    return tried(lambda: threading.Thread(target=print).start(),
                 lambda: _thread.start_new_thread(print, ()))
""",
    "starts another program": """
import subprocess
def f(x):
    return tried(lambda: os.system('true') == 0, lambda: subprocess.run(['/bin/true']),
                 lambda: os.posix_spawn(sys.executable, ['python', '-c', ''], {}),
                 lambda: os.execv('/bin/true', ['true']))
""",
    "takes 16 GB at once": "def f(x): return tried(lambda: bytearray(16 << 30))",
    "takes more and more memory": """
def f(x):
    kept = []
    def grow():
        while len(kept) < 1000:
            kept.append(bytearray(16 << 20))
    return tried(grow)
""",
    "takes memory that is not counted": """
def f(x):
    return tried(lambda: native('memfd_create', b'x', 0), lambda: os.pipe(),
                 lambda: native('shmget', 0, 1 << 30, 0o1600))
""",
    "writes files outside": PATHS + """
def f(x):
    return tried(*[lambda place=place: open(place + '/FILE', 'w') for place in PLACES])
""",
    "appends to the library": """
def f(x): return tried(lambda: open(os.__file__, 'a'), lambda: os.truncate(os.__file__, 0))
""",
    "fills the disk": PATHS + """
def f(x):
    def fill():
        with open(tempfile.mktemp('FILE'), 'wb') as file:
            while True:
                file.write(bytes(1 << 20))
    return tried(fill, lambda: tempfile.TemporaryFile(), lambda: open('/dev/shm/FILE', 'w'))
""",
    "makes many files and folders": PATHS + """
def f(x):
    return tried(*[lambda place=place, i=i: os.mkdir(f'{place}/FILE{i}') for place in PLACES
                   for i in range(50)])
""",
    "reads the environment": """
def f(x):
    shown = ' '.join([*os.environ.keys(), *os.environ.values()])
    for pid in ('self', 1, os.getppid(), PARENT):
        try:
            shown += open(f'/proc/{pid}/environ').read()
        except OSError:
            pass
    return 'escaped' if 'SECRET' in shown or 'PATH=' in shown else 'stopped'
""",
    "reads hidden tests": """
def f(x):
    return tried(lambda: open('FOLDER/tests.txt').read(), lambda: os.listdir('FOLDER'),
                 lambda: os.listdir('/home'), lambda: os.listdir('/proc/PARENT/cwd/'))
""",
    "reads /etc/passwd": """
def f(x):
    return tried(lambda: open('/etc/passwd').read(), lambda: open('/etc/shadow').read(),
                 lambda: open('/usr/lib/../../etc/passwd').read())
""",
    "reads other processes": """
def f(x):
    return tried(*[lambda pid=pid, name=name: open(f'/proc/{pid}/{name}', 'rb').read(100)
                   for pid in ('self', 1, os.getppid(), PARENT) for name in ('maps', 'cmdline')])
""",
    "kills the process outside": """
import signal
def f(x):
    return tried(lambda: os.kill(PARENT, 9), lambda: os.kill(os.getppid(), 9),
                 lambda: signal.pidfd_send_signal(os.pidfd_open(os.getppid()), 9))
""",
    "kills everything": "def f(x): return tried(lambda: os.kill(-1, 9), lambda: os.kill(0, 9))",
    "sends signals through a descriptor": """
import fcntl
def f(x):
    def own():
        fcntl.fcntl(3, fcntl.F_SETOWN, os.getppid())
        fcntl.fcntl(3, 10, 9)
    return tried(own)
""",
    "endless output": """
def f(x):
    while True:
        print('x' * 1000)
        sys.stderr.write('x' * 1000)
""",
    "endless results": """
def f(x):
    while True:
        os.write(3, b'12' * 1000)
""",
    "endless lines of results": """
def f(x):
    while True:
        os.write(3, b'12' + b'\\n12' * 10000)
""",
    "endless loop": "def f(x):\n    while True: pass",
    "endless loop at import": "while True: pass",
    "sleeps": "import time\ndef f(x): time.sleep(1000)",
    "ignores signals": """
import signal
for number in range(1, 64):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
def f(x):
    while True: pass
""",
    "symbolic link": """
def f(x):
    return tried(*[lambda place=place: os.symlink('/etc/passwd', place + '/FILE')
                   for place in ('/tmp', '.', 'FOLDER')],
                 lambda: os.link('/etc/passwd', '/tmp/FILE'), lambda: os.rename('/tmp', '/FILE'))
""",
    "sys.exit(0)": "import sys\nsys.exit(0)",
    "sys.exit(0) in the call": "import sys\ndef f(x): sys.exit(0)",
    "os._exit(0) at import": "import os\nos._exit(0)",
    "os._exit(0) in the call": "import os\ndef f(x): os._exit(0)",
    "equal to everything": """
class Equal:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
    def __repr__(self): return '59'
def f(x): return Equal()
""",
    "a number that equals everything": """
class Equal(int):
    def __eq__(self, other): return True
    def __hash__(self): return 0
    def __repr__(self): return '59'
    __int__ = __index__ = __str__ = __repr__
def f(x): return Equal(1)
""",
    "patches json": """
import json
json.dumps = json.loads = lambda *a, **k: 'true'
json.JSONEncoder.encode = lambda *a: 'true'
def f(x): return True
""",
    "patches the sandbox's own code": """
import sys
for name, module in list(sys.modules.items()):
    if name.startswith('tinyzero'):
        for attribute in list(vars(module)):
            if callable(getattr(module, attribute)) and not attribute.startswith('__'):
                setattr(module, attribute, lambda *a, **k: 'True')
def f(x): return True
""",
    "patches the built-in functions": """
import builtins
builtins.isinstance = lambda *a: True
builtins.repr = builtins.ascii = builtins.str = lambda *a: '59'
builtins.all = builtins.any = lambda *a: True
def f(x): return 0
""",
    "prints a result": """
def f(x):
    print('59\\nTrue\\nPASSED\\n{"passed": true}', flush=True)
    os.write(1, b'PASSED\\n')
    return 0
""",
    "forges the result": """
os.write(3, b'True\\nTrue\\nTrue\\n')
def f(x): return True
""",
    "forges a report": """
os.write(3, b'!ok all tests passed\\n')
os._exit(0)
""",
    "walks the stack": """
def f(x):
    frame = sys._getframe()
    while frame:
        for names in (frame.f_locals, frame.f_globals):
            if any('expect' in str(name) or 'answer' in str(name) for name in names):
                return 'escaped'
        frame = frame.f_back
    return 'stopped'
""",
    "searches all objects": """
import gc
def f(x):
    for one in gc.get_objects():
        if type(one) is dict and any(name in ('expected', 'answers', 'tests') for name in one):
            return 'escaped'
    return 'stopped'
""",
    "looks for an earlier program": """
import gc
def f(x):
    seen = [one for one in gc.get_objects() if type(one) in (tuple, list, dict)]
    mark = 'SEC' + 'RET_8d1c'
    texts = [part for one in seen for part in (one.values() if type(one) is dict else one)
             if type(part) is str]
    return 'escaped' if any('def marked' + mark in text for text in texts) else 'stopped'
""",
    "a value of 50 MB": "def f(x): return 'a' * 50_000_000",
    "a huge number": "def f(x): return 1 << 40_000_000",
    "a deeply nested value": """
def f(x):
    value = []
    for _ in range(100_000):
        value = [value]
    return value
""",
    "a value that contains itself": """
def f(x):
    value = []
    value.append(value)
    return value
""",
    "leaves a process behind": """
import time
def f(x):
    def leave():
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                time.sleep(60)
    return tried(leave)
""",
    "new namespaces": """
def f(x):
    return tried(lambda: native('unshare', 0x10000000), lambda: native('unshare', 0x20000),
                 lambda: native('setns', 3, 0))
""",
    "mounts": """
def f(x):
    return tried(lambda: native('mount', b'none', b'/tmp', b'tmpfs', 0, None),
                 lambda: native('umount2', b'/', 2), lambda: os.chroot('/'))
""",
    "attaches to another process": """
def f(x):
    buffer = ctypes.create_string_buffer(64)
    return tried(lambda: native('ptrace', 16, os.getppid(), 0, 0),
                 lambda: native('ptrace', 16, 1, 0, 0),
                 lambda: native('process_vm_readv', os.getppid(), buffer, 1, buffer, 1, 0),
                 lambda: open(f'/proc/{os.getppid()}/mem', 'rb'))
""",
    "changes its user": """
def f(x):
    return tried(lambda: native('setuid', 0), lambda: native('setresuid', 0, 0, 0),
                 lambda: native('setgroups', 0, None), lambda: native('capset', None, None))
""",
    "lifts its limits": """
import resource
def f(x):
    top = resource.RLIM_INFINITY
    return tried(lambda: resource.setrlimit(resource.RLIMIT_AS, (top, top)),
                 lambda: resource.setrlimit(resource.RLIMIT_CPU, (60, 60)),
                 lambda: resource.prlimit(PARENT, resource.RLIMIT_NOFILE, (0, 0)),
                 lambda: os.sched_setaffinity(0, {0}), lambda: os.setpriority(0, 0, -5))
""",
    "overflows Python's stack": "def f(x): return f(x)",
    "overflows the machine's stack": """
sys.setrecursionlimit(10 ** 9)
def f(x): return sorted([x], key=f)
""",
    "a syntax error": "def f(x) return 59",
    "a program that cannot be parsed": "(" * 5000 + "1" + ")" * 5000,
    "asks for input": "def f(x): return input()",
    "a segmentation fault": "import ctypes\ndef f(x): return ctypes.string_at(0)",
    "a huge power": "def f(x): return 9 ** 9 ** 9",
    "types into the terminal": """
def f(x):
    return tried(*[lambda fd=fd: native('ioctl', fd, 0x5412, b'x') for fd in range(8)],
                 lambda: open('/dev/tty', 'w'), lambda: open('/dev/console', 'w'))
""",
    "uses inherited descriptors": """
def f(x): return tried(*[lambda fd=fd: bool(os.fstat(fd)) for fd in range(4, 256)])
""",
    "uses the kernel's rings": """
def f(x):
    number = {'x86_64': 425}.get(os.uname().machine, 425)
    return tried(lambda: native('syscall', number, 8, ctypes.create_string_buffer(200)),
                 lambda: native('syscall', 321, 0, 0, 0))
""",
    "loads a library of its own": """
def f(x):
    return tried(lambda: ctypes.CDLL('FOLDER/tests.txt'), lambda: open('FOLDER/own.so', 'wb'))
""",
}  # fmt: skip
"""Attempts at which the program must not return the values of `hidden`, by name."""

ESCAPES = (
    *(Escape(name, source) for name, source in ATTEMPTS.items()),
    Escape("not a number", "def f(x): return float('nan')", (0.5, 1.5, 2.5)),
    Escape("True instead of 1", "def f(x): return True", (1, 1, 1)),
    Escape("1.0 instead of 1", "def f(x): return 1.0", (1, 1, 1)),
    Escape("a list instead of a tuple", "def f(x): return [1]", ((1,), (1,), (1,))),
    Escape("nothing instead of 0", "def f(x): return None", (0, 0, 0)),
)

HONEST = Escape("an honest program", "def f(x): return 3 * x * x + 7 * x + 11")
"""The one program that must be paid."""

MARKED = f"def marked{SECRET.removeprefix('TINYZERO_')}(): pass\ndef f(x): return x"


def try_escapes(tier: Tier, escapes: tuple[Escape, ...] = ESCAPES) -> list[Result]:
    """What each program achieves in the sandbox of this tier, and whether honest ones are paid.

    Example: `[result.name for result in try_escapes("landlock") if result.escaped]`.
    """
    results = []
    with _surroundings() as surroundings, closing(Sandbox(tier, LIMITS)) as sandbox:
        sandbox.run(MARKED, "f", ["1"])
        for escape in escapes:
            results.append(_try(sandbox, escape, surroundings))
        honest = _try(sandbox, HONEST, surroundings)

    is_paid = honest.what == PAID
    results.append(Result(HONEST.name, not is_paid, "paid" if is_paid else "not paid"))
    return results


def _try(sandbox: Sandbox, escape: Escape, surroundings: dict[str, str]) -> Result:
    """Run one program, and see what it has done."""
    source = HELPERS + escape.source
    for word, replacement in surroundings.items():
        source = source.replace(word, replacement)

    before = processes_inside()
    start = time.monotonic()
    try:
        outcome = sandbox.run(source, "f", [str(x) for x in INPUTS])
    except Ungraded as error:
        return Result(escape.name, True, str(error))
    seconds = time.monotonic() - start

    escaped = _escaped(escape, outcome)
    if not escaped and seconds > LIMITS.seconds + GRACE:
        escaped = f"it took {seconds:.1f} s"
    if not escaped and (files := _files_outside(surroundings["FOLDER"])):
        escaped = f"it wrote {files[0]}"
    if not escaped and before and len(processes_inside()) > len(before):
        escaped = "it left a process behind"
    return Result(escape.name, bool(escaped), escaped or _in_words(outcome))


def _escaped(escape: Escape, outcome: Outcome) -> str:
    """How the outcome shows that the program escaped; empty if it does not."""
    if canonical("escaped") in outcome.values:
        return "its attempt succeeded"
    if outcome.values == tuple(map(canonical, escape.expected)):
        return PAID
    return ""


def _in_words(outcome: Outcome) -> str:
    """What happened to a program that did not escape."""
    if outcome.failure:
        return outcome.error.splitlines()[0][:60]
    if set(outcome.values) == {canonical("stopped")}:
        return "refused"
    return "its values are wrong"


def processes_inside() -> list[int]:
    """The processes in the sandboxes of this process; empty if the system does not tell."""
    pids = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if owner_mark().encode() in (folder / "cmdline").read_bytes().split(b"\0"):
                pids.append(int(folder.name))
    return pids


def _files_outside(folder: str) -> list[str]:
    """Files that only an escaped program can have written."""
    roots = [Path(root) for root in ("/", "/tmp", "/var/tmp", "/dev/shm", "/etc", "/usr", folder)]
    return [str(path) for root in roots for path in root.glob(f"*{FILE}*")]


@contextmanager
def _surroundings() -> Iterator[dict[str, str]]:
    """What there is to reach outside: a server, a file, a folder to write to, and this process."""
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as server:
        Path(folder).chmod(0o777)
        Path(folder, "tests.txt").write_text(SECRET)
        yield {
            "PORT": str(server.getsockname()[1]),
            "PARENT": str(os.getpid()),
            "FOLDER": folder,
            "FILE": FILE,
        }
