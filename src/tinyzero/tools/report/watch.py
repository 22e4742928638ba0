"""`tinyzero watch`: the report's page in the browser, telling the run anew whenever its files have grown."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any

from tinyzero.errors import UserError
from tinyzero.tools.report.page import as_json, page
from tinyzero.tools.report.read import Recorded, find_runs
from tinyzero.tools.report.story import tell
from tinyzero.tools.web.server import PageHandler, PageServer, Refused


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
                    {"error": str(error)}
                    if begun
                    else {"waiting": f"waiting for a run to begin in {self.folder}"}
                )
                self.runs = {}  # read from the start when it is mended, or has begun
            return self.body, self.tag

    def _update(self) -> bool:
        folders = find_runs([self.folder])
        changed = list(self.runs) != folders
        self.runs = {folder: self.runs.get(folder) or Recorded(folder) for folder in folders}
        return any([run.update() for run in self.runs.values()]) or changed

    def _set(self, data: Any) -> None:
        self.body = as_json(data).encode(errors="replace")
        self.tag = f'"{hashlib.sha256(self.body).hexdigest()[:16]}"'


class Server(PageServer):
    """The report's page, and the data that it asks for."""

    def __init__(self, folder: Path, host: str, port: int) -> None:
        """Listens from here on. Raises UserError where it cannot, or there is no such folder."""
        if not folder.is_dir():
            raise UserError(f"no folder {folder}: name a run's folder, as in runs/laptop-grpo-0")
        self.live = Live(folder)
        super().__init__(page(folder.resolve().name, None).encode(), Handler, host, port)


class Handler(PageHandler):
    """GET / is the page, GET /data.json what it shows: nothing where it has that already."""

    server: Server

    def do_GET(self) -> None:
        with self._refusals():
            self._admit()
            if self.path == "/":
                self._send_page()
            elif self.path == "/data.json":
                self._send_story()
            else:
                raise Refused(404, f"there is nothing at {self.path[:80]}")

    def _send_story(self) -> None:
        body, tag = self.server.live.story()
        if self.headers.get("If-None-Match") == tag:
            self._head(304, "application/json", more={"ETag": tag})
        else:
            self._send(200, "application/json", body, {"ETag": tag})


def watch(folder: Path, host: str, port: int, report: Callable[[str], None] = print) -> None:
    """Serve until Ctrl-C."""
    with Server(folder, host, port) as server:
        report(f"{folder} is live at {server.url} (Ctrl-C ends)")
        if not server.is_private:
            report("whoever reaches this machine can see it: there is no password")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            report("")
