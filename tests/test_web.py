"""The play page: its requests and answers, what it rejects, and its behaviour in a browser."""

import http.client
import json
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tiny
from helpers import has_ipv6, refused

from tinyzero import cli, models
from tinyzero.grading import LocalGrader
from tinyzero.rollouts import Player
from tinyzero.samplers.scripted import ScriptedSampler
from tinyzero.samplers.torch import TorchSampler
from tinyzero.tasks.base import Task
from tinyzero.tasks.countdown.task import Countdown
from tinyzero.tasks.guarded import GuardedTask
from tinyzero.tasks.multiplication.task import Multiplication
from tinyzero.tools.web.play import (
    ANSWERS,
    MAX_BODY,
    NO_TYPING,
    Candidate,
    Handler,
    Playground,
    Server,
)
from tinyzero.tools.web.server import CONNECTIONS, PATIENCE
from tinyzero.types import Problem, Reward, SamplingParams, Split

THOUGHT = "12-3=9,9*5=45 vs 24 no\n5-3=2,2*12=24 vs 24 yes\n</think>\n<answer>(5-3)*12</answer>"
ASKED = {"line": "24 from 3 5 12"}


def player(
    script: Callable[[str, int], str], name: str = "scripted", max_tokens: int = 200
) -> Candidate:
    """A model that writes the text of a script, token by token."""
    tokenizer = tiny.tokenizer()
    encode = partial(models.encode_prompt, tokenizer)
    sampler = ScriptedSampler(script, encode, models.decoder(tokenizer))
    return candidate(name, 1_234_567, sampler, encode, SamplingParams(max_tokens=max_tokens))


def candidate(name: str, size: int, sampler: Any, encode: Any, params: SamplingParams) -> Candidate:
    """A model on the page; `serving` sets its task."""
    return Candidate(name, size, Player(Countdown(), sampler, encode, "compact"), params)


def scripted(text: str = THOUGHT, **more: Any) -> Candidate:
    return player(lambda prompt, sample: text, **more)


