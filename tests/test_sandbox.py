"""The sandbox: programs compute in it, and nothing that they try gets them out of it."""

from __future__ import annotations

import os
import platform
import re
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyzero import cli
from tinyzero.errors import UserError
from tinyzero.grading.sandbox import Limits, Outcome, Sandbox, canonical, is_near, pick_tier, tiers
from tinyzero.grading.sandbox import escapes as trying
from tinyzero.grading.sandbox.seccomp import CALLS, MACHINES, OPENING, build_filter
from tinyzero.grading.sandbox.tiers import SANDBOXES, TIERS, Tier, problem_with
from tinyzero.grading.sandbox.values import parse_arguments, write_arguments

NOBODY = 65534
DOUBLE = "def f(x): return 2 * x"


def working(tier: Tier) -> Tier:
    """The tier, or skip the test with the reason why it does not work here."""
    if reason := problem_with(tier):
        pytest.skip(f"the sandbox {tier} does not work here: {reason}")
    return tier


@pytest.fixture(params=TIERS)
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """A sandbox of each tier in turn."""
    limits = Limits(seconds=5, memory=128, output=10_000)
    with closing(Sandbox(working(request.param), limits)) as one:
        yield one


# --- escapes


@pytest.mark.parametrize("tier", SANDBOXES)
def test_nothing_escapes(tier: Tier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "a secret")
    results = trying.try_escapes(working(tier))
    assert [result for result in results if result.escaped] == []
    assert len(results) >= 46
    assert trying.processes_inside() == []


@pytest.mark.parametrize("tier", SANDBOXES)
def test_nothing_escapes_as_nobody(tier: Tier) -> None:
    """The same without root, in a process of another user."""
    if os.geteuid() != 0:
        pytest.skip("needs root to become another user; the other tests ran without root")
    working(tier)
    command = ["-m", "tinyzero.cli", "sandbox", "--tier", tier]
    done = as_nobody([python_of_nobody(), *command])
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{tier} held against all {len(trying.ESCAPES)} programs" in done.stdout
    assert "ESCAPED" not in done.stdout


