"""A client of an OpenAI-compatible endpoint: paced, retried, bounded, and silent about its key.

It needs httpx, which is imported when the first client is made.
"""

from __future__ import annotations

import email.utils
import json
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from tinyzero.errors import Ungraded, UserError, brief

EXTRA = "httpx is not installed: pip install 'tinyzero[judge]'"
LONGEST_REPLY = 1_000_000  # bytes; a longer reply is not read to its end
LONGEST_REASON = 200  # characters of the endpoint's own error message that are shown
ATTEMPTS = 5  # at one request, before its answer counts as ungraded
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds between two attempts; it doubles each time
LONGEST_RETRY_AFTER = 120.0  # seconds; an endpoint that asks for more counts as out of order
OUTAGE = 120.0  # seconds without any success after which only one request at a time is tried
OTHER_TEXT = (400, 413, 422)  # statuses that blame the request, so another text may succeed


class Rejected(Exception):
    """The endpoint refuses this request, and would refuse it again: `status` says how."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.blames_text = status in OTHER_TEXT


class Reply(NamedTuple):
    """What the endpoint wrote, and the tokens that it counted (0 if it did not count them)."""

    text: str
    tokens_read: int = 0
    tokens_written: int = 0


class Pace:
    """Spaces requests so that no more than `per_minute` start in a minute; 0 means no limit.

    `wait` blocks until the next request may start. `pause` delays all requests, after the endpoint
    has asked for it. Any number of threads may share one. `now` and `sleep` replace the clock.

    >>> pace = Pace(per_minute=60, now=lambda: 0.0, sleep=lambda seconds: print(seconds))
    >>> pace.wait(); pace.wait(); pace.wait()
    1.0
    2.0
    """

    def __init__(
        self,
        per_minute: float,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.gap = 60 / per_minute if per_minute else 0.0
        self._now, self._sleep = now, sleep
        self._lock = threading.Lock()
        self._next_start = now()
        self._paused_until = now()

    def wait(self) -> None:
        """Block until this request may start."""
        with self._lock:
            start = max(self._now(), self._next_start, self._paused_until)
            self._next_start = start + self.gap
        self._sleep_until(start)
        self._sleep_until(self._paused_until)  # a pause may have begun meanwhile

    def pause(self, seconds: float) -> None:
        """Let no request start in the next `seconds`."""
        with self._lock:
            self._paused_until = max(self._paused_until, self._now() + seconds)

    def _sleep_until(self, moment: float) -> None:
        seconds = moment - self._now()
        if seconds > 0:
            self._sleep(seconds)


@dataclass
class Spent:
    """What the requests have cost so far."""

    requests: int = 0
    tokens_read: int = 0
    tokens_written: int = 0
    seconds: float = 0.0
    """Summed over requests, so several at once count several times."""


class Endpoint:
    """Asks the model `model` at `url`, such as "http://127.0.0.1:8000/v1", from several threads.

    `key` is sent as a bearer token and appears in no message. `timeout` is in seconds for a whole
    request, `per_minute` the most requests per minute (0: no limit), and `max_tokens` the length of
    a reply. Redirects are not followed, so the key stays where it was sent.

    Raises UserError if the URL cannot be used, or httpx is not installed.

    Example: `Endpoint("http://127.0.0.1:8000/v1", "judge").ask([{"role": "user", ...}]).text`.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key: str = "",
        timeout: float = 30.0,
        per_minute: float = 0.0,
        max_tokens: int = 512,
        connections: int = 16,
        pace: Pace | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        try:
            import httpx
        except ImportError:
            raise UserError(EXTRA) from None

        require_url(url)
        self.url, self.model, self._key = url, model, key
        self.timeout = timeout
        self.pace = pace or Pace(per_minute)
        self.spent = Spent()
        self._sleep = sleep
        self._lock = threading.Lock()
        self._last_success = time.monotonic()
        self._probing = threading.Lock()
        self._settings: dict[str, Any] = {"temperature": 0, "max_tokens": max_tokens}

        headers = {"Accept-Encoding": "identity"}  # a packed reply could unpack to any length
        if key:
            headers["Authorization"] = f"Bearer {key}"
        try:
            self._client = httpx.Client(
                headers=headers,
                timeout=timeout,
                follow_redirects=False,
                limits=httpx.Limits(max_connections=connections),
            )
        except UnicodeEncodeError:
            raise UserError("the API key has characters that no HTTP header may hold") from None

    def ask(self, messages: Sequence[Mapping[str, str]], attempts: int = ATTEMPTS) -> Reply:
        """The reply to chat messages; a busy or broken endpoint is asked up to `attempts` times.

        Raises Rejected if the endpoint refuses the request, and Ungraded if it stays out of reach.
        """
        if not self._is_out():
            return self._ask(messages, attempts)

        # nothing has worked for a while: one request tries again, and the others do not wait
        if not self._probing.acquire(blocking=False):
            raise Ungraded(f"{self.url} has not answered for {OUTAGE:.0f} s")
        try:
            return self._ask(messages, attempts=1)
        finally:
            self._probing.release()

    def hide(self, text: str) -> str:
        """`text` in one line without the key, for messages."""
        line = " ".join(text.split())[:LONGEST_REASON]
        return line if not self._key else _without(line, self._key)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _is_out(self) -> bool:
        return time.monotonic() - self._last_success > OUTAGE + self.timeout

    def _ask(self, messages: Sequence[Mapping[str, str]], attempts: int) -> Reply:
        wait, reason = FIRST_WAIT, ""
        for attempt in range(attempts):
            if attempt:
                self._sleep(wait * random.uniform(0.5, 1.0))
                wait = min(2 * wait, LONGEST_WAIT)
            self.pace.wait()

            started = time.monotonic()
            try:
                status, headers, body = self._post(messages)
            except _transport_errors() as error:
                reason = self.hide(brief(error))
                continue
            finally:
                self._count(time.monotonic() - started)

            if status == 200:
                try:
                    reply = read_reply(body)
                except ValueError as error:
                    reason = self.hide(f"its reply cannot be read: {error}")
                    continue
                self._succeeded(reply)
                return reply

            reason = self.hide(f"HTTP {status}{error_text(body)}")
            if status == 400 and self._adapt(body):
                continue
            if status < 500 and status not in (408, 409, 425, 429):
                raise Rejected(status, reason + _redirect(status, headers))
            asked = retry_after(headers.get("retry-after", ""))
            if asked > LONGEST_RETRY_AFTER:
                raise Ungraded(f"{self.url}: {reason}, and asks to wait {asked:.0f} s")
            if asked:
                self.pace.pause(asked)

        raise Ungraded(f"{self.url} gave no answer in {attempts} attempts, the last time: {reason}")

    def _post(self, messages: Sequence[Mapping[str, str]]) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body of one request. Raises what httpx raises, or TimeoutError."""
        with self._lock:
            body = {"model": self.model, "messages": list(messages), **self._settings}
        deadline = time.monotonic() + self.timeout
        received = bytearray()

        address = f"{self.url.rstrip('/')}/chat/completions"
        with self._client.stream("POST", address, json=body) as response:
            for piece in response.iter_raw():
                received += piece
                if len(received) > LONGEST_REPLY:
                    raise OverflowError(f"its reply is longer than {LONGEST_REPLY:,} bytes")
                if time.monotonic() > deadline:  # httpx limits each piece only
                    raise TimeoutError(f"its reply took longer than {self.timeout:g} s")
            return response.status_code, response.headers, bytes(received)

    def _adapt(self, body: bytes) -> bool:
        """Leave out or rename a setting that this endpoint does not have; False if it is another.

        Newer models of OpenAI call `max_tokens` otherwise and accept no temperature.
        """
        parameter = _error(body).get("param")
        with self._lock:
            if parameter not in self._settings:
                return parameter in ("temperature", "max_tokens")  # another thread did it already
            value = self._settings.pop(parameter)
            if parameter == "max_tokens":
                self._settings["max_completion_tokens"] = value
            return True

    def _count(self, seconds: float) -> None:
        with self._lock:
            self.spent.requests += 1
            self.spent.seconds += seconds

    def _succeeded(self, reply: Reply) -> None:
        with self._lock:
            self._last_success = time.monotonic()
            self.spent.tokens_read += reply.tokens_read
            self.spent.tokens_written += reply.tokens_written


def require_url(url: str) -> None:
    """Raise UserError unless `url` is an http address without a password, query or fragment.

    >>> require_url("http://127.0.0.1:8000/v1")
    """
    try:
        parts = urlsplit(url)
        has_host = parts.scheme in ("http", "https") and bool(parts.hostname)
        _ = parts.port
    except ValueError:
        has_host = False
    if not has_host:
        raise UserError(f"task.url is {url!r:.100}: give an address as http://127.0.0.1:8000/v1")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UserError(
            f"task.url for {parts.hostname} holds a user, a password or a query, which would be "
            "recorded: give the address alone, and the key in the variable of task.key_env"
        )


def read_reply(body: bytes) -> Reply:
    """The reply in the JSON of a chat completion. Raises ValueError if it is something else.

    >>> read_reply(b'{"choices": [{"message": {"content": "7"}}]}').text
    '7'
    """
    try:
        parsed = json.loads(body)
        text = parsed["choices"][0]["message"]["content"]
        usage = parsed.get("usage") or {}
        read, written = (_count_of(usage, key) for key in ("prompt_tokens", "completion_tokens"))
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON, or was cut off") from None
    except (LookupError, TypeError, AttributeError):
        raise ValueError("it is not a chat completion") from None
    if not isinstance(text, str):
        raise ValueError("its message has no text")
    return Reply(text, read, written)


def retry_after(header: str, now: Callable[[], float] = time.time) -> float:
    """Seconds that a Retry-After header asks to wait: it holds seconds or a date. 0 if neither.

    >>> retry_after("2"), retry_after("soon"), retry_after("-1")
    (2.0, 0.0, 0.0)
    """
    try:
        seconds = float(header)
    except ValueError:
        parsed = email.utils.parsedate_tz(header)
        seconds = email.utils.mktime_tz(parsed) - now() if parsed else 0.0
    return seconds if seconds > 0 else 0.0  # also for nan


def error_text(body: bytes) -> str:
    """The message in an error's JSON, after a colon; empty if it has no message.

    >>> error_text(b'{"error": {"message": "no such model"}}')
    ': no such model'
    """
    message = _error(body).get("message")
    return f": {message}" if isinstance(message, str) and message else ""


def _error(body: bytes) -> dict[str, Any]:
    """The object that describes an error; OpenAI nests it, others do not."""
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    inner = parsed.get("error", parsed) if isinstance(parsed, dict) else {}
    return inner if isinstance(inner, dict) else {"message": inner}


def _redirect(status: int, headers: Mapping[str, str]) -> str:
    """Where a redirect leads, which is not followed."""
    target = urlsplit(headers.get("location", ""))
    if not 300 <= status < 400 or not target.hostname:
        return ""
    return f", a redirect to {target.scheme}://{target.netloc.rpartition('@')[2]}{target.path:.80}"


def _count_of(usage: Mapping[str, Any], key: str) -> int:
    count = usage.get(key)
    return count if isinstance(count, int) and count > 0 else 0


def _without(line: str, key: str) -> str:
    """`line` without the key and without any part of it that is 8 characters or longer."""
    for length in range(len(key), 7, -1):
        for start in range(len(key) - length + 1):
            line = line.replace(key[start : start + length], "***")
    return line if len(key) > 7 else line.replace(key, "***")


def _transport_errors() -> tuple[type[Exception], ...]:
    """What a request raises if the endpoint cannot be reached or breaks off."""
    import httpx

    return (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError, OverflowError)
