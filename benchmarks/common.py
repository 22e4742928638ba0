"""What all benchmarks share: describing the machine, and writing a table with its figures."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinyzero.config import Config

RESULTS = Path(__file__).parent / "results"


def open_run(folder: str) -> tuple[Config, str]:
    """A run's configuration and the folder of its newest model. Exits if it has no checkpoint."""
    from tinyzero import config
    from tinyzero.run import checkpoint

    newest = checkpoint.load_latest(Path(folder), print)
    if newest is None:
        sys.exit(f"{folder} has no checkpoint")
    recipe = config.read_recipe(f"{folder}/config.toml")
    return config.resolve(recipe, {}), str(newest[0] / "model")


def describe(threads: Sequence[int], *packages: str) -> dict[str, Any]:
    """The command, the commit, the machine and the versions behind a result."""
    return {
        "command": shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "commit": _commit(),
        "cpu": cpu(),
        "cores": os.cpu_count(),
        "threads": list(threads),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in packages},
    }


def cpu() -> str:
    """The processor's name as the system reports it."""
    info: dict[str, str] = {}
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines():
            key, _, value = line.partition(":")
            info[key.strip()] = value.strip()

    if "model name" not in info:
        return platform.processor() or platform.machine()
    return f"{info['model name']} (family {info.get('cpu family')}, model {info.get('model')})"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def write(name: str, about: dict[str, Any], results: Any, text: str) -> None:
    """Print the table and write it to results/NAME.md, and the figures to results/NAME.json."""
    versions = "".join(f", {k} {v}" for k, v in about["versions"].items())
    note = (
        f"`{about['command']}` at commit {about['commit']}, on {about['cpu']}, "
        f"{about['cores']} cores, threads {' and '.join(map(str, about['threads']))}; "
        f"Python {about['python']}{versions}."
    )

    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(about | {"results": results}, indent=1) + "\n")
    (RESULTS / f"{name}.md").write_text(f"{text}\n\n{note}\n")
    print(f"\n{text}\n\n{note}")


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    try:
        answer = subprocess.run(command, cwd=RESULTS.parent, capture_output=True, text=True)
    except FileNotFoundError:  # a machine without git
        return "unknown"
    return answer.stdout.strip() or "unknown"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
