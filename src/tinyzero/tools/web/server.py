"""The web server that the pages share: it answers only this machine's own pages, within limits.

A request must name this machine as its host and must come from the page itself, so that no other
web site can use it. The number of connections is limited, and each has a few seconds to send its
request. The page's Content-Security-Policy names the hash of every script and style that may run.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from threading import BoundedSemaphore
from typing import Any
from urllib.parse import urlsplit

from tinyzero.errors import TaskError, UserError, brief

CONNECTIONS = 32
PATIENCE = 5  # seconds for a whole request to arrive: a slow connection keeps others out no longer
STALLED = 30  # seconds that a browser may take to accept what is written to it


class Refused(Exception):
    """A request that is not answered: the HTTP status and the reason."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status, self.why = status, why


class PageServer(ThreadingHTTPServer):
    """Serves one page, with one thread per connection and at most `CONNECTIONS` of them."""

    daemon_threads = True
    request_queue_size = CONNECTIONS

    def __init__(self, page: bytes, handler: type[PageHandler], host: str, port: int) -> None:
        """Listen on `host` and `port` (0 takes a free one). Raises UserError if it cannot."""
        if not host:
            raise UserError(
                "--host is empty: give an address, such as 127.0.0.1 for this machine only"
            )

        self.page, self.host = page, host
        self.policy = _policy(page.decode())
        self.connections = BoundedSemaphore(CONNECTIONS)
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

        try:
            super().__init__((host, port), handler)
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise UserError(
                f"cannot listen on {host} port {port}: {why}; "
                "give another --port (0 for any), or --host"
            ) from None

    @property
    def url(self) -> str:
        """The page's address for a browser on this machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        if ":" in host:
            host = f"[{host}]"
        return f"http://{host}:{self.server_port}/"

    @property
    def is_private(self) -> bool:
        """Whether only this machine can reach the page."""
        return ip_address(str(self.server_address[0])).is_loopback

    def process_request(self, request: Any, client_address: Any) -> None:
        if self.connections.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.connections.release()


class Reading(io.RawIOBase):
    """What a connection sends until a deadline, which is for all of it, not per byte."""

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        self.connection = connection
        self.deadline = time.monotonic() + seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Raises TimeoutError after the deadline."""
        seconds_left = self.deadline - time.monotonic()
        if seconds_left <= 0:
            raise TimeoutError

        self.connection.settimeout(seconds_left)
        try:
            return self.connection.recv_into(buffer)
        finally:
            self.connection.settimeout(STALLED)


class PageHandler(BaseHTTPRequestHandler):
    """Answers one request. A refusal is a JSON object whose `error` says why."""

    server: PageServer
    timeout = PATIENCE
    server_version, sys_version = "tinyzero", ""
    begun = False  # whether the answer has begun; each connection has one

    def setup(self) -> None:
        """Give the request `timeout` seconds, from here to the end of its body."""
        super().setup()
        self.rfile.close()
        self.rfile = io.BufferedReader(Reading(self.connection, self.timeout))

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse what http.server does not accept, such as a method, under our policy."""
        with self._refusals():
            if getattr(self, "headers", None) is not None:
                self._admit()
            raise Refused(int(code), (message or HTTPStatus(code).phrase)[:80])

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        """Turn an exception into an answer that gives the reason. A browser that left gets none."""
        try:
            yield
        except Refused as refused:
            self._send_json(refused.status, {"error": refused.why})
        except TaskError as error:
            self._send_json(500, {"error": str(error)})
        except UserError as error:
            self._send_json(400, {"error": str(error)})
        except (ConnectionError, TimeoutError):
            self.close_connection = True
        except Exception as error:
            self._raised(error)

    def _raised(self, error: Exception) -> None:
        """Answer an exception that nothing here expects."""
        if self.begun:
            self.close_connection = True
        else:
            self._send_json(500, {"error": f"answering raised {brief(error)}"})

    def _admit(self) -> None:
        """Raises Refused for another machine's name, or if another site's page may ask."""
        host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
        if not _is_this_machine(host, self.server.host):
            raise Refused(403, f"this page is at {self.server.url}")
        if origin is not None and origin.partition("://")[2] != host:
            raise Refused(403, "only this server's own page may ask")

    def _send_page(self) -> None:
        self._send(200, "text/html; charset=utf-8", self.server.page)

    def _send_json(self, status: int, body: dict[str, Any]) -> None:
        self._send(status, "application/json", json.dumps(body).encode())

    def _send(
        self, status: int, kind: str, body: bytes, more: Mapping[str, str] | None = None
    ) -> None:
        self._head(status, kind, len(body), more)
        if self.command != "HEAD":
            self.wfile.write(body)

    def _head(
        self,
        status: int,
        kind: str,
        length: int | None = None,
        more: Mapping[str, str] | None = None,
    ) -> None:
        self.begun = True
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if length is not None:
            self.send_header("Content-Length", str(length))
        if status == 503:
            self.send_header("Retry-After", "2")
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Security-Policy", self.server.policy)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        for name, value in (more or {}).items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing: the terminal belongs to the person who started the page."""


def _is_this_machine(host: str, given: str) -> bool:
    """Whether a Host header names this machine: by an address, or by its own name.

    A stranger can make a name of theirs lead to this machine (DNS rebinding), and a browser would
    then take this page for one of theirs. They cannot do that with an address.
    """
    try:
        name = urlsplit(f"//{host}").hostname or ""
        if name in ("localhost", given, socket.gethostname().lower()):
            return True
        ip_address(name)
    except ValueError:
        return False
    return True


def _policy(page: str) -> str:
    """A Content-Security-Policy: only the page's own scripts run, and it asks only this server."""
    scripts = re.findall("<script>(.*?)</script>", page, re.DOTALL)
    styles = re.findall("<style>(.*?)</style>", page, re.DOTALL)
    return (
        f"default-src 'none'; script-src {hashes(scripts)}; style-src {hashes(styles)}; "
        "connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def hashes(texts: Iterable[str]) -> str:
    """The sources by which a Content-Security-Policy allows these inline scripts or styles."""
    digests = [hashlib.sha256(text.encode()).digest() for text in texts]
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