@contextmanager
def serving(*candidates: Candidate, task: Task | None = None) -> Iterator[Server]:
    if task is not None:
        for one in candidates:
            one.player.task = GuardedTask(task, "own", {})
            one.player.grader = LocalGrader(one.player.task)
    with Server(Playground(candidates), "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def send(
    server: Server, path: str, body: Any = None, method: str = "POST", **headers: str
) -> tuple[int, http.client.HTTPMessage, str]:
    """Send a request as the page does, with other `headers`; a header of "" is left out."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    own = f"127.0.0.1:{server.server_port}"
    sent = {"Host": own} | (
        {"Content-Type": "application/json", "Origin": f"http://{own}"} if method == "POST" else {}
    )
    sent = {name: text for name, text in (sent | headers).items() if text}
    text = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    try:
        connection.request(method, path, text, sent)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read().decode()
    finally:
        connection.close()


def events(text: str) -> list[dict[str, Any]]:
    """The JSON objects of server-sent events, whose format is checked strictly."""
    parts = text.split("\n\n")
    assert parts.pop() == ""
    assert all(part.startswith("data: ") and "\n" not in part for part in parts)
    return [json.loads(part.removeprefix("data: ")) for part in parts]


def test_an_answer_comes_token_by_token_with_its_prompt_and_verdict() -> None:
    with serving(scripted()) as server:
        status, headers, text = send(server, "/think", ASKED)
    assert (status, headers.get_content_type()) == (200, "text/event-stream")
    first, *pieces, last = events(text)
    assert first == {
        "shown": "24 from 3 5 12",
        "prompt": "24 from 3 5 12\n<think>\n",
    }
    assert "".join(piece["text"] for piece in pieces) == THOUGHT
    tokens = len(models.encode_prompt(tiny.tokenizer(), THOUGHT))
    assert len(pieces) == tokens
    assert last == {"tokens": tokens, "limit": False, "right": True, "reward": 1.0}


def test_the_verdict_is_the_graders_not_the_models() -> None:
    wrong = "1+1=2 vs 24 yes\n</think>\n<answer>3+5+12</answer>"
    with serving(scripted(wrong), scripted("5*5", max_tokens=2)) as server:
        assert events(send(server, "/think", ASKED)[2])[-1] | {"tokens": 0} == {
            "tokens": 0,
            "limit": False,
            "right": False,
            "reward": 0.1,
        }
        assert events(send(server, "/think", ASKED | {"model": 1})[2])[-1] == {
            "tokens": 2,
            "limit": True,
            "right": False,
            "reward": 0.0,
        }


def test_the_page_chooses_the_model_the_seed_and_the_temperature() -> None:
    asked = []

    class Watched(ScriptedSampler):
        def stream(self, prompt: Any, params: SamplingParams) -> Iterator[str]:
            asked.append((self.script("", 0), params.seed, params.temperature))
            return super().stream(prompt, params)

    tokenizer = tiny.tokenizer()
    encode = partial(models.encode_prompt, tokenizer)
    players = []
    for name in "ab":
        sampler = Watched(lambda prompt, sample, name=name: name, encode, models.decoder(tokenizer))  # type: ignore[misc]
        players.append(candidate(name, 1, sampler, encode, SamplingParams(temperature=0.5, seed=9)))
    with serving(*players) as server:
        assert json.loads(send(server, "/about", method="GET")[2]) == {
            "rules": "Make the target from the numbers, each used exactly once, with + - * /.",
            "posable": True,
            "models": [{"name": "a", "parameters": 1}, {"name": "b", "parameters": 1}],
            "temperature": 0.5,
            "seed": 9,
        }
        send(server, "/think", ASKED | {"model": 1, "seed": 4, "temperature": 0})
        send(server, "/think", ASKED | {"seed": 5, "temperature": 1.5})
    assert asked == [("b", 4, 0), ("a", 5, 1.5)]


def test_problems_are_drawn_from_the_test_split_by_index() -> None:
    task = Countdown()
    with serving(scripted(), task=task) as server:
        drawn = json.loads(send(server, "/draw", {"index": 3})[2])
        asked = events(send(server, "/think", {"index": 3})[2])[0]
        solution = json.loads(send(server, "/solution", {"index": 3})[2])["solution"]
    problem = task.problem("test", 3)
    assert drawn == {"line": task.line(problem), "shown": task.line(problem)}
    assert asked["shown"] == task.line(problem)
    assert task.reward(problem, f"</think><answer>{solution}</answer>").value == 1
    assert task.pose(drawn["line"]) == problem


class Greet:
    """A task that cannot be played and whose reward raises."""

    def problem(self, split: Split, index: int) -> Problem:
        return Problem(f"{index}", {"who": index}, split, f"{index}")

    def prompt(self, problem: Problem, template: str) -> str:
        return f"hello {problem.fields['who']}\n"

    def reward(self, problem: Problem, text: str) -> Reward:
        raise ZeroDivisionError("no reward")

    def solution(self, problem: Problem) -> str:
        return "good day"


def test_a_task_that_cannot_be_posed_and_whose_reward_raises() -> None:
    with serving(scripted("good day"), task=Greet()) as server:
        about = json.loads(send(server, "/about", method="GET")[2])
        assert (about["posable"], about["rules"]) == (False, NO_TYPING)
        assert json.loads(send(server, "/draw", {"index": 2})[2]) == {
            "line": None,
            "shown": "hello 2",
        }
        assert json.loads(send(server, "/solution", {"index": 2})[2]) == {"solution": "good day"}
        last = events(send(server, "/think", {"index": 2})[2])[-1]
        assert last["error"] == "the reward function raised ZeroDivisionError: no reward"
        status, _, text = send(server, "/think", {"line": "you"})
        assert (status, "cannot be typed" in text) == (400, True)


class Careless(Countdown):
    """A task whose methods raise errors of several lines."""

    def pose(self, line: str) -> Problem:
        return Problem(line, {"numbers": [int(word) for word in line.split("-")]}, "test", line)

    def solution(self, problem: Problem) -> str:
        raise KeyError("no\nsolution")


def test_what_a_task_raises_is_one_line() -> None:
    class Odd(Careless):
        def pose(self, line: str) -> Problem:
            return Problem(line, {"set": {1}}, "test", line)  # `line` finds no numbers

    with serving(scripted(), task=Careless()) as server:
        status, _, text = send(server, "/think", {"line": "x"})
        assert status == 500
        assert json.loads(text)["error"].startswith("Careless raised ValueError: invalid literal")
        status, _, text = send(server, "/solution", {"index": 1})
        assert status == 500
        assert json.loads(text)["error"].startswith(r"Careless raised KeyError: 'no\nsolution' (")
    with serving(scripted(), task=Odd()) as server:
        status, _, text = send(server, "/think", {"line": "x"})
        assert status == 500
        assert json.loads(text)["error"].startswith("Odd raised KeyError: 'numbers' (")


def test_an_unexpected_error_in_a_begun_answer_is_one_line() -> None:
    class Broken(ScriptedSampler):
        def stream(self, prompt: Any, params: SamplingParams) -> Iterator[str]:
            yield "1"
            raise RuntimeError("no\nmemory")

    encode = partial(models.encode_prompt, tiny.tokenizer())
    broken = Broken(lambda prompt, sample: "", encode, models.decoder(tiny.tokenizer()))
    with serving(candidate("broken", 1, broken, encode, SamplingParams())) as server:
        status, _, text = send(server, "/think", ASKED)
    *_, piece, last = events(text)
    assert (status, piece) == (200, {"text": "1"})
    assert "no memory" in last["error"]


@pytest.mark.parametrize(
    "prompt",
    [
        "  What is 3 + 4?\n",
        [
            {"role": "system", "content": "Think first."},
            {"role": "user", "content": "What is 3 + 4?"},
            {"role": "assistant", "content": "<think>"},
        ],
    ],
)
def test_a_problem_is_shown_by_its_question_and_never_by_its_answer(prompt: Any) -> None:
    class Secret(Greet):
        def problem(self, split: Split, index: int) -> Problem:
            return Problem(f"{index}", {"answer": 7, "why": "x" * 9000}, split, f"{index}")

        def prompt(self, problem: Problem, template: str) -> Any:
            return prompt

    with serving(scripted("7"), task=Secret()) as server:
        text = send(server, "/draw", {"index": 0})[2]
    assert json.loads(text) == {"line": None, "shown": "What is 3 + 4?"}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"line": "nonsense"}, "'nonsense' is not a Countdown problem"),
        ({"line": ""}, "is not a Countdown problem"),
        ({"line": "97 from 1 2 3"}, "97 cannot be made from 1, 2, 3"),
        ({"line": "1 " * 200}, "at most 200 characters"),
        ({"line": 24}, "request.line is 24"),
        (ASKED | {"model": 1}, "no model 1"),
        (ASKED | {"model": -1}, "request.model is -1"),
        (ASKED | {"seed": -1}, "request.seed is -1"),
        (ASKED | {"seed": 0.5}, "request.seed is 0.5"),
        (ASKED | {"temperature": 6}, "request.temperature is 6"),
        (ASKED | {"temperature": float("nan")}, "request.temperature is nan"),
        (ASKED | {"max_tokens": 10**9}, "unknown key request.max_tokens"),
        ({"index": 10**9}, "request.index"),
        ([], "send a JSON object"),
        (b"{", "send a JSON object"),
        (b"[" * 4000, "send a JSON object"),
        (b"\xff", "send a JSON object"),
    ],
)
def test_an_invalid_request_is_refused_in_one_line(body: Any, says: str) -> None:
    with serving(scripted()) as server:
        status, headers, text = send(server, "/think", body)
    assert (status, headers.get_content_type()) == (400, "application/json")
    error = json.loads(text)["error"]
    assert says in error
    assert "\n" not in error


def test_a_context_that_is_too_small_is_an_error() -> None:
    sampler = tiny.sampler(tiny.model())
    encode = partial(models.encode_prompt, tiny.tokenizer())
    small = candidate("small", 1, sampler, encode, SamplingParams(max_tokens=125))
    with serving(small) as server:
        last = events(send(server, "/think", ASKED)[2])[-1]
    assert "lower max_tokens" in last["error"]


def test_the_bundled_base_streams_what_it_generates() -> None:
    model, tokenizer = models.load_model("tiny"), models.load_tokenizer("tiny")
    sampler = TorchSampler(model, models.decoder(tokenizer), models.end_ids(tokenizer, model))
    params = SamplingParams(max_tokens=60)
    encode = partial(models.encode_prompt, tokenizer)
    with serving(candidate("tiny", 769_024, sampler, encode, params)) as server:
        found = events(send(server, "/think", ASKED | {"seed": 3})[2])
    expected = tiny.sample(
        sampler,
        [encode(found[0]["prompt"])],
        SamplingParams(max_tokens=60, seed=3, stop=("</answer>",)),
    )[0][0]
    assert "".join(event.get("text", "") for event in found) == expected.text
    assert found[-1]["tokens"] == len(expected.token_ids)


class Slow(ScriptedSampler):
    """Writes "1" without end, each time the test allows it, and counts its open streams."""

    def __init__(self) -> None:
        encode = partial(models.encode_prompt, tiny.tokenizer())
        super().__init__(lambda prompt, sample: "", encode, models.decoder(tiny.tokenizer()))
        self.writing, self.go = 0, threading.Event()

    def stream(self, prompt: Any, params: SamplingParams) -> Iterator[str]:
        self.writing += 1
        try:
            while True:
                yield "1"
                self.go.wait(30)
        finally:
            self.writing -= 1


def eventually(holds: Callable[[], bool]) -> bool:
    """Whether a condition becomes true within ten seconds, because of another thread."""
    for _ in range(1000):
        if holds():
            return True
        time.sleep(0.01)
    return False


def begin(server: Server, body: dict[str, Any]) -> http.client.HTTPResponse:
    """Ask for an answer and read only its first event."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    connection.request("POST", "/think", json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    assert answer.readline().startswith(b"data: ")
    return answer


