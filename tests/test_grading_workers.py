"""Graders that hang, crash, lie or take all memory, in real processes, cost one answer each."""

import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyzero.errors import Interrupted, Ungraded, UserError
from tinyzero.grading import TaskReference, Verdict, WorkerPool, judge_group, worker, workers
from tinyzero.run import records
from tinyzero.tasks import load_task
from tinyzero.tasks.guarded import GuardedTask
from tinyzero.types import Problem, Reward, Split

PROBLEM = Problem("p", {"numbers": [1, 2, 3]}, "train", "p")
LIMIT = 1.0  # seconds for an answer
MEMORY = 1.0  # GB


class Fickle:
    """Its reward does what the text says. A number is its own reward."""

    def problem(self, split: Split, index: int) -> Problem:
        return Problem(f"{split}:{index}", {"numbers": [1, 2, 3]}, split, f"{split}:{index}")

    def prompt(self, problem: Problem, template: str) -> str:
        return "a\n"

    def solution(self, problem: Problem) -> str:
        return "1"

    def reward(self, problem: Problem, text: str) -> Any:
        if text in ACTS:
            return ACTS[text](problem)
        return float(text)


class Together(Fickle):
    """The same task for whole groups: the reward of an answer is its share of the sum."""

    def rewards(self, problems: Sequence[Problem], texts: Sequence[str]) -> list[Any]:
        found = [self.reward(p, text) for p, text in zip(problems, texts, strict=True)]
        return [value / sum(found) for value in found]


def _recurse(problem: Problem) -> float:
    return _recurse(problem) + 1


def _fork(problem: Problem) -> float:
    return float(os.fork() > 0)  # 1 in the parent, 0 in the child: only the first may count


def _fork_and_hang(problem: Problem) -> float:
    if os.fork() == 0:
        time.sleep(600)
    return 1.0


def _leave_sleeper(problem: Problem) -> float:
    child = subprocess.Popen(["sleep", "600"])
    return float(child.pid)


def _segfault(problem: Problem) -> float:
    os.kill(os.getpid(), signal.SIGSEGV)
    return 1.0


def _print(problem: Problem) -> float:
    for _ in range(64):
        sys.stdout.write("spam" * 250_000)
        sys.stderr.write("spam" * 250_000)
    os.write(1, b"spam" * 1_000_000)
    return 1.0


def _allocate(problem: Problem) -> float:
    return float(len(bytearray(20 * 10**9)))


def _modify(problem: Problem) -> float:
    numbers = problem.fields["numbers"]
    numbers.append(4)
    return float(len(numbers))


def _ignore_signals(problem: Problem) -> float:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)
    time.sleep(600)
    return 1.0


def _change_folder(problem: Problem) -> float:
    before = os.getcwd()
    os.chdir("/")
    return float(before != "/")


def _forge(problem: Problem) -> float:
    """Find the connection, and send something that is not a verdict in place of the worker."""
    for descriptor in range(3, 64):
        try:
            connection = socket.socket(fileno=os.dup(descriptor))
            body = b'{"verdicts": [["cos\\nsystem", 1]]}'
            connection.sendall(struct.pack("!I", len(body)) + body)
        except OSError:
            continue
    time.sleep(600)
    return 1.0


def _promise_much(problem: Problem) -> float:
    for descriptor in range(3, 64):
        try:
            socket.socket(fileno=os.dup(descriptor)).sendall(b"\xff\xff\xff\xff")
        except OSError:
            continue
    time.sleep(600)
    return 1.0


def _raise(error: BaseException) -> Any:
    raise error


