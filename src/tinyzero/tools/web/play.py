"""`tinyzero play --web`: a page on which to pose problems to one model, or to two side by side.

The page (play.html) loads nothing from elsewhere. Its requests are checked: each must name this
machine as its host, come from this very page and be small, and only a few answers are written at
once. What a model writes travels as data and is shown as text. Closing the tab stops the writing.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import BoundedSemaphore
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from tinyzero.errors import NonFiniteError, UserError, brief
from tinyzero.grading import Verdict, extract_answer
from tinyzero.registry import validate
from tinyzero.rollouts import Player
from tinyzero.tools.web.server import PageHandler, PageServer, Refused
from tinyzero.types import Problem, SamplingParams

PAGE = Path(__file__).with_name("play.html")
ANSWERS = 4  # written at the same time: they share the processor
MAX_BODY = 4096  # bytes of a request's body
MAX_TEMPERATURE = 5
NO_TYPING = "Problems of this task cannot be typed: draw another one with the button."


@dataclass(frozen=True)
class Candidate:
    """A model on the page, with its name, its size and how it is sampled."""

    name: str
    parameters: int
    player: Player
    params: SamplingParams


class Request(BaseModel):
    """What the page sends: a line or the index of a test problem, and how to sample."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    line: str | None = Field(default=None, max_length=200)
    index: int = Field(default=0, ge=0, le=1_000_000)
    model: int = Field(default=0, ge=0)
    seed: int = Field(default=0, ge=0, lt=2**32)
    temperature: float = Field(default=1.0, ge=0, le=MAX_TEMPERATURE)


class Playground:
    """A task and the models that answer its problems."""

    def __init__(self, candidates: Sequence[Candidate]) -> None:
        self.task, self.candidates = candidates[0].player.task, candidates
        self._free = BoundedSemaphore(ANSWERS)

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Hold one of the `ANSWERS` slots for work. Raises Refused if all are taken."""
        if not self._free.acquire(blocking=False):
            raise Refused(
                503, f"{ANSWERS} answers are being written already: try again in a moment"
            )
        try:
            yield
        finally:
            self._free.release()

    def about(self) -> dict[str, Any]:
        """What the page shows before the first question: the task's rules and the models."""
        return {
            "rules": self.task.rules if self.task.is_posable else NO_TYPING,
            "posable": self.task.is_posable,
            "models": [{"name": c.name, "parameters": c.parameters} for c in self.candidates],
            "temperature": self.candidates[0].params.temperature,
            "seed": self.candidates[0].params.seed,
        }

    def draw(self, request: Request) -> dict[str, Any]:
        """The test problem at `request.index`: what to show, and what to type for it."""
        problem = self.task.problem("test", request.index)
        line = self.task.line(problem) if self.task.is_posable else None
        return {"line": line, "shown": shown(self._player(request), problem)}

    def solution(self, request: Request) -> dict[str, Any]:
        """An answer that the grader accepts."""
        solution = self.task.solution(self._problem(request))
        text = solution if isinstance(solution, str) else "\n".join(solution)
        return {"solution": extract_answer(text) or text}

    def think(self, request: Request) -> Generator[dict[str, Any], None, None]:
        """Yield the problem with its prompt, then the answer by token, then the verdict.

        Raises UserError before the first event if the problem is invalid. If something fails later,
        the last event holds the `error`.
        """
        player, problem = self._player(request), self._problem(request)
        ids = player.prompt_ids(problem)
        params = replace(
            self.candidates[request.model].params,
            seed=request.seed,
            temperature=request.temperature,
        )
        yield {"shown": shown(player, problem), "prompt": player.sampler.decode(ids)}

        if self.task.plays_episodes:
            yield from _turns(player, problem, params)
            return
        text, tokens = "", 0
        try:
            for piece in player.stream(ids, params):
                text, tokens = text + piece, tokens + 1
                yield {"text": piece}
        except (UserError, NonFiniteError) as error:
            yield {"error": str(error)}
            return

        verdict = _verdict_event(player.judge(problem, text))
        yield {"tokens": tokens, "limit": tokens == params.max_tokens, **verdict}

    def _player(self, request: Request) -> Player:
        if request.model >= len(self.candidates):
            raise UserError(f"there is no model {request.model}: there are {len(self.candidates)}")
        return self.candidates[request.model].player

    def _problem(self, request: Request) -> Problem:
        if request.line is None:
            return self.task.problem("test", request.index)
        if not self.task.is_posable:
            raise UserError(
                "problems of this task cannot be typed: define pose and line in the task"
            )
        return self.task.pose(request.line)