def test_answers_written_at_once_are_limited_and_a_closed_tab_frees_its_slot() -> None:
    slow = Slow()
    waiting = candidate("slow", 1, slow, slow.encode, SamplingParams())
    with serving(waiting) as server:
        listening = [begin(server, ASKED) for _ in range(ANSWERS)]
        assert eventually(lambda: slow.writing == ANSWERS)
        status, headers, text = send(server, "/think", ASKED)
        assert (status, headers["Retry-After"]) == (503, "2")
        assert "try again in a moment" in json.loads(text)["error"]
        assert send(server, "/", method="GET")[0] == 200, "the page itself is still served"
        listening.pop().close()
        slow.go.set()
        assert eventually(lambda: slow.writing == ANSWERS - 1), "a closed tab stops the writing"
        begin(server, ASKED).close()
        for answer in listening:
            answer.close()
        assert eventually(lambda: slow.writing == 0)


def test_connections_are_bounded() -> None:
    with serving(scripted()) as server:
        idle = [
            socket.create_connection(("127.0.0.1", server.server_port)) for _ in range(CONNECTIONS)
        ]
        with pytest.raises((ConnectionError, http.client.BadStatusLine)):
            send(server, "/", method="GET")
        for connection in idle:
            connection.close()
        assert eventually(lambda: _answers(server))