ACTS: dict[str, Any] = {
    "hang": lambda problem: time.sleep(600),
    "spin": lambda problem: [None for _ in iter(int, 1)],
    "ignore signals": _ignore_signals,
    "sys.exit": lambda problem: sys.exit(0),
    "interrupt": lambda problem: _raise(KeyboardInterrupt()),
    "base exception": lambda problem: _raise(BaseException("base")),
    "recurse": _recurse,
    "nan": lambda problem: float("nan"),
    "none": lambda problem: None,
    "parts": lambda problem: Reward(1.0, {f"{i}": 1.0 for i in range(20_000)}),
    "allocate": _allocate,
    "os._exit": lambda problem: os._exit(0),
    "segfault": _segfault,
    "abort": lambda problem: os.abort(),
    "close": lambda problem: os.closerange(3, 100),
    "exec": lambda problem: os.execv(sys.executable, [sys.executable, "-c", ""]),
    "forge": _forge,
    "promise": _promise_much,
    "fork": _fork,
    "fork and hang": _fork_and_hang,
    "print": _print,
    "close output": lambda problem: os.closerange(0, 3) or 1.0,
    "modify": _modify,
    "folder": _change_folder,
    "where": lambda problem: float(os.getcwd() == "/"),
    "session": lambda problem: float(os.getpid()),
    "hash": lambda problem: float(hash("a fixed seed") % 1000),
    "sleeper": _leave_sleeper,
    "ungraded": lambda problem: _raise(Ungraded("the judge is away")),
    "graded": lambda problem: Reward(2.3, {"style": 0.5}, right=None),
    "right": lambda problem: True,
}


def reference(name: str = "Fickle", file: str = __file__) -> TaskReference:
    return TaskReference("tinyzero.tasks:load_task", f"{file}:{name}", {})


def pool(
    named: bool = True,
    count: int = 1,
    task: Any = None,
    timeout: float = LIMIT,
    memory: float = MEMORY,
) -> WorkerPool:
    task = GuardedTask(task or Fickle(), "own", {})
    how = reference(type(task.owner).__name__) if named else None
    return WorkerPool(task, how, workers=count, timeout=timeout, memory=memory)


def grade(grader: WorkerPool, *texts: str) -> list[Verdict]:
    grader.submit("key", [PROBLEM] * len(texts), texts)
    return grader.collect("key")


@pytest.fixture(params=[True, False], ids=["by reference", "by fork"], scope="module")
def grader(request: pytest.FixtureRequest) -> Iterator[WorkerPool]:
    """A grader with enough time for a busy machine."""
    with closing(pool(request.param, timeout=60)) as made:
        yield made


RIGHT = Verdict(Reward(1.0, {}, True))
HALF = Verdict(Reward(0.5, {}, None))


def wrong(failure: Any, error: str) -> Verdict:
    return Verdict(Reward(0.0, {}, False, failure), error)


@pytest.mark.parametrize("named", [True, False])
def test_a_grader_that_takes_too_long_costs_one_answer(named: bool) -> None:
    with closing(pool(named)) as grader:
        for act in ("hang", "spin", "ignore signals"):
            first, failing, last = grade(grader, "1", act, "0.5")
            assert (first, last) == (RIGHT, HALF)
            assert failing == wrong("timeout", "the grader took longer than 1 s (grading.timeout)")


@pytest.mark.parametrize(
    ("act", "says"),
    [
        ("sys.exit", "SystemExit: 0"),
        ("interrupt", "KeyboardInterrupt"),
        ("base exception", "BaseException: base"),
        ("recurse", "RecursionError"),
        ("nan", "not finite"),
        ("none", "the reward is None"),
        ("parts", "the reward has 20000 parts"),
        ("allocate", "MemoryError"),
        ("os._exit", "the grader's process died"),
        ("segfault", "the grader's process died"),
        ("abort", "the grader's process died"),
        ("close", "the grader's process died"),
        ("exec", "the grader's process died"),
        ("forge", "the grader's process died"),
        ("promise", "the grader's process died"),
    ],
)
def test_a_grader_that_fails_costs_one_answer(grader: WorkerPool, act: str, says: str) -> None:
    first, failing, last = grade(grader, "1", act, "0.5")
    assert (first, last) == (RIGHT, HALF)
    assert failing == wrong("raised", failing.error)
    assert says in failing.error