def as_nobody(command: list[str]) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join(path for path in sys.path if path)
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": paths, "SECRET": "a secret"}
    return subprocess.run(
        command,
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        cwd="/",
        env={**environment, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def python_of_nobody() -> str:
    """A Python that the user nobody can run. Skips the test if it cannot run any."""
    version = f"python3.{sys.version_info.minor}"
    for path in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        try:
            if as_nobody([path, "-c", "import tinyzero.grading.sandbox"]).returncode == 0:
                return path
        except OSError:
            continue
    pytest.skip("the user nobody cannot run this Python and read this checkout")


HARMLESS = (
    "connects to this machine",
    "listens for connections",
    "starts threads",
    "starts another program",
    "takes memory that is not counted",
    "reads the environment",
    "reads hidden tests",
    "reads /etc/passwd",
    "reads other processes",
    "leaves a process behind",
    "uses inherited descriptors",
    "lifts its limits",
)


@pytest.mark.skipif(sys.platform != "linux", reason="the programs are written for Linux")
def test_the_attempts_succeed_without_a_sandbox() -> None:
    """If they failed for another reason than the sandbox, the tests above would prove nothing."""
    tried = tuple(one for one in trying.ESCAPES if one.name in HARMLESS)
    assert len(tried) == len(HARMLESS)
    # The tier must fail these, apart from the descriptors, which no tier leaves open.
    kept = {result.name for result in trying.try_escapes("plain", tried) if not result.escaped}
    assert kept == {"uses inherited descriptors", "an honest program"}
    assert trying.processes_inside() == []


@pytest.mark.parametrize("tier", SANDBOXES)
def test_the_environment_is_empty_from_the_first_process_on(
    tier: Tier, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to read the environment of a process that hides it")
    monkeypatch.setenv("SECRET", "a secret")
    with closing(Sandbox(working(tier))) as sandbox:
        sandbox.run(DOUBLE, "f", ["1"])
        pids = trying.processes_inside()
        environments = [Path(f"/proc/{pid}/environ").read_bytes() for pid in pids]
    assert pids
    # bubblewrap sets PWD in the process that it starts
    names = {entry.partition(b"=")[0] for one in environments for entry in one.split(b"\0")}
    assert names <= {b"", b"PYTHONHASHSEED", b"PWD"}


# --- the filter of system calls


def decide(program: bytes, number: int, arguments: tuple[int, ...] = (), audit: int = 0) -> int:
    """What the filter decides: a slow interpreter of the few instructions that it uses."""
    data = struct.pack("=iIQ6Q", number, audit, 0, *(*arguments, *[0] * (6 - len(arguments))))
    code = list(struct.iter_unpack("=HBBI", program))
    at = loaded = 0
    while True:
        operation, if_true, if_false, operand = code[at]
        at += 1
        if operation == 0x06:
            return int(operand)
        if operation == 0x20:
            (loaded,) = struct.unpack_from("=I", data, operand)
            continue
        holds = {0x15: loaded == operand, 0x35: loaded >= operand, 0x45: bool(loaded & operand)}
        at += if_true if holds[operation] else if_false


ALLOW, KILL, REFUSE = 0x7FFF0000, 0x80000000, 0x00050001


@pytest.mark.parametrize("machine", MACHINES)
def test_the_filter_allows_its_list_and_refuses_the_rest(machine: str) -> None:
    column, audit = MACHINES[machine]
    program = build_filter(machine)
    allowed = {numbers[column] for numbers in CALLS.values()} - {None}
    opening = {numbers[column] for numbers in OPENING.values()} - {None}
    for number in range(600):
        expected = ALLOW if number in allowed | opening else REFUSE
        assert decide(program, number, audit=audit) == expected, number
    assert decide(program, 0, audit=audit ^ 1) == KILL
    assert decide(program, 0x40000000 + 1, audit=audit) == KILL

    openat = OPENING["openat"][column]
    assert openat is not None
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_CREAT, os.O_TRUNC, os.O_APPEND | os.O_CLOEXEC):
        assert decide(program, openat, (0, 0, flags), audit) == REFUSE
    assert decide(program, openat, (0, 0, os.O_RDONLY | os.O_CLOEXEC), audit) == ALLOW


@pytest.mark.parametrize(
    ("column", "header"),
    [
        (0, "/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
        (1, "/usr/include/asm-generic/unistd.h"),
    ],
)
def test_the_numbers_are_those_of_the_kernel(column: int, header: str) -> None:
    if not Path(header).exists():
        pytest.skip(f"needs the kernel's headers ({header})")
    text = Path(header).read_text()
    numbers = {
        name: int(n) for name, n in re.findall(r"#define __NR_(?:3264_)?(\w+)\s+(\d+)", text)
    }
    numbers |= {name: int(n) for name, n in re.findall(r"#define __NR3264_(\w+)\s+(\d+)", text)}
    numbers.setdefault("newfstatat", numbers.get("fstatat", -1))
    for name, known in {**CALLS, **OPENING}.items():
        assert known[column] in (None, numbers.get(name)), name


# --- values


plain_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text() | st.integers() | st.booleans(), inner, max_size=4)
        | st.sets(st.integers() | st.text() | st.floats(allow_nan=False), max_size=4)
    ),
    max_leaves=8,
)


def same(one: Any, other: Any) -> bool:
    """Equal by type and value: a slow reference."""
    if type(one) is not type(other):
        return False
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return len(one) == len(other) and all(
            any(same(key, k) and same(held, h) for k, h in other.items())
            for key, held in one.items()
        )
    if isinstance(one, set):
        return len(one) == len(other) and all(any(same(a, b) for b in other) for a in one)
    return bool(one == other) or (one != one and other != other)


@settings(max_examples=60, deadline=None)
@given(plain_values, plain_values)
def test_equal_texts_mean_equal_types_and_values(one: Any, other: Any) -> None:
    assert (canonical(one) == canonical(other)) == same(one, other)
    assert canonical(one).isascii()
    assert "\n" not in canonical(one)


