"""The gallery in examples/: tasks pass `check-task`, and rewards do what their page says."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tinyzero.config import resolve
from tinyzero.errors import UserError
from tinyzero.grading import TaskReference, Verdict, WorkerPool, judge_group
from tinyzero.run import records
from tinyzero.tasks import load_task
from tinyzero.tasks.check import check_task
from tinyzero.train import train
from tinyzero.types import Problem

EXAMPLES = Path(__file__).parents[1] / "examples"
PAGE = (EXAMPLES.parent / "docs" / "examples.md").read_text(encoding="utf-8")
TASKS = [
    "my_task.py:BeatTheSum",
    "sorting.py:Sorting",
    "json_output.py:Person",
    "regular_expressions.py:WriteRegex",
    "own_rows.py:Rows",
    "guessing_game.py:GuessingGame",
]
JUDGE = f"{EXAMPLES}/judge.py:Haiku"


@pytest.mark.filterwarnings("ignore:Possible nested set:FutureWarning")  # of an odd pattern
@pytest.mark.parametrize("name", TASKS)
def test_a_task_passes_the_check(name: str) -> None:
    assert check_task(load_task(f"{EXAMPLES}/{name}"), problems=20) == []


def test_every_file_is_on_the_page() -> None:
    files = sorted(path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb"))
    assert [name for name in files if f"(../examples/{name})" not in PAGE] == []


def test_a_task_trains(base: Path, tmp_path: Path) -> None:
    table = {
        "steps": 1,
        "task": {"name": f"{EXAMPLES}/sorting.py:Sorting", "count": 2},
        "algorithm": {"name": "grpo"},
        "model": {"name": str(base)},
        "rollout": {"prompts": 2, "samples": 2, "max_tokens": 40},
        "eval": {"test_problems": 0},
    }
    train(resolve(table, {}), tmp_path / "run")
    (step,) = records.read(tmp_path / "run" / "metrics.jsonl")
    assert 0 <= step["accuracy"] <= 1
    written = list(records.read(tmp_path / "run" / "rollouts.jsonl"))
    assert all(len(rollout["problem"].split()) == 2 for rollout in written)


def test_json_is_paid_part_by_part() -> None:
    task = load_task(f"{EXAMPLES}/json_output.py:Person")
    person = {"name": "Ada", "city": "Cairo", "year": 1990}
    problem = Problem("p", {"sentence": "", "person": person}, "train", "p")

    def earned(text: str) -> tuple[float, bool]:
        reward = task.reward(problem, text)
        return reward.value, reward.right

    assert earned(json.dumps(person)) == (1.0, True)
    assert earned('{"name": "Ada", "city": "Cairo", "year": "1990"}') == (0.2, False)
    assert earned('{"name": "Ada"}') == (0.1, False)
    assert earned("[1]") == (0.0, False)
    assert earned('The answer is {"name": "Ada"}') == (0.0, False)


def test_a_pattern_must_match_words_that_were_not_shown() -> None:
    task = load_task(f"{EXAMPLES}/regular_expressions.py:WriteRegex")
    problem = task.problem("train", 0)
    shown = problem.fields["matching"][:4]
    assert task.reward(problem, task.solution(problem))
    assert not task.reward(problem, f" {'|'.join(shown)}\n"), "a list of the words that are shown"
    assert not task.reward(problem, " .*\n")
    assert not task.reward(problem, " (\n")
    assert not task.reward(problem, f" {problem.fields['pattern']}"), "the line has no end"


def test_a_pattern_that_backtracks_costs_one_answer() -> None:
    name = f"{EXAMPLES}/regular_expressions.py:WriteRegex"
    task = load_task(name)
    problem = task.problem("train", 0)
    fields = {**problem.fields, "matching": ["qwertyuio"]}
    slow = Problem(problem.id, fields, "train", problem.key)

    reference = TaskReference("tinyzero.tasks:load_task", name, {})
    pool = WorkerPool(task, reference, workers=1, timeout=1.0, memory=1.0)
    with closing(pool) as grader:
        grader.submit(0, [slow], ["(((.*)*)*)*!\n"])
        grader.submit(1, [problem], [task.solution(problem)])
        ((late,), (after,)) = grader.collect(0), grader.collect(1)
    assert late.reward is not None
    assert (late.reward.value, late.reward.right, late.reward.failure) == (0.0, False, "timeout")
    assert after.reward is not None
    assert after.reward.right


def test_rows_are_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    questions = [{"question": f"What is {i} + {i}?", "answer": f"{2 * i}"} for i in range(60)]
    file.write_text("".join(json.dumps(question) + "\n" for question in questions))
    task = load_task(f"{EXAMPLES}/own_rows.py:Rows", {"file": str(file)})

    sizes = [task.size(split) or 0 for split in ("train", "dev", "test")]
    assert sum(sizes) == 60
    assert min(sizes) > 0
    problem = task.problem("test", sizes[2])
    assert problem == task.problem("test", 0), "the first row follows the last one"
    assert task.reward(problem, f"</think><answer> {problem.fields['answer']} </answer>") is True
    assert task.reward(problem, "</think><answer>no</answer>") is False


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read"),
        ('{"question": "?", "answer": 1}\n[]\n', "line 2 of"),
        ('{"question": "?"}\n', "line 1 of"),
        ('{"question": "?", "answer": 1}\n', "has no row for"),
    ],
)
def test_a_wrong_file_of_rows_is_one_line(
    content: str | None, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "mine.jsonl"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UserError, match=message):
        load_task(f"{EXAMPLES}/own_rows.py:Rows", {"file": str(file)})


Reply = Callable[[str], tuple[int, Any]]


@pytest.fixture
def judge_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Reply], str]]:
    """Starts a judge on this machine. Its function turns a question into a status and a reply."""
    monkeypatch.setenv("no_proxy", "*")
    servers: list[HTTPServer] = []

    def start(reply: Reply) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, answer = reply(body["messages"][0]["content"])
                payload = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

            def log_message(self, *_: Any) -> None:
                """Nothing is printed."""

        server = HTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}/v1/chat/completions"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def says(content: object) -> dict[str, Any]:
    """A reply in the format of OpenAI's chat interface."""
    return {"choices": [{"message": {"role": "assistant", "content": content}}]}


