"""The page itself: one HTML file that holds its data, its style, its code and the chart library.

Nothing is fetched when it is looked at, and nothing but its own code can run: the page's policy names the hash of
every script and style in it. What a model wrote is data, which the code only ever sets as text.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from tinyzero.run import outputs
from tinyzero.tools.report.read import Recorded, find_runs
from tinyzero.tools.report.story import tell
from tinyzero.tools.web.server import hashes

FOLDER = files("tinyzero.tools.report") / "page"
FIX = "name another file with --out"
STYLES = ("vendor/uPlot.min.css", "page.css")
SCRIPTS = ("vendor/uPlot.iife.min.js", "parts.js", "charts.js", "samples.js", "page.js")


def write_report(paths: list[Path], out: Path) -> int:
    """Write the page of these runs; returns its size in bytes. Raises UserError."""
    outputs.refuse_others(out, outputs.is_report, FIX)
    folders = find_runs(paths)
    runs = [Recorded(folder) for folder in folders]
    for run in runs:
        run.update()
    title = runs[0].folder.resolve().name if len(runs) == 1 else f"{len(runs)} runs"
    text = page(title, tell(runs, paths[0] if len(paths) == 1 else None))
    written = text.encode(errors="replace")  # a folder's name may hold any bytes
    with outputs.whole(out, outputs.is_report, FIX) as temporary:
        temporary.write_bytes(written)
    return len(written)


def page(title: str, story: Mapping[str, Any] | None) -> str:
    """The HTML text; without a story it asks the server that it came from, again and again."""
    styles = [read(name) for name in STYLES]
    scripts = [read(name) for name in SCRIPTS]
    source = "'none'" if story else "'self'"  # a live page asks where it came from
    policy = (
        "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; "
        f"script-src {hashes(scripts)}; style-src {hashes(styles)}; connect-src {source}"
    )
    parts = {
        "POLICY": policy,
        "TITLE": escape(title),
        "STYLES": "\n".join(f"<style>{text}</style>" for text in styles),
        "DATA": embedded(story),
        "SCRIPTS": "\n".join(f"<script>{text}</script>" for text in scripts),
    }
    return re.sub(r"\{\{([A-Z]+)\}\}", lambda match: parts[match[1]], read("page.html"))


def embedded(story: Mapping[str, Any] | None) -> str:
    """JSON that may stand within a script element: nothing in it can end that."""
    return (
        as_json(story)
        .replace("<", "\\u003c")
        .replace("\u2028", "\\u2028")
        .replace("\u2029", "\\u2029")
    )


def as_json(story: Any) -> str:
    """Strict JSON of what a page tells; a number that is not finite is null, which the page leaves out."""
    return json.dumps(_finite(story), ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")
