"""What the pages served here share: who is answered, how many at once, and what a browser may do with the answer.

A request names a host that is this machine and comes from the page itself; a connection finds a place among the few
that there are, and gives it back in time. The page's policy names the hash of its script and its style.
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
PATIENCE = 30  # seconds for a whole request, and for a reader to take what is written


class Refused(Exception):
    """A request that is not answered, and why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status, self.why = status, why


class PageServer(ThreadingHTTPServer):
    """One thread a connection, and a bound on how many there are."""

    daemon_threads = True
    request_queue_size = CONNECTIONS

    def __init__(self, page: bytes, handler: type[PageHandler], host: str, port: int) -> None:
        """Listens from here on; port 0 takes a free one. Raises UserError where it cannot."""
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
                f"cannot listen on {host} port {port}: {why}; give another --port (0 for any), or --host"
            ) from None

    @property
    def url(self) -> str:
        """Where a browser on this machine finds the page."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.server_port}/"

    @property
    def is_private(self) -> bool:
        """Whether nobody but this machine can reach the page."""
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
    """What a connection sends, until a deadline: not so long a byte, but so long in all."""

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        self.connection, self.seconds = connection, seconds
        self.deadline = time.monotonic() + seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Raises TimeoutError after the deadline."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.connection.settimeout(left)
        try:
            return self.connection.recv_into(buffer)
        finally:
            self.connection.settimeout(self.seconds)  # what is written has its own


class PageHandler(BaseHTTPRequestHandler):
    """Admits, answers, and refuses with an object that says why: `error`."""

    server: PageServer
    timeout = PATIENCE
    server_version, sys_version = "tinyzero", ""
    begun = False  # the answer, of which a connection has one

    def setup(self) -> None:
        """From here to the end of its body a request has `timeout` seconds."""
        super().setup()
        self.rfile.close()
        self.rfile = io.BufferedReader(Reading(self.connection, self.timeout))

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What http.server refuses by itself, such as a method: by our check and under our policy."""
        with self._refusals():
            if getattr(self, "headers", None) is not None:
                self._admit()
            raise Refused(int(code), (message or HTTPStatus(code).phrase)[:80])

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        """Answer what cannot be done by its reason. A browser that went away needs none."""
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
        """Answer what nothing here expects, such as what a user's own task raises."""
        if self.begun:
            self.close_connection = True
        else:
            self._send_json(500, {"error": f"answering raised {brief(error)}"})

    def _admit(self) -> None:
        """Raises Refused where the request names another machine, or another site's page may have sent it."""
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
        """Nothing: the terminal belongs to whoever started the page."""


def _is_this_machine(host: str, given: str) -> bool:
    """Whether a Host header names this machine. A name of somebody else's may lead here too (DNS rebinding), and then
    the page that it belongs to would be taken for ours; an address cannot belong to a page of theirs."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        if name in ("localhost", given, socket.gethostname().lower()):
            return True
        ip_address(name)
    except ValueError:
        return False
    return True


def _policy(page: str) -> str:
    """A Content-Security-Policy under which nothing runs but the page's own script, and nothing is fetched from
    elsewhere."""
    script, style = (
        hashes(re.findall(f"<{k}>(.*?)</{k}>", page, re.DOTALL)) for k in ("script", "style")
    )
    return (
        f"default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def hashes(texts: Iterable[str]) -> str:
    """As a content security policy names inline code."""
    return " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(t.encode()).digest()).decode()}'" for t in texts
    )