@pytest.mark.parametrize(
    ("act", "value"),
    [
        ("fork", 1),
        ("fork and hang", 1),
        ("print", 1),
        ("close output", 1),
        ("modify", 4),
        ("folder", 1),
        ("where", 0),
    ],
)
def test_a_grader_that_misbehaves_but_answers_is_accepted(
    grader: WorkerPool, act: str, value: float
) -> None:
    found = grade(grader, "1", act, act, act, "0.5")
    assert [v.reward and v.reward.value for v in found] == [1, value, value, value, 0.5]
    assert not any(v.error for v in found)


def test_every_kind_of_reward_comes_back_as_it_is(grader: WorkerPool) -> None:
    graded, right, plain, ungraded = grade(grader, "graded", "right", "0.25", "ungraded")
    assert graded == Verdict(Reward(2.3, {"style": 0.5}, None))
    assert right == Verdict(Reward(1.0, {}, True))
    assert plain == Verdict(Reward(0.25, {}, None))
    assert ungraded == Verdict(None, "Ungraded: the judge is away")


def test_a_worker_shares_neither_process_nor_hash_seed_with_the_run(grader: WorkerPool) -> None:
    session, first, second = (v.reward for v in grade(grader, "session", "hash", "hash"))
    assert session is not None
    assert session.value != os.getpid()
    assert first == second
    code = "print(float(hash('a fixed seed') % 1000))"
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONHASHSEED": "0"}, capture_output=True, check=True
    )
    if grader._nursery is None:  # a fork cannot choose another hash seed
        assert first is not None
        assert first.value == float(done.stdout)


@pytest.mark.parametrize("named", [True, False])
def test_a_group_that_is_graded_together_has_the_time_of_all_and_fails_together(
    named: bool,
) -> None:
    with closing(pool(named, 2, Together())) as grader:
        assert grader.together
        shares = [v.reward and v.reward.value for v in grade(grader, "1", "1", "2")]
        assert shares == [0.25, 0.25, 0.5]
        for act, failure, says in (
            ("hang", "timeout", "longer than 3 s"),
            ("os._exit", "raised", "died"),
            ("sys.exit", "raised", "SystemExit"),
        ):
            found = grade(grader, "1", act, "2")
            assert found == [wrong(failure, found[0].error)] * 3
            assert says in found[0].error
        assert grade(grader, "1", "3")[1] == Verdict(Reward(0.75, {}, None))
        assert grade(grader) == []


class Sluggish(Fickle):
    """Takes as many milliseconds as the text says, and gives the problem's number."""

    def reward(self, problem: Problem, text: str) -> float:
        time.sleep(float(text) / 1000)
        return problem.fields["number"] + float(text) / 1000


class SluggishTogether(Sluggish):
    """The same for groups."""

    def rewards(self, problems: Sequence[Problem], texts: Sequence[str]) -> list[float]:
        return [self.reward(p, text) for p, text in zip(problems, texts, strict=True)]


@pytest.fixture(scope="module", params=[Sluggish, SluggishTogether])
def pools(request: pytest.FixtureRequest) -> Iterator[list[WorkerPool]]:
    made = [pool(count=n, task=request.param(), timeout=60) for n in (1, 2, 3)]
    yield made
    for one in made:
        one.close()


@settings(max_examples=8, deadline=None)
@given(st.lists(st.lists(st.integers(0, 12), max_size=5), max_size=6), st.randoms())
def test_verdicts_depend_neither_on_the_workers_nor_on_who_is_first(
    pools: list[WorkerPool], delays: list[list[int]], order: random.Random
) -> None:
    groups = [
        ([Problem("p", {"number": i}, "train", "p")] * len(group), [str(d) for d in group])
        for i, group in enumerate(delays)
    ]
    expected = [judge_group(GuardedTask(Sluggish(), "own", {}), *group) for group in groups]
    asked = list(range(len(groups)))
    order.shuffle(asked)
    for grader in pools:
        for i, group in enumerate(groups):
            grader.submit(i, *group)
        found = {i: grader.collect(i) for i in asked}
        assert [found[i] for i in range(len(groups))] == expected