def _answers(server: Server) -> bool:
    try:
        return send(server, "/", method="GET")[0] == 200
    except (ConnectionError, http.client.BadStatusLine):
        return False


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "[::1", "localhost.x"]
)
def test_another_host_name_for_this_machine_is_refused(host: str) -> None:
    with serving(scripted()) as server:
        for method, path, body in (
            ("GET", "/", None),
            ("GET", "/about", None),
            ("POST", "/think", ASKED),
        ):
            connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
            connection.putrequest(method, path, skip_host=True)
            text = json.dumps(body).encode() if body else b""
            for name, value in {"Host": host, "Content-Type": "application/json"}.items():
                connection.putheader(name, value)
            connection.putheader("Content-Length", str(len(text)))
            connection.endheaders(text)
            answer = connection.getresponse()
            assert answer.status == 403
            assert json.loads(answer.read())["error"] == f"this page is at {server.url}"
            connection.close()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "192.168.1.7"])
def test_its_own_names_and_addresses_are_accepted(host: str) -> None:
    with serving(scripted()) as server:
        own = f"{host}:{server.server_port}"
        assert send(server, "/", method="GET", Host=own)[0] == 200
        assert send(server, "/think", ASKED, Host=own, Origin=f"http://{own}")[0] == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://[::1"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Origin": "http://["}, 403),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Type": ""}, 415),
        ({"Origin": ""}, 200),  # not a browser: curl, for example
    ],
)
def test_other_sites_cannot_ask(headers: dict[str, str], status: int) -> None:
    with serving(scripted()) as server:
        assert send(server, "/think", ASKED, **headers)[0] == status


