"""`tinyzero watch`: the report's page in the browser, telling the run anew whenever its files have grown."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import urlsplit

from tinyzero.report.page import page
from tinyzero.report.read import Recorded, find_runs
from tinyzero.report.story import tell
from tinyzero.types import UserError

LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Live:
    """A folder's story as it stands. The folder may be empty still; it may hold one run, or several."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runs: dict[Path, Recorded] = {}
        self.body, self.tag = b"", ""
        self.lock = Lock()

    def story(self) -> tuple[bytes, str]:
        """The page's data as JSON, and a tag that is another one whenever the data are."""
        with self.lock:
            try:
                if self._update() or not self.body:
                    self._set(tell(list(self.runs.values()), self.folder))
            except UserError as error:
                begun = any(self.folder.glob("**/config.toml"))
                self._set(
                    {"error": str(error)} if begun else {"waiting": f"waiting for a run to begin in {self.folder}"}
                )
                self.runs = {}  # read from the start when it is mended, or has begun
            return self.body, self.tag

    def _update(self) -> bool:
        folders = find_runs([self.folder])
        changed = list(self.runs) != folders
        self.runs = {folder: self.runs.get(folder) or Recorded(folder) for folder in folders}
        return any([run.update() for run in self.runs.values()]) or changed

    def _set(self, data: Any) -> None:
        self.body = json.dumps(data, allow_nan=False).encode()
        self.tag = f'"{hashlib.sha256(self.body).hexdigest()[:16]}"'


def serve(folder: Path, host: str, port: int) -> ThreadingHTTPServer:
    """A server of the page and its data, not started yet. Raises UserError where it cannot listen there."""
    if not folder.is_dir():
        raise UserError(f"no folder {folder}: name a run's folder, as in runs/laptop-grpo-0")
    live, html = Live(folder), page(folder.resolve().name, None).encode()
    try:
        return ThreadingHTTPServer((host, port), handler(live, html, guarded=host in LOOPBACK))
    except OSError as error:
        raise UserError(f"cannot listen on {host}:{port}: {error.strerror}; name another with --port") from None


def handler(live: Live, html: bytes, guarded: bool) -> type[BaseHTTPRequestHandler]:
    """What answers a browser. A guarded one answers only to this machine's own names, so that no web page that
    points its name here can read a run."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if guarded and urlsplit(f"//{self.headers.get('Host', '')}").hostname not in LOOPBACK:
                self.send_error(HTTPStatus.FORBIDDEN)
            elif self.path == "/":
                self._send(html, "text/html; charset=utf-8")
            elif self.path == "/data.json":
                body, tag = live.story()
                if self.headers.get("If-None-Match") == tag:
                    self.send_response(HTTPStatus.NOT_MODIFIED)
                    self.end_headers()
                else:
                    self._send(body, "application/json", tag)
            else:
                self.send_error(HTTPStatus.NOT_FOUND)

        def _send(self, body: bytes, kind: str, tag: str = "") -> None:
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-cache")
            if tag:
                self.send_header("ETag", tag)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *values: Any) -> None:
            """Nothing: the terminal belongs to whoever watches."""

    return Handler


def watch(folder: Path, host: str, port: int, report: Callable[[str], None] = print) -> None:
    """Serve until Ctrl-C."""
    with serve(folder, host, port) as server:
        name = f"[{host}]" if ":" in host else host
        report(f"{folder} is live at http://{name}:{server.server_address[1]} (Ctrl-C ends)")
        server.serve_forever()
