"""The runs of a grid, each a `tinyzero train` process of its own, several at a time."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from math import ceil
from pathlib import Path
from statistics import mean

from tinyzero import config
from tinyzero.errors import UserError
from tinyzero.run import outputs
from tinyzero.tools.ablate.comparison import FIX, finished, write
from tinyzero.tools.ablate.grid import Cell, read_grid

NEEDED = ("matplotlib", "scipy")
POLL_SECONDS = 0.2


@dataclass
class Process:
    """One training process."""

    cell: Cell
    process: subprocess.Popen[bytes]
    began: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """How long the process has existed."""
        return time.monotonic() - self.began


def run_grid(path: Path, out: Path, jobs: int, report: Callable[[str], None] = print) -> None:
    """Train the unfinished runs of a grid, `jobs` at a time, then write the comparison into `out`.

    Every mistake that can be found in advance is reported before the first run starts. Finished
    runs need only their records: the base model and the checkpoints may be gone. The comparison
    covers the choices whose runs are all finished.

    Raises UserError if a run failed, after the others have finished. Raises KeyboardInterrupt after
    Ctrl-C or SIGTERM, once every run has stopped cleanly.
    """
    _require_packages()
    grid, cells = read_grid(path)
    waiting = [cell for cell in cells if not finished(cell, out / cell.name)]
    _check(waiting, out)

    report(f"{len(cells)} runs, {len(cells) - len(waiting)} of them already finished")
    trained = bool(waiting)
    failed = _run_all(waiting, out, jobs, report)

    write(path, grid, cells, out, jobs, trained)
    report((out / "ablation.md").read_text(encoding="utf-8"))
    if failed:
        runs = f"{len(failed)} run{'s' * (len(failed) > 1)} failed"
        raise UserError(f"{runs}: see {out / failed[0]}.log, fix it and give the command again")


def start(cell: Cell, out: Path) -> subprocess.Popen[bytes]:
    """Start or resume one run. Its configuration is NAME.toml, and its output goes to NAME.log."""
    folder, recipe = out / cell.name, out / f"{cell.name}.toml"
    try:
        out.mkdir(parents=True, exist_ok=True)
        with outputs.whole(recipe, outputs.is_settings, FIX) as temporary:
            text = config.tables_to_toml(config.asked(cell.config))
            temporary.write_text(text, encoding="utf-8")
        log = (out / f"{cell.name}.log").open("ab")
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}; {FIX}") from None

    arguments = [str(recipe), f"--run.dir={folder}"]
    if (folder / "config.toml").is_file():
        # The user named the grid, and the grid names the code, so it may run.
        arguments = ["--resume", str(folder), "--trust"]
    command = [sys.executable, "-m", "tinyzero.cli", "train", *arguments]

    # A session of its own keeps the terminal's Ctrl-C from reaching the run, which is stopped once.
    with log:
        return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)


def time_left(durations: Sequence[float], ages: Sequence[float], waiting: int, jobs: int) -> str:
    """How many runs are left and about how long they take, for a line of progress.

    Args:
        durations: seconds of each run that has ended.
        ages: seconds since the start of each run in progress.
        waiting: how many runs have not started.
        jobs: how many run at a time.

    >>> time_left([600], [300], waiting=2, jobs=1)
    '3 runs left, about 25 min'
    """
    left = waiting + len(ages)
    if not left:
        return "no runs left"
    typical = mean(durations)
    seconds = waiting * typical + sum(max(0.0, typical - age) for age in ages)
    minutes = ceil(seconds / min(jobs, left) / 60)

    runs = "1 run left" if left == 1 else f"{left} runs left"
    return f"{runs}, about {minutes} min" if minutes > 1 else f"{runs}, about a minute"


def _require_packages() -> None:
    """Raise UserError before any run if a package that the comparison needs is missing."""
    for package in NEEDED:
        if find_spec(package) is None:
            raise UserError(f"the comparison needs {package}: pip install 'tinyzero[report]'")


def _check(waiting: Sequence[Cell], out: Path) -> None:
    """Raise UserError if a run cannot start, or something else is where its results go."""
    from tinyzero.run.check import check

    for cell in {cell.choices: cell for cell in waiting}.values():
        check(cell.config, cell.given)
    for suffix in ("json", "md", "png"):
        outputs.refuse_others(out / f"ablation.{suffix}", outputs.is_comparison, FIX)


def _run_all(waiting: list[Cell], out: Path, jobs: int, report: Callable[[str], None]) -> list[str]:
    """Run the cells, `jobs` at a time, and return the names of those that failed."""
    running: list[Process] = []
    durations: list[float] = []
    failed: list[str] = []

    with _stopped_at_the_end(running, report):
        while waiting or running:
            while waiting and len(running) < jobs:
                cell = waiting.pop(0)
                running.append(Process(cell, start(cell, out)))

            for ended in [entry for entry in running if entry.process.poll() is not None]:
                running.remove(ended)
                durations.append(ended.seconds)
                name = ended.cell.name
                succeeded = not ended.process.returncode and finished(ended.cell, out / name)
                if not succeeded:
                    failed.append(name)
                ages = [entry.seconds for entry in running]
                left = time_left(durations, ages, len(waiting), jobs)
                report(f"{name}: {'finished' if succeeded else 'failed'}; {left}")

            time.sleep(POLL_SECONDS)
    return failed


@contextmanager
def _stopped_at_the_end(running: list[Process], report: Callable[[str], None]) -> Iterator[None]:
    """Within the block, SIGINT and SIGTERM raise KeyboardInterrupt. After it, no run is left."""
    signals = (signal.SIGINT, signal.SIGTERM)
    handlers = {number: signal.signal(number, signal.default_int_handler) for number in signals}
    try:
        yield
    except KeyboardInterrupt:
        report("stopping the runs after their step ...")
        raise
    finally:
        for entry in running:
            entry.process.terminate()
        for entry in running:
            entry.process.wait()
        for number, handler in handlers.items():
            signal.signal(number, handler)