def test_submitting_does_not_wait() -> None:
    with closing(pool(timeout=30)) as grader:
        text = "1" + " " * 1_000_000  # far more than a pipe holds
        started = time.monotonic()
        for key in range(20):
            grader.submit(key, [PROBLEM], [text])
        grader.submit("last", [PROBLEM], ["hang"])
        assert time.monotonic() - started < 2
        assert [grader.collect(key) for key in range(20)] == [[RIGHT]] * 20


def alive(pid: int) -> bool:
    """Whether a process is running, or is a zombie."""
    return Path(f"/proc/{pid}").exists()


def gone(pids: Sequence[int]) -> bool:
    for _ in range(200):
        if not any(map(alive, pids)):
            return True
        time.sleep(0.02)
    return False


def children() -> set[int]:
    """The processes that this one started."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        found |= {int(pid) for pid in (task / "children").read_text().split()}
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("named", [True, False])
def test_no_process_is_left_after_the_end(named: bool) -> None:
    before = children()
    with closing(pool(named, 3, timeout=30)) as grader:
        found = [v.reward for v in grade(grader, "session", "session", "sleeper", "fork and hang")]
        pids = [int(reward.value) for reward in found[:3] if reward is not None]
        assert len(pids) == 3
        assert all(map(alive, pids))
        grader.submit("never", [PROBLEM] * 9, ["ignore signals"] * 9)
        time.sleep(0.2)
        started = time.monotonic()
    assert time.monotonic() - started < 5
    grader.close()  # closing again does nothing
    assert gone(pids)
    assert children() == before


ABANDONED = """
import sys, time
sys.path.insert(0, sys.argv[1])
import test_grading_workers as here
if __name__ == "__main__":
    grader = here.pool(sys.argv[2] == "named", 2, timeout=60)
    found = here.grade(grader, *["session"] * 8)
    print(*{int(verdict.reward.value) for verdict in found}, flush=True)
    grader.submit("never", [here.PROBLEM] * 2, ["ignore signals", "ignore signals"])
    time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("how", ["named", "forked"])
def test_workers_die_with_a_run_that_is_killed(how: str) -> None:
    command = [sys.executable, "-c", ABANDONED, str(Path(__file__).parent), how]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        pids = [int(pid) for pid in run.stdout.readline().split()]
        assert pids
        time.sleep(0.2)
        run.kill()
    assert gone(pids)


def test_a_task_that_does_not_load_is_answered_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "broken.py"
    for text, says in (
        ("raise ValueError('no\\nluck')", "cannot import .*broken.py: ValueError: no luck"),
        ("import os; os._exit(3)", "the grader's process died"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
    ):
        file.write_text(text)
        how = reference("Task", str(file))
        made = WorkerPool(GuardedTask(Fickle(), "own", {}), how, workers=2, timeout=1, memory=1)
        with closing(made), pytest.raises(UserError, match=says) as caught:
            grade(made, "1")
        assert "\n" not in str(caught.value)


def test_loading_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "LOADING", 0.5)
    (tmp_path / "slow.py").write_text("import time; time.sleep(600)")
    how = reference("Task", str(tmp_path / "slow.py"))
    made = WorkerPool(GuardedTask(Fickle(), "own", {}), how, workers=1, timeout=1, memory=1)
    with closing(made), pytest.raises(UserError, match=r"longer than 0.5 s to load"):
        grade(made, "1")


def test_a_problem_that_json_cannot_hold_is_rejected() -> None:
    with closing(pool()) as grader, pytest.raises(UserError, match="cannot be written as JSON"):
        grader.submit("key", [Problem("p", {"set": {1}}, "train", "p")], ["1"])


