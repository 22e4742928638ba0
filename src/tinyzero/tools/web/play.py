"""`tinyzero play --web`: a page on which to pose problems, to one model or to two side by side.

The page (play.html) asks for nothing from elsewhere. What it asks of this server is checked: a request names a
host that is this machine, comes from this very page, is small, and finds a place among the few that are answered at
once. What models write is data on the way and text on the page. A closed tab ends the thinking it asked for.
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
ANSWERS = 4  # written at once: they share the processor
MAX_BODY = 4096  # bytes of a request
MAX_TEMPERATURE = 5


@dataclass(frozen=True)
class Candidate:
    """A model that can be asked, and how it is asked."""

    name: str
    parameters: int
    player: Player
    params: SamplingParams


class Asked(BaseModel):
    """What the page sends: a problem by its line, or by its number in the test split, and how to sample."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    line: str | None = Field(default=None, max_length=200)
    index: int = Field(default=0, ge=0, le=1_000_000)
    model: int = Field(default=0, ge=0)
    seed: int = Field(default=0, ge=0, lt=2**32)
    temperature: float = Field(default=1.0, ge=0, le=MAX_TEMPERATURE)


class Playground:
    """A task and the models that are asked, whatever carries the questions."""

    def __init__(self, candidates: Sequence[Candidate]) -> None:
        self.task, self.candidates = candidates[0].player.task, candidates
        self._free = BoundedSemaphore(ANSWERS)

    @contextmanager
    def place(self) -> Iterator[None]:
        """One of the few places to work in. Raises Refused where all are taken."""
        if not self._free.acquire(blocking=False):
            raise Refused(
                503, f"{ANSWERS} answers are being written already: try again in a moment"
            )
        try:
            yield
        finally:
            self._free.release()

    def about(self) -> dict[str, Any]:
        """What the page says before anything is asked."""
        return {
            "rules": self.task.rules if self.task.is_posable else "",
            "posable": self.task.is_posable,
            "models": [{"name": p.name, "parameters": p.parameters} for p in self.candidates],
            "temperature": self.candidates[0].params.temperature,
            "seed": self.candidates[0].params.seed,
        }

    def draw(self, asked: Asked) -> dict[str, Any]:
        """The problem at `asked.index` of the test split, as it is shown and as it could be typed."""
        problem = self.task.problem("test", asked.index)
        line = self.task.line(problem) if self.task.is_posable else None
        return {"line": line, "fields": dict(problem.fields)}

    def solution(self, asked: Asked) -> dict[str, Any]:
        """An answer that the grader accepts."""
        text = self.task.solution(self._problem(asked))
        return {"solution": extract_answer(text) or text}

    def think(self, asked: Asked) -> Generator[dict[str, Any], None, None]:
        """The problem and the prompt; what the model writes, token by token; the grader's verdict.

        Raises UserError where the problem is none, before anything is given out; what goes wrong later is an
        `error` given out.
        """
        if asked.model >= len(self.candidates):
            raise UserError(f"there is no model {asked.model}: there are {len(self.candidates)}")
        candidate = self.candidates[asked.model]
        player, problem = candidate.player, self._problem(asked)
        ids = player.prompt_ids(problem)
        params = replace(candidate.params, seed=asked.seed, temperature=asked.temperature)
        yield {"fields": dict(problem.fields), "prompt": player.sampler.decode(ids)}
        text, tokens = "", 0
        try:
            for piece in player.stream(ids, params):
                text, tokens = text + piece, tokens + 1
                yield {"text": piece}
        except (UserError, NonFiniteError) as error:
            yield {"error": str(error)}
            return
        yield {
            "tokens": tokens,
            "limit": tokens == params.max_tokens,
            **_judged(player.judge(problem, text)),
        }

    def _problem(self, asked: Asked) -> Problem:
        if asked.line is None:
            return self.task.problem("test", asked.index)
        if not self.task.is_posable:
            raise UserError("this task's problems can only be drawn: give it pose and line")
        return self.task.pose(asked.line)


def _judged(verdict: Verdict) -> dict[str, Any]:
    if verdict.error:
        return {"error": f"the reward function raised {verdict.error}"}
    assert verdict.reward is not None
    return {"right": verdict.reward.right, "reward": verdict.reward.value}


class Server(PageServer):
    """The playground's page, and what it asks for."""

    def __init__(self, playground: Playground, host: str, port: int) -> None:
        """Listens from here on; port 0 takes a free one. Raises UserError where it cannot."""
        self.playground = playground
        super().__init__(PAGE.read_bytes(), Handler, host, port)


class Handler(PageHandler):
    """GET / is the page, GET /about what it says; POST /draw, /solution and /think take an `Asked` as JSON.

    /think answers with server-sent events, each a JSON object; the others with one object. What is refused is
    an object with `error`.
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
            body = self._body()  # first, so that a refusal finds a browser that listens
            self._admit()
            asked = validate(Asked, body, "request")
            with playground.place():
                if self.path == "/think":
                    self._stream(playground.think(asked))
                elif self.path == "/draw":
                    self._send_json(200, playground.draw(asked))
                elif self.path == "/solution":
                    self._send_json(200, playground.solution(asked))
                else:
                    raise Refused(404, f"there is nothing at {self.path[:80]}")

    def _raised(self, error: Exception) -> None:
        why = {
            "error": f"asking {type(self.server.playground.task).__name__} raised {brief(error)}"
        }
        if self.begun:
            self._event(why)
        else:
            self._send_json(500, why)

    def _body(self) -> dict[str, Any]:
        """The JSON object that a request carries. Raises Refused where it carries none, or too much."""
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            raise Refused(411, "send a Content-Length")
        wanted = int(length[:9])  # so many digits are too much already
        text = self.rfile.read(min(wanted, MAX_BODY))
        if len(text) < wanted:
            raise Refused(413, f"a request has at most {MAX_BODY} bytes")
        if (
            self.headers.get_content_type() != "application/json"
        ):  # no other site's page can send this unasked
            raise Refused(415, "send application/json")
        try:
            body = json.loads(text)
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            raise Refused(400, "send a JSON object")
        return body

    def _stream(self, events: Generator[dict[str, Any], None, None]) -> None:
        """Pass events on as they come. Where the browser went away, writing fails, which ends the events."""
        with closing(events):
            first = next(events)  # a problem that is none is refused before anything is sent
            self._head(200, "text/event-stream; charset=utf-8")
            self._event(first)
            for event in events:
                self._event(event)

    def _event(self, event: dict[str, Any]) -> None:
        self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")