def test_bodies_are_bounded() -> None:
    with serving(scripted()) as server:
        assert send(server, "/think", b" " * (MAX_BODY + 1))[0] == 413
        assert send(server, "/think", json.dumps(ASKED).encode().ljust(MAX_BODY))[0] == 200
        assert send(server, "/think", ASKED, **{"Content-Length": "x"})[0] == 411
        assert send(server, "/think", b" " * MAX_BODY, **{"Content-Length": "1" * 4301})[0] == 413


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/think"), ("GET", "/../play.py"), ("POST", "/"), ("POST", "/x")]
)
def test_there_is_nothing_else(method: str, path: str) -> None:
    with serving(scripted()) as server:
        assert send(server, path, ASKED if method == "POST" else None, method)[0] == 404


def test_the_page_asks_for_nothing_from_elsewhere() -> None:
    with serving(scripted()) as server:
        _, headers, page = send(server, "/", method="GET")
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "//" not in page.replace("\n//", "").split("<script>")[0]
    assert "innerHTML" not in page


@pytest.mark.parametrize(
    ("host", "name", "private"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("localhost", "localhost", True),
        ("0.0.0.0", "127.0.0.1", False),
        ("::1", "[::1]", True),
    ],
)
def test_the_address_that_it_listens_on(host: str, name: str, private: bool) -> None:
    if host == "::1" and not has_ipv6():
        pytest.skip("this machine has no IPv6")
    with Server(Playground([scripted()]), host, 0) as server:
        assert server.url == f"http://{name}:{server.server_port}/"
        assert server.is_private == private


def test_mistakes_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert "add --web" in refused(capsys, "play", "tiny", "tiny")
    assert "add --web" in refused(capsys, "play", "tiny", "--port", "1")
    assert "add --web" in refused(capsys, "play", "tiny", "--host", "0.0.0.0")
    assert "'70000' is not a port" in refused(capsys, "play", "tiny", "--web", "--port", "70000")
    assert "name one with --task" in refused(capsys, "play", "--web", "tiny", "tiny-multiplication")
    assert "--temperature is 9: the page goes up to 5" in refused(
        capsys, "play", "--web", "tiny", "--temperature", "9"
    )
    assert "nosuch" in refused(capsys, "play", "--web", "tiny", "nosuch")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"cannot listen on 127.0.0.1 port {port}" in refused(
            capsys, "play", "--web", "tiny", "--port", port
        )


