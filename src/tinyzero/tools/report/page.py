"""The report's page: one HTML file that contains its data, style, code and chart library.

It loads nothing from the network, and only its own code can run: the page's Content-Security-Policy
names the hash of every script and style in it. What a model wrote is data, and the code only ever
sets it as text.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from tinyzero.run import outputs
from tinyzero.tools.report.read import Recorded, find_runs
from tinyzero.tools.report.story import names_of, page_data
from tinyzero.tools.web.server import hashes

FOLDER = files("tinyzero.tools.report") / "page"
FIX = "name another file with --out"
LONGEST_NAME = 50  # characters of the runs' names in the name of a page
STYLES = ("vendor/uPlot.min.css", "page.css")
SCRIPTS = ("vendor/uPlot.iife.min.js", "parts.js", "charts.js", "samples.js", "page.js")


def default_page(paths: Sequence[Path]) -> Path:
    """The page's path: in the folder if there is one, or in the folder that several share.

    The page of several has their names in its own, so that it does not replace the page of a grid
    whose folder they share: the runs g/a-0 and g/b-0 have g/report-a-0-b-0.html. If the names are
    long, they are cut and a hash of all names follows.
    """
    shared_folder = Path(os.path.commonpath(map(os.path.abspath, paths)))
    folders = list(dict.fromkeys(path.resolve() for path in paths))
    if len(folders) == 1:
        return shared_folder / "report.html"

    names = "-".join(names_of(folders)).replace(os.sep, "-")
    if len(names) > LONGEST_NAME:
        digest = hashlib.sha256(os.fsencode(names)).hexdigest()[:8]
        names = f"{names[:LONGEST_NAME]}-{digest}"
    return shared_folder / f"report-{names}.html"


def write_report(paths: list[Path], out: Path) -> int:
    """Write the page about the runs at `paths` to `out`, and return its size in bytes.

    Raises UserError if there is no run, a record is damaged, or `out` is another's file.
    """
    outputs.refuse_others(out, outputs.is_report, FIX)
    runs = [Recorded(folder) for folder in find_runs(paths)]
    for run in runs:
        run.update()

    title = runs[0].folder.resolve().name if len(runs) == 1 else f"{len(runs)} runs"
    grid_folder = paths[0] if len(paths) == 1 else None
    html = page(title, page_data(runs, grid_folder))

    encoded = html.encode(errors="replace")  # a folder's name may hold any bytes
    with outputs.whole(out, outputs.is_report, FIX) as temporary:
        temporary.write_bytes(encoded)
    return len(encoded)


def page(title: str, data: Mapping[str, Any] | None) -> str:
    """The HTML of the page. Without `data` it keeps asking the server that it came from."""
    styles = [read(name) for name in STYLES]
    scripts = [read(name) for name in SCRIPTS]
    connections = "'none'" if data else "'self'"
    policy = (
        "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; "
        f"script-src {hashes(scripts)}; style-src {hashes(styles)}; connect-src {connections}"
    )
    parts = {
        "POLICY": policy,
        "TITLE": escape(title),
        "STYLES": "\n".join(f"<style>{text}</style>" for text in styles),
        "DATA": embedded(data),
        "SCRIPTS": "\n".join(f"<script>{text}</script>" for text in scripts),
    }
    return re.sub(r"\{\{([A-Z]+)\}\}", lambda match: parts[match[1]], read("page.html"))


def embedded(data: Mapping[str, Any] | None) -> str:
    """JSON that can be put inside a script element: nothing in it can end the element."""
    return (
        as_json(data)
        .replace("<", "\\u003c")
        .replace("\u2028", "\\u2028")
        .replace("\u2029", "\\u2029")
    )


def as_json(data: Any) -> str:
    """Strict JSON of the page's data. Numbers that are not finite become null."""
    return json.dumps(_finite(data), ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read(name: str) -> str:
    """The text of a file in page/."""
    return (FOLDER / name).read_text(encoding="utf-8")