def verdict(url: str, text: str, **options: Any) -> Verdict:
    """The verdict on one completion."""
    task = load_task(JUDGE, {"url": url, **options})
    (only,) = judge_group(task, [task.problem("train", 0)], [text])
    return only


def test_a_judge_rates_the_text(judge_server: Callable[[Reply], str]) -> None:
    def reply(question: str) -> tuple[int, Any]:
        return 200, says("9" if "old pond" in question else " 2\n")

    url = judge_server(reply)
    assert verdict(url, "old pond").reward.value == 0.9  # type: ignore[union-attr]
    assert verdict(url, "no poem").reward.value == 0.2  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (500, says("9")),
        (200, says("I would give it a 9")),
        (200, says("11")),
        (200, says(None)),
        (200, {"choices": []}),
        (200, {"error": "overloaded"}),
        (200, [1]),
        (200, b"not JSON"),
        (200, b"\xff"),
    ],
)
def test_no_answer_is_punished_for_a_judge_that_fails(
    status: int, answer: Any, judge_server: Callable[[Reply], str]
) -> None:
    failed = verdict(judge_server(lambda question: (status, answer)), "old pond")
    assert failed.reward is None
    assert failed.error.startswith("Ungraded: the judge ")


def test_no_answer_is_punished_for_a_judge_that_is_slow(
    judge_server: Callable[[Reply], str],
) -> None:
    def reply(question: str) -> tuple[int, Any]:
        time.sleep(1)
        return 200, says("9")

    assert verdict(judge_server(reply), "old pond", seconds=0.1).reward is None


def test_no_answer_is_punished_for_a_judge_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    options = {"url": "http://127.0.0.1:9/v1/chat/completions"}
    task = load_task(JUDGE, options)
    reference = TaskReference("tinyzero.tasks:load_task", JUDGE, options)
    pool = WorkerPool(task, reference, workers=1, timeout=10.0, memory=1.0)
    with closing(pool) as grader:
        grader.submit(0, [task.problem("train", 0)], ["old pond"])
        (away,) = grader.collect(0)
    assert away.reward is None