def test_two_models_whose_tasks_have_other_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    models.save_model(tiny.model(layers=1), tiny.tokenizer(), tmp_path / "mine")
    mine, recipe = str(tmp_path / "mine"), tmp_path / "mine" / "recipe.toml"
    recipe.write_text('inherit = "laptop"\n[task]\nmax_number = 9\n')
    command = ["play", "--web", "tiny", mine, "--port", "0", "--model.threads", "1"]
    assert f"tiny and {mine} were trained on different tasks, or with different options" in refused(
        capsys, *command
    )
    served = []

    def once(self: Server) -> None:
        served.append(self.playground.task.options.max_number)  # type: ignore[attr-defined]
        raise KeyboardInterrupt

    monkeypatch.setattr(Server, "serve_forever", once)
    assert cli.main([*command, "--recipe", str(recipe)]) == 0
    assert served == [9]


def test_the_command_serves_two_models_until_it_is_interrupted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    served = []

    def once(self: Server) -> None:
        served.append(self.playground.about()["models"])
        raise KeyboardInterrupt

    monkeypatch.setattr(Server, "serve_forever", once)
    assert cli.main(["play", "--web", "tiny", "tiny", "--port", "0", "--model.threads", "1"]) == 0
    assert served == [[{"name": "tiny", "parameters": 769_024}] * 2]
    assert "the page is at http://127.0.0.1:" in capsys.readouterr().out
    assert (
        cli.main(
            ["play", "--web", "tiny", "--port", "0", "--host", "0.0.0.0", "--model.threads", "1"]
        )
        == 0
    )
    assert "there is no password" in capsys.readouterr().out


# ---- in a real browser


