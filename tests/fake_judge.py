"""A local endpoint that behaves like an OpenAI-compatible one, or misbehaves as it is told to.

It is a real HTTP server. `script` decides about each request: it gets the number of the request and
its body, and returns a `Said`.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Said:
    """One HTTP reply. `content` is what the judge writes; `body` replaces the whole body."""

    content: str = ""
    status: int = 200
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    cut: int = 0  # bytes that are promised but never sent
    drip: float = 0.0  # seconds between two bytes


Script = Callable[[int, dict[str, Any]], Said]


def data_of(body: dict[str, Any]) -> dict[str, str]:
    """The JSON object with the question and the answer that the judge was sent."""
    data: dict[str, str] = json.loads(body["messages"][1]["content"])
    return data


def score(value: object) -> Said:
    """A verdict in the right form."""
    return Said(json.dumps({"reason": "because", "score": value}))


class FakeJudge:
    """What the server was asked: `bodies`, `headers` and `times`, in order."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.url = ""
        self.lock = threading.Lock()
        self.now = 0
        self.most_at_once = 0

    def reply(self, body: dict[str, Any], headers: dict[str, str]) -> Said:
        with self.lock:
            number = len(self.bodies)
            self.bodies.append(body)
            self.headers.append(headers)
            self.times.append(time.monotonic())
        return self.script(number, body)


@contextmanager
def fake_judge(script: Script, port: int = 0) -> Iterator[FakeJudge]:
    """A server on this machine that answers by `script`, until the context ends."""
    judge = FakeJudge(script)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            body = json.loads(self.rfile.read(length))
            with judge.lock:
                judge.now += 1
                judge.most_at_once = max(judge.most_at_once, judge.now)
            try:
                self._answer(judge.reply(body, dict(self.headers)))
            finally:
                with judge.lock:
                    judge.now -= 1

        def _answer(self, said: Said) -> None:
            time.sleep(said.seconds)
            usage = {"prompt_tokens": 100, "completion_tokens": 10}
            completion = {"choices": [{"message": {"content": said.content}}], "usage": usage}
            body = json.dumps(completion).encode() if said.body is None else said.body
            try:
                self.send_response(said.status)
                for name, value in said.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body) + said.cut))
                self.end_headers()
                if said.drip:
                    for byte in body:
                        self.wfile.write(bytes([byte]))
                        self.wfile.flush()
                        time.sleep(said.drip)
                else:
                    self.wfile.write(body)
            except (BrokenPipeError, ConnectionResetError):
                pass
            if said.cut:
                self.close_connection = True

        def log_message(self, *_: Any) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    judge.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield judge
    finally:
        server.shutdown()
        server.server_close()