def shown(player: Player, problem: Problem) -> str:
    """What a person is shown of a problem: the task's `line`, or else the question in its prompt.

    The fields of a problem are not shown, because its answer may be among them.
    """
    line = player.task.line(problem)
    if line:
        return line

    prompt = player.task.prompt(problem, player.template)
    if isinstance(prompt, str):
        return prompt.strip()
    asked = [message["content"] for message in prompt if message["role"] == "user"]
    return asked[-1].strip() if asked else ""


def _turns(player: Player, problem: Problem, params: SamplingParams) -> Iterator[dict[str, Any]]:
    """Yield the turns of an episode, the environment's in brackets, and then the verdict."""
    tokens = 0
    try:
        for piece in player.perform(problem, params):
            if isinstance(piece, Verdict):
                limit = tokens == params.max_tokens
                yield {"tokens": tokens, "limit": limit, **_verdict_event(piece)}
            elif piece.by_model:
                tokens += piece.end - piece.start
                yield {"text": piece.text}
            else:
                yield {"text": f"⟨{piece.text}⟩"}
    except (UserError, NonFiniteError) as error:
        yield {"error": str(error)}


def _verdict_event(verdict: Verdict) -> dict[str, Any]:
    if verdict.error:
        return {"error": f"the reward function raised {verdict.error}"}
    assert verdict.reward is not None
    return {"right": verdict.reward.right, "reward": verdict.reward.value}


class Server(PageServer):
    """Serves the playground's page and answers its requests."""

    def __init__(self, playground: Playground, host: str, port: int) -> None:
        """Listen from here on; port 0 takes a free one. Raises UserError if that is impossible."""
        self.playground = playground
        super().__init__(PAGE.read_bytes(), Handler, host, port)


class Handler(PageHandler):
    """GET / and /about; POST /draw, /solution and /think, which take a `Request`.

    /think answers with server-sent events, each a JSON object; the others answer with one object. A
    refusal is an object with `error`.
    """

    server: Server

    def do_GET(self) -> None:
        with self._refusals():
            self._admit()
            if self.path == "/":
                self._send_page()
            elif self.path == "/about":
                self._send_json(200, self.server.playground.about())
            else:
                raise Refused(404, f"there is nothing at {self.path[:80]}")

    def do_POST(self) -> None:
        playground = self.server.playground
        with self._refusals():
            body = self._body()  # read first: a browser that still sends misses a refusal
            self._admit()
            request = validate(Request, body, "request")

            with playground.slot():
                if self.path == "/think":
                    self._stream(playground.think(request))
                elif self.path == "/draw":
                    self._send_json(200, playground.draw(request))
                elif self.path == "/solution":
                    self._send_json(200, playground.solution(request))
                else:
                    raise Refused(404, f"there is nothing at {self.path[:80]}")

    def _raised(self, error: Exception) -> None:
        task = type(self.server.playground.task).__name__
        answer = {"error": f"asking {task} raised {brief(error)}"}
        if self.begun:
            self._event(answer)
        else:
            self._send_json(500, answer)

    def _body(self) -> dict[str, Any]:
        """The JSON object in the request's body. Raises Refused if it is missing or too large."""
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            raise Refused(411, "send a Content-Length")

        wanted = int(length[:9])  # a number of more digits is too large in any case
        text = self.rfile.read(min(wanted, MAX_BODY))
        if len(text) < wanted:
            raise Refused(413, f"a request has at most {MAX_BODY} bytes")
        # another site's page cannot send this type without asking first
        if self.headers.get_content_type() != "application/json":
            raise Refused(415, "send application/json")

        try:
            body = json.loads(text)
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            raise Refused(400, "send a JSON object")
        return body

    def _stream(self, events: Generator[dict[str, Any], None, None]) -> None:
        """Send events as they come. If the browser has left, writing fails and closes `events`."""
        with closing(events):
            first = next(events)  # an invalid problem is refused before anything is sent
            self._head(200, "text/event-stream; charset=utf-8")
            self._event(first)
            for event in events:
                self._event(event)

    def _event(self, event: dict[str, Any]) -> None:
        self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")