OTHER_TYPES: list[tuple[object, object]] = [
    (1, True),
    (0, False),
    (1, 1.0),
    (0, None),
    ([1], (1,)),
    ("1", 1),
    (b"a", "a"),
    ({}, set()),
    ([1, [2]], [1, [2.0]]),
    ({1: 1}, {1: True}),
    (10**30, float(10**30)),
    ({1}, frozenset({1})),
]


@pytest.mark.parametrize(("one", "other"), OTHER_TYPES)
def test_values_of_other_types_differ(one: object, other: object) -> None:
    assert canonical(one) != canonical(other)


def test_values_that_cannot_be_compared() -> None:
    with pytest.raises(TypeError, match="a value of type object cannot be compared"):
        canonical([object()])
    assert canonical(float("nan")) == canonical(-float("nan"))
    assert canonical(1 << 40_000) != canonical((1 << 40_000) + 1)
    assert [is_near(text, 1.0, 0.1) for text in ("1.05", "1", "1.2", "True", "nan", "'1'")] == [
        True, True, False, False, False, False
    ]  # fmt: skip


@settings(deadline=None)
@given(st.lists(st.none() | st.booleans() | st.integers() | st.text(), max_size=4).map(tuple))
def test_arguments_survive_their_text(arguments: tuple[object, ...]) -> None:
    assert parse_arguments(write_arguments(arguments)) == arguments


# --- programs


def test_a_program_computes(sandbox: Sandbox) -> None:
    source = "import math\ndef f(x, y): return [math.isqrt(x), {y: (x,)}, y * 2]"
    assert sandbox.run(source, "f", ["17, 'é'", "100, 'b'"]) == Outcome(
        ("[4, {'\\xe9': (17,)}, '\\xe9\\xe9']", "[10, {'b': (100,)}, 'bb']")
    )
    assert sandbox.run("f = lambda: None", "f", [""]).values == ("None",)
    assert sandbox.run(DOUBLE, "f", []).values == ()


@pytest.mark.parametrize(
    ("source", "failure", "words"),
    [
        ("def f(x) return x", "syntax", "SyntaxError"),
        ("f(x\0)", "syntax", "null bytes"),
        ("def g(x): return x", "missing", "defines no function f"),
        ("f = 3", "missing", "defines no function f"),
        ("import nothing_like_this", "raised", "ModuleNotFoundError"),
        ("def f(x): return 1 / 0", "raised", "ZeroDivisionError: division by zero"),
        ("def f(x): return f", "raised", "a value of type function cannot be compared"),
        ("def f(x): return bytearray(1 << 32)", "memory", "memory"),
        ("def f(x): return 'a' * 20_000", "output", "more than 10000 bytes"),
        ("import os\ndef f(x): os._exit(3)", "crashed", "exit code 3"),
        ("import ctypes\ndef f(x): ctypes.string_at(0)", "crashed", "exit code -11"),
    ],
)
def test_why_a_program_fails(sandbox: Sandbox, source: str, failure: str, words: str) -> None:
    outcome = sandbox.run(source, "f", ["3"])
    assert outcome.values == (None,)
    assert (outcome.failure, words in outcome.error) == (failure, True), outcome
    assert sandbox.run(DOUBLE, "f", ["3"]).values == ("6",), "the next program is not affected"


@pytest.mark.parametrize("source", ["while True: pass", "import time\ntime.sleep(60)"])
def test_a_program_is_stopped_in_time(source: str) -> None:
    with closing(Sandbox("plain", Limits(seconds=0.3))) as sandbox:
        sandbox.run(DOUBLE, "f", ["3"])
        start = time.monotonic()
        outcome = sandbox.run(source, "f", ["3"])
        assert time.monotonic() - start < 3
    assert (outcome.failure, outcome.error) == ("timeout", "the program took longer than 0.3 s")


