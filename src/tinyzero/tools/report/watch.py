"""`tinyzero watch`: the report's page in the browser, updated while the run writes its files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any

from tinyzero.errors import UserError, brief
from tinyzero.tools.report.page import as_json, page
from tinyzero.tools.report.read import Recorded, find_runs
from tinyzero.tools.report.story import page_data
from tinyzero.tools.web.server import PageHandler, PageServer, Refused


class Live:
    """The page's data for a folder, which may be empty, or hold one run or several.

    An error in the records is part of the data, and each new one is also given to `report`.
    """

    def __init__(self, folder: Path, report: Callable[[str], None] = print) -> None:
        self.folder, self.report = folder, report
        self.runs: dict[Path, Recorded] = {}
        self.body, self.tag = b"", ""
        self.lock = Lock()
        self._last_error = ""

    def data(self) -> tuple[bytes, str]:
        """The page's data as JSON, and a tag that changes whenever the data do."""
        with self.lock:
            try:
                if self._update() or not self.body:
                    self._set(page_data(list(self.runs.values()), self.folder))
                self._last_error = ""
            except UserError as error:
                self._failed(str(error))
            except Exception as error:
                self._failed(f"the records in {self.folder} cannot be shown: {brief(error)}")
            return self.body, self.tag

    def _update(self) -> bool:
        folders = find_runs([self.folder])
        changed = list(self.runs) != folders
        self.runs = {folder: self.runs.get(folder) or Recorded(folder) for folder in folders}
        grown = [run.update() for run in self.runs.values()]
        return any(grown) or changed

    def _failed(self, reason: str) -> None:
        self.runs = {}  # read from the start once the records are repaired, or a run has begun
        if not any(self.folder.glob("**/config.toml")):
            self._set({"waiting": f"waiting for a run to begin in {self.folder}"})
            return

        self._set({"error": reason})
        if reason != self._last_error:
            self.report(reason)
        self._last_error = reason

    def _set(self, data: Any) -> None:
        self.body = as_json(data).encode(errors="replace")
        self.tag = f'"{hashlib.sha256(self.body).hexdigest()[:16]}"'


class Server(PageServer):
    """Serves the report's page and the data that it asks for."""

    def __init__(
        self, folder: Path, host: str, port: int, report: Callable[[str], None] = print
    ) -> None:
        """Listen from here on. Raises UserError if it cannot or `folder` does not exist."""
        if not folder.is_dir():
            raise UserError(f"no folder {folder}: name a run's folder, as in runs/laptop-grpo-0")
        self.live = Live(folder, report)
        super().__init__(page(folder.resolve().name, None).encode(), Handler, host, port)


class Handler(PageHandler):
    """GET / is the page and GET /data.json its data; 304 if the browser has those already."""

    server: Server

    def do_GET(self) -> None:
        with self._refusals():
            self._admit()
            if self.path == "/":
                self._send_page()
            elif self.path == "/data.json":
                self._send_data()
            else:
                raise Refused(404, f"there is nothing at {self.path[:80]}")

    def _send_data(self) -> None:
        body, tag = self.server.live.data()
        if self.headers.get("If-None-Match") == tag:
            self._head(304, "application/json", more={"ETag": tag})
        else:
            self._send(200, "application/json", body, {"ETag": tag})


def watch(folder: Path, host: str, port: int, report: Callable[[str], None] = print) -> None:
    """Serve the page until Ctrl-C. `report` prints a line in the terminal."""
    with Server(folder, host, port, report) as server:
        report(f"{folder} is live at {server.url} (Ctrl-C ends)")
        if not server.is_private:
            report("anyone who can reach this machine can see it: there is no password")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            report("")