def test_a_worker_loads_what_this_process_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative paths and modules mean the same, and no file of the folder replaces a module."""
    (tmp_path / "own.py").write_text(
        "from test_grading_workers import Fickle\n"
        "import neighbour\n"
        "class Own(Fickle):\n"
        "    def reward(self, problem, text): return neighbour.WORTH\n"
    )
    (tmp_path / "json.py").write_text("raise ValueError('not this one')")
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "neighbour.py").write_text("WORTH = 0.75")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    task = load_task("own.py:Own")
    how = reference("Own", "own.py")
    with closing(WorkerPool(task, how, workers=1, timeout=9, memory=1)) as grader:
        assert grade(grader, "?") == [Verdict(Reward(0.75, {}, None))]


class Leaky(Fickle):
    """Keeps 90 MB per answer, and gives the number of its process."""

    kept: ClassVar[list[bytearray]] = []

    def reward(self, problem: Problem, text: str) -> float:
        self.kept.append(bytearray(b"x") * 90_000_000)
        return float(os.getpid())


def test_a_worker_whose_memory_fills_up_is_replaced_before_an_answer_fails() -> None:
    with closing(pool(task=Leaky(), timeout=30, memory=0.3)) as grader:
        found = [v.reward for v in grade(grader, *["?"] * 8)]
    assert [reward and reward.failure for reward in found] == [None] * 8
    assert len({reward.value for reward in found if reward}) == 4  # 180 MB are more than half


def test_a_verdict_is_data_and_nothing_else() -> None:
    for verdict in (RIGHT, HALF, wrong("raised", "x"), Verdict(None, "away")):
        assert (
            worker.verdict_from_json(json.loads(json.dumps(worker.verdict_to_json(verdict))))
            == verdict
        )
    forged: list[Any] = [
        None,
        3,
        [],
        [1],
        [[1], ""],
        [["x", {}, True, None], ""],
        [[1, [], True, None], ""],
        [[1, {}, "yes", None], ""],
        [[1, {}, True, "dropped"], ""],
        [[float("nan"), {}, True, None], ""],
        [[1, {"a": float("inf")}, True, None], ""],
        [[10**400, {}, True, None], ""],
    ]
    for plain in forged:
        with pytest.raises(ValueError, match=r".+"):
            worker.verdict_from_json(plain)


def test_a_grader_that_fails_does_not_stop_a_run(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tinyzero import cli

    options = {
        "task": f"{__file__}:Testy",
        "model.name": base,
        "run.dir": tmp_path / "run",
        "steps": 2,
        "rollout.prompts": 2,
        "rollout.samples": 4,
        "rollout.max_tokens": 4,
        "eval.max_tokens": 4,
        "eval.every": 0,
        "eval.test_problems": 2,
        "algorithm.filter": "none",
        "grading.timeout": 0.3,
    }
    given = [f"--{key}={value}" for key, value in options.items()]
    assert cli.main(["train", *given]) == 0
    said = capsys.readouterr().out
    assert said.count("alarm: the grader failed on") == 1
    written = list(records.read(tmp_path / "run" / "metrics.jsonl"))
    hung = sum(record["grading/timeout"] for record in written)
    assert (sum(record["grading/raised"] for record in written), hung > 0) == (0, True)
    assert sum(record["reward_errors"] for record in written) == hung


def test_a_ctrl_c_ends_the_wait_and_closes_cleanly() -> None:
    def interrupt(number: int, frame: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGINT, interrupt)
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    try:
        with closing(pool(timeout=60)) as grader:
            grader.submit("key", [PROBLEM] * 2, ["1", "hang"])
            timer.start()
            with pytest.raises(Interrupted):
                grader.collect("key")
    finally:
        timer.join()
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("verb", ["eval", "sample"])
def test_other_commands_grade_in_workers_too(
    verb: str, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tinyzero import cli

    out = ["--out", str(tmp_path / "out.jsonl")] if verb == "sample" else []
    given = ["--task", f"{__file__}:Testy", "--n", "8", "--max-tokens", "4"]
    before = children()
    assert cli.main([verb, str(base), *given, *out, "--grading.timeout", "0.3"]) == 0
    assert children() == before
    said = capsys.readouterr().out
    assert "failed on" in said or "raised on" in said


class Testy(Fickle):
    """Hangs on every answer to every third sum."""

    def reward(self, problem: Problem, text: str) -> float:
        if sum(map(ord, text)) % 3 == 0:
            time.sleep(600)
        return float(len(text) % 2)