def test_the_values_before_a_failure_are_kept(sandbox: Sandbox) -> None:
    outcome = sandbox.run("def f(x): return 6 // x", "f", ["3", "0", "2"])
    assert outcome.values == ("2", None, "3")
    assert outcome.failure == "raised"


def test_no_program_sees_another(sandbox: Sandbox) -> None:
    leave = "import sys, math\nmath.left = sys.left = 1\ndef f(x): return x"
    see = "import sys, math\ndef f(x): return hasattr(math, 'left') or hasattr(sys, 'left')"
    assert sandbox.run(leave, "f", ["1"]).values == ("1",)
    assert sandbox.run(see, "f", ["1"]).values == ("False",)


def test_a_set_has_the_same_order_in_every_sandbox() -> None:
    source = "def f(x): return list({'one', 'two', 'three', 'four', 'five', 'six'})"
    orders = set()
    for _ in range(2):
        with closing(Sandbox("plain")) as sandbox:
            orders.add(sandbox.run(source, "f", ["1"]).values)
    assert len(orders) == 1


def test_a_dead_sandbox_is_replaced(sandbox: Sandbox) -> None:
    sandbox.run(DOUBLE, "f", ["3"])
    assert sandbox._zygote is not None
    sandbox._zygote.process.kill()
    sandbox._zygote.process.wait()
    assert sandbox.run(DOUBLE, "f", ["3"]).values == ("6",)


def test_a_fork_has_a_sandbox_of_its_own(sandbox: Sandbox) -> None:
    assert sandbox.run(DOUBLE, "f", ["3"]).values == ("6",)
    pid = os.fork()
    if pid == 0:
        right = sandbox.run(DOUBLE, "f", ["4"]).values == ("8",)
        sandbox.close()
        os._exit(0 if right else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert sandbox.run(DOUBLE, "f", ["5"]).values == ("10",)


def test_a_forgotten_sandbox_ends() -> None:
    sandbox = Sandbox("plain")
    sandbox.run(DOUBLE, "f", ["3"])
    assert sandbox._zygote is not None
    process = sandbox._zygote.process
    del sandbox
    assert process.poll() == -9


# --- which tier


def test_auto_is_the_strongest_that_works(monkeypatch: pytest.MonkeyPatch) -> None:
    for works, expected in ((SANDBOXES, "bwrap"), (("landlock",), "landlock")):
        reasons = {tier: "" if tier in works else "no" for tier in TIERS}
        monkeypatch.setattr(tiers, "problem_with", reasons.__getitem__)
        assert pick_tier("auto") == expected


def test_without_a_sandbox_nothing_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    reasons = {"bwrap": "not installed", "landlock": "an old kernel", "plain": ""}
    monkeypatch.setattr(tiers, "problem_with", reasons.__getitem__)
    with pytest.raises(UserError, match="no sandbox works here") as raised:
        Sandbox()
    message = str(raised.value)
    assert "\n" not in message
    for words in ("not installed", "an old kernel", "--grading.sandbox plain", "your files"):
        assert words in message
    with pytest.raises(UserError, match=r"grading\.sandbox is 'bwrap', which does not work here"):
        Sandbox("bwrap")
    assert Sandbox("plain").tier == "plain"


def test_why_a_tier_does_not_work(monkeypatch: pytest.MonkeyPatch) -> None:
    start = tiers.start
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(OSError, match="bubblewrap is not installed"):
        start("bwrap")
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(OSError, match="Linux on x86-64 or aarch64"):
        start("landlock")


def test_the_command_says_what_escaped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tiers, "problem_with", lambda tier: "" if tier != "bwrap" else "a reason")
    results = [trying.Result("a program", True, "its attempt succeeded")]
    monkeypatch.setattr(trying, "try_escapes", lambda tier: results)
    assert cli.main(["sandbox"]) == 1
    shown = capsys.readouterr().out
    assert re.search(r"bwrap +a reason\nlandlock +works here\nplain +works here, but is not", shown)
    assert re.search(r"ESCAPED +a program +its attempt succeeded", shown)
    assert shown.endswith("landlock: 1 of 1 programs escaped\n")