def chromium() -> str | None:
    return (
        shutil.which("chromium")
        or shutil.which("chromium-browser")
        or shutil.which("google-chrome")
    )


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium that is installed on this machine."""
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="needs playwright: pip install tinyzero[dev]"
    )
    path = chromium()
    if path is None:
        pytest.skip("needs a chromium on the path, such as Debian's package chromium")
    with sync_api.sync_playwright() as started:
        found = started.chromium.launch(
            executable_path=path, args=["--no-sandbox"] if sys.platform == "linux" else []
        )
        sync_api.expect.set_options(timeout=60_000)  # a busy machine is not the page's fault
        yield found
        found.close()


@contextmanager
def page_of(browser: Any, server: Server, width: int = 1440) -> Iterator[Any]:
    """The opened page; its console must be empty when it is closed."""
    page = browser.new_page(viewport={"width": width, "height": 800})
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(server.url)
    page.wait_for_selector(".player")
    yield page
    assert complaints == []
    page.close()


def fits(page: Any) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"))


@pytest.mark.browser
@pytest.mark.parametrize("width", [375, 1440])
def test_a_problem_is_posed_with_the_keyboard_and_both_models_answer(
    browser: Any, width: int
) -> None:
    from playwright.sync_api import expect

    wrong = "3+5=8,8+12=20 vs 24 no\n</think>\n<answer>3+5+12</answer>"
    players = [
        scripted(wrong, name="base"),
        scripted(name="runs/a-folder-with-a-name/" + "long" * 12),
    ]
    with serving(*players) as server, page_of(browser, server, width) as page:
        line = page.get_by_label("Problem")
        expect(line).to_have_value(Countdown().line(Countdown().problem("test", 0)))
        assert fits(page)
        expect(page.get_by_text("held out from training")).to_be_visible()
        line.fill("24 from 3 5 12")
        expect(page.get_by_text("held out from training")).to_be_hidden()
        line.press("Enter")
        expect(page.locator(".verdict")).to_have_text(["✗ wrong", "✓ right"])
        texts = page.locator("pre")
        assert texts.nth(0).text_content() == "24 from 3 5 12\n<think>\n" + wrong
        assert texts.nth(1).text_content() == "24 from 3 5 12\n<think>\n" + THOUGHT
        assert texts.nth(1).locator(".yes").text_content() == "\n5-3=2,2*12=24 vs 24 yes"
        page.get_by_role("button", name="Show a solution").click()
        expect(page.locator("#solution")).to_have_text("one solution: (5-3)*12")
        assert fits(page)


@pytest.mark.browser
def test_tokens_appear_as_they_come_and_can_be_stopped(browser: Any) -> None:
    from playwright.sync_api import expect

    slow = Slow()
    with serving(candidate("slow", 1, slow, slow.encode, SamplingParams())) as server:
        for leave in ("stop", "close"):
            slow.go.clear()
            with page_of(browser, server) as page:
                page.get_by_role("button", name="Think").click()
                expect(page.locator(".cost")).to_have_text("1 token")
                expect(page.locator(".verdict")).to_have_text("thinking …")
                if leave == "stop":
                    page.get_by_role("button", name="Stop").click()
                    expect(page.locator(".verdict")).to_have_text("stopped")
                    slow.go.set()
                    assert eventually(lambda: slow.writing == 0)
            slow.go.set()
            assert eventually(lambda: slow.writing == 0), "a closed tab stops the writing"


@pytest.mark.browser
def test_what_models_write_is_text(browser: Any) -> None:
    from playwright.sync_api import expect

    class Evil:
        decode = staticmethod(models.decoder(tiny.tokenizer()))

        def stream(self, prompt: Any, params: SamplingParams) -> Iterator[str]:
            yield from (
                "<img src=x onerror=alert(1)>",
                "<script>alert(2)</",
                "script>\n\ndata: 3\u2028",
            )

    encode = partial(models.encode_prompt, tiny.tokenizer())
    name = "<b>bold</b>"
    evil = candidate(name, 1, Evil(), encode, SamplingParams())
    with serving(evil) as server, page_of(browser, server) as page:
        page.get_by_role("button", name="Think").click()
        expect(page.locator(".verdict")).to_have_text("✗ wrong")
        text = page.locator("pre").text_content()
        assert text.endswith(
            "<img src=x onerror=alert(1)><script>alert(2)</script>\n\ndata: 3\u2028"
        )
        assert page.locator("pre img, pre script, h3 b").count() == 0


@pytest.mark.browser
def test_an_error_appears_under_the_line_and_goes_away(browser: Any) -> None:
    from playwright.sync_api import expect

    with serving(scripted()) as server:
        page = browser.new_page()
        page.goto(server.url)
        page.wait_for_selector(".player")
        page.get_by_label("Problem").fill("97 from 1 2 3")
        page.get_by_role("button", name="Think").click()
        expect(page.get_by_role("alert")).to_have_text(
            "97 cannot be made from 1, 2, 3 with +-*/: try another target"
        )
        expect(page.get_by_label("Problem")).to_have_attribute("aria-invalid", "true")
        expect(page.locator("pre")).to_have_text("")
        page.get_by_role("button", name="Draw another").click()
        expect(page.locator("#message")).to_have_text("")
        second = Countdown().problem("test", 1)
        expect(page.get_by_label("Problem")).to_have_value(Countdown().line(second))
        page.close()


@pytest.mark.browser
def test_an_invalid_problem_leaves_the_answers_and_the_heading_says_whose_they_are(
    browser: Any,
) -> None:
    from playwright.sync_api import expect

    with serving(scripted(), scripted("5*5")) as server:
        page = browser.new_page()
        page.goto(server.url)
        page.wait_for_selector(".player")
        heading, line = page.locator("#problem"), page.get_by_label("Problem")
        line.fill("hello")
        line.press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("hello")
        expect(heading).to_have_text("")
        line.fill("24 from 3 5 12")
        line.press("Enter")
        expect(page.locator(".verdict")).to_have_text(["✓ right", "✗ wrong"])
        expect(heading).to_have_text("24 from 3 5 12")
        answers = page.locator("pre").all_text_contents()
        for _ in range(2):
            line.fill("hello")
            line.press("Enter")
            expect(page.get_by_role("alert")).to_contain_text("hello")
            expect(heading).to_have_text("Previous problem: 24 from 3 5 12")
            expect(page.locator(".verdict")).to_have_text(["✓ right", "✗ wrong"])
            assert page.locator("pre").all_text_contents() == answers
        page.get_by_role("button", name="Draw another").click()
        expect(heading).to_have_text(Countdown().line(Countdown().problem("test", 1)))
        expect(page.locator("pre")).to_have_text(["", ""])
        expect(page.locator(".verdict")).to_have_text(["", ""])
        page.close()


@pytest.mark.browser
def test_products_and_tasks_that_cannot_be_posed(browser: Any) -> None:
    from playwright.sync_api import expect

    said = "</think>\n<answer>1692</answer>"
    with serving(scripted(said), task=Multiplication()) as server, page_of(browser, server) as page:
        page.get_by_label("Problem").fill("47 x 36")
        page.get_by_role("button", name="Think").click()
        expect(page.locator(".verdict")).to_have_text("✓ right")
    with serving(scripted("good day"), task=Greet()) as server, page_of(browser, server) as page:
        expect(page.get_by_role("heading", name="hello 0")).to_be_visible()
        expect(page.get_by_label("Problem")).to_be_hidden()
        page.get_by_role("button", name="Draw another").click()
        expect(page.get_by_role("heading", name="hello 1")).to_be_visible()
        page.get_by_role("button", name="Think").click()
        expect(page.locator(".verdict")).to_contain_text("ZeroDivisionError")


# ---- connections and methods


def test_the_time_limit_is_for_the_whole_request_not_for_each_byte(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Handler, "timeout", 1.0)
    with serving(scripted()) as server:
        for sent in (
            b"G",
            b"GET / HTTP/1.1\r\nHost: ",
            b"POST /draw HTTP/1.1\r\nHost: 127.0.0.1\r\n",
        ):
            started = time.monotonic()
            with socket.create_connection(("127.0.0.1", server.server_port)) as connection:
                connection.sendall(sent)
                connection.settimeout(0.2)
                assert dribbled_until_closed(connection) < 10, sent
            assert time.monotonic() - started > 0.9


def test_slow_connections_do_not_keep_others_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that send their header one byte at a time take all connections."""
    monkeypatch.setattr(Handler, "timeout", 2.0)
    with serving(scripted()) as server:
        address = ("127.0.0.1", server.server_port)
        slow = [socket.create_connection(address) for _ in range(CONNECTIONS)]
        started, sent = time.monotonic(), 0
        while not _answers(server):
            assert time.monotonic() - started < 20, "slow connections still keep others out"
            for connection in slow:
                with suppress(OSError):
                    connection.sendall(b"GET / HTTP/1.1\r\nHost: "[sent : sent + 1])
            sent += 1
            time.sleep(0.1)
        assert sent > 1, "at first all connections were taken"
        for connection in slow:
            connection.close()
        assert eventually(lambda: threading.active_count() < CONNECTIONS), "their threads ended"
    assert PATIENCE <= 5


def dribbled_until_closed(connection: socket.socket) -> float:
    """Seconds until the server closes a connection that sends one byte now and then."""
    started = time.monotonic()
    while time.monotonic() - started < 10:
        try:
            connection.sendall(b"x")
            if connection.recv(1000) == b"":
                break
        except TimeoutError:
            continue
        except ConnectionError:
            break
    return time.monotonic() - started


@pytest.mark.parametrize("method", ["PUT", "DELETE", "HEAD", "TRACE", "BREW"])
def test_another_method_is_refused_by_our_own_check_and_policy(method: str) -> None:
    with serving(scripted()) as server:
        status, headers, text = send(server, "/", method=method)
        assert status == 501
        assert headers["Content-Security-Policy"] == server.policy
        assert headers["Content-Type"] == "application/json"
        if method == "HEAD":
            assert text == ""
        else:
            assert "Unsupported method" in json.loads(text)["error"]
        assert send(server, "/", method=method, Host="evil.example")[0] == 403
