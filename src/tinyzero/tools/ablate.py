"""Grids of runs: every cell on every seed, each a `tinyzero train` of its own, and the comparison.

    recipe = "laptop"                    # a bundled recipe, or a file beside this one
    seeds = [0, 1, 2]
    [common]                             # overrides of every cell
    "eval.every" = 20
    [axes.algorithm]                     # a cell is one choice on every axis
    grpo = { "algorithm.name" = "grpo" }
    ppo = { "algorithm.name" = "ppo" }

Finished runs are kept and unfinished ones resumed, so a grid that was stopped goes on where it was.
The comparison is written into the runs' folder, as ablation.json, .md and .png, with 95 % intervals.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import product
from math import prod, sqrt
from pathlib import Path
from shutil import which
from statistics import mean, stdev
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from tinyzero import config
from tinyzero.errors import UserError
from tinyzero.registry import validate
from tinyzero.run import outputs, records
from tinyzero.tasks import TASKS, load_task

MOST_RUNS = 10_000
FIX = "name another folder with --out"
T975 = (
    12.706,
    4.303,
    3.182,
    2.776,
    2.571,
    2.447,
    2.365,
    2.306,
    2.262,
    2.228,
)  # Student's t, 1 to 10 degrees
CURVES = {
    "pass@1": "pass@1 on dev",
    "response_length/right": "tokens of right answers",
    "response_length/wrong": "tokens of wrong answers",
    **{key: heading for name in TASKS for key, heading in load_task(name).highlights.items()},
}


class Grid(BaseModel):
    """A grid as its file says it."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    recipe: str = Field(config.DEFAULT_RECIPE, description="the recipe that every cell starts from")
    seeds: list[int] = Field([0, 1, 2], min_length=1, max_length=1_000, description="of every cell")
    common: dict[str, Any] = Field(default_factory=dict, description="overrides of every cell")
    axes: dict[str, dict[str, dict[str, Any]]] = Field(
        description="by axis and choice: overrides", min_length=1
    )


@dataclass(frozen=True)
class Cell:
    """One run: a choice on every axis, and a seed."""

    choices: tuple[str, ...]
    seed: int
    config: config.Config
    given: tuple[str, ...] = ()
    """The keys that its choices set."""

    @property
    def name(self) -> str:
        return "-".join([*self.choices, str(self.seed)])


def read_grid(path: Path) -> tuple[Grid, list[Cell]]:
    """The grid and its cells. Raises UserError naming what is wrong."""
    grid = validate(Grid, config.read_toml(path), "grid")
    if empty := [axis for axis, choices in grid.axes.items() if not choices]:
        raise UserError(
            f"{path} has no choice on the axis {empty[0]!r}: write NAME = {{}} below [axes.{empty[0]}]"
        )
    for choice in (choice for choices in grid.axes.values() for choice in choices):
        if not choice or set(choice) & set("/|"):
            raise UserError(
                f"{path} names a choice {choice!r}: give it a name, without a slash or a bar"
            )
    name = str(path.parent / grid.recipe) if grid.recipe.endswith(".toml") else grid.recipe
    config.require_recipe(name, {}, False, "a copy of it beside your grid")
    recipe = config.read_recipe(name)
    runs = prod(map(len, grid.axes.values())) * len(grid.seeds)
    if runs > MOST_RUNS:
        raise UserError(
            f"{path} asks for {runs:,} runs: leave choices out, {MOST_RUNS:,} is the most"
        )
    cells = []
    for choices in product(*(axis.items() for axis in grid.axes.values())):
        given: dict[str, Any] = {}
        for _, chosen in choices:
            given |= config.flat(chosen)
        overrides = config.flat(grid.common) | given
        if fixed := {"seed", "run.dir"} & overrides.keys():
            raise UserError(f"{path} sets {fixed.pop()}, which the grid itself sets: use seeds")
        for seed in grid.seeds:
            cell = Cell(
                tuple(name for name, _ in choices),
                seed,
                config.resolve(recipe, overrides | {"seed": seed}),
                tuple(given),
            )
            cells.append(cell)
        if not (cell.config.eval.dev_problems and cell.config.eval.test_problems):
            raise UserError(
                f"{path} has nothing to compare: set eval.every and eval.test_problems above 0 in [common]"
            )
    names = [cell.name for cell in cells]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"{path} names a run {twice[0]!r} twice: give other names, or other seeds")
    return grid, cells


def run_grid(path: Path, out: Path, jobs: int, report: Callable[[str], None] = print) -> None:
    """Run what is not finished, `jobs` at a time, then write the comparison of the choices whose runs all finished.

    Every choice with a run left to make is checked before the first of them; a base that only finished runs began from
    may be gone. Raises UserError where a run failed (the others are finished first), KeyboardInterrupt after a clean
    stop, which Ctrl-C and SIGTERM ask for.
    """
    from tinyzero.run.check import check

    if find_spec("matplotlib") is None:  # said now, and not after hours
        raise UserError("the comparison's picture needs matplotlib: pip install 'tinyzero[report]'")
    grid, cells = read_grid(path)
    waiting = [cell for cell in cells if not finished(cell, out / cell.name)]
    for cell in {cell.choices: cell for cell in waiting}.values():
        check(cell.config, cell.given)
    for end in ("json", "md", "png"):  # said now, and not after hours
        outputs.refuse_others(out / f"ablation.{end}", outputs.is_comparison, FIX)
    report(f"{len(cells)} runs, {len(cells) - len(waiting)} of them finished")
    running: list[tuple[Cell, subprocess.Popen[bytes]]] = []
    failed: list[str] = []
    began, done = time.monotonic(), 0
    handlers = {
        s: signal.signal(s, signal.default_int_handler) for s in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                cell = waiting.pop(0)
                running.append((cell, start(cell, out)))
            ended = [(cell, process) for cell, process in running if process.poll() is not None]
            running = [entry for entry in running if entry not in ended]
            for cell, process in ended:
                done += 1
                whole = not process.returncode and finished(cell, out / cell.name)
                failed += [] if whole else [cell.name]
                left = (time.monotonic() - began) / done * (len(waiting) + len(running)) / 60
                report(
                    f"{cell.name}: {'finished' if whole else 'failed'}; about {left:.0f} min left"
                )
            time.sleep(0.2)
    except KeyboardInterrupt:
        report("stopping the runs after their step ...")
        raise
    finally:  # in sessions of their own, so that each is stopped once, and cleanly
        for _, process in running:
            process.terminate()
        for _, process in running:
            process.wait()
        for s, handler in handlers.items():
            signal.signal(s, handler)
    write(path, grid, cells, out, jobs)
    report((out / "ablation.md").read_text())
    if failed:
        runs = f"{len(failed)} run{'s' * (len(failed) > 1)} failed"
        raise UserError(f"{runs}: see {out / failed[0]}.log; mend it and give the command again")


def start(cell: Cell, out: Path) -> subprocess.Popen[bytes]:
    """Begin or resume one run, as NAME.toml says; what it says itself goes to NAME.log."""
    folder, recipe = out / cell.name, out / f"{cell.name}.toml"
    resumed = (
        # what the cell names stands in the grid, which its user named
        ["--resume", str(folder), "--trust"]
        if (folder / "config.toml").is_file()
        else [str(recipe), f"--run.dir={folder}"]
    )
    try:
        out.mkdir(parents=True, exist_ok=True)
        with outputs.whole(recipe, outputs.is_settings, FIX) as temporary:
            text = config.tables_to_toml(config.asked(cell.config))
            temporary.write_text(text, encoding="utf-8")
        log = (out / f"{cell.name}.log").open("ab")
    except OSError as error:
        raise UserError(
            f"cannot write {out}: {error.strerror}; name another folder with --out"
        ) from None
    command = [sys.executable, "-m", "tinyzero.cli", "train", *resumed]
    with log:
        return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)


def finished(cell: Cell, folder: Path) -> bool:
    """Whether the run came to its end: every step and every score is recorded. Its checkpoints may be gone since.

    Raises UserError if another run was asked for in the folder than the grid asks for now.
    """
    if not (folder / "config.toml").is_file():
        return False
    there = config.flat(config.read_asked(folder).model_dump())
    asked = config.flat(cell.config.model_dump())
    if other := [key for key in asked.keys() | there.keys() if there.get(key) != asked.get(key)]:
        key = min(other)
        raise UserError(
            f"{folder} was run with {key} {there.get(key)}, and the grid has {asked.get(key)}: move it away, or name "
            "another --out"
        )
    steps, every = cell.config.steps, cell.config.eval.every
    due = {
        ("test", 0),
        ("test", steps),
        ("dev", steps),
        *(("dev", step) for step in range(0, steps, every)),
    }
    scored = {(e["split"], e["step"]) for e in records.read(folder / "eval.jsonl")}
    return due <= scored and [e["step"] for e in records.read(folder / "metrics.jsonl")] == list(
        range(steps)
    )


def interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the mean over seeds, by Student's t; one seed has none, and gives its own value twice."""
    if len(values) < 2:
        return values[0], values[0]
    degrees = len(values) - 1
    t = (
        T975[degrees - 1] if degrees <= len(T975) else 1.96 + 2.372 / degrees + 2.822 / degrees**2
    )  # Fisher, 1926
    half = t * stdev(values) / sqrt(len(values))
    return mean(values) - half, mean(values) + half


def outcome(folder: Path) -> dict[str, float]:
    """What one run came to."""
    steps = list(records.read(folder / "metrics.jsonl"))
    tests = [e for e in records.read(folder / "eval.jsonl") if e["split"] == "test"]
    first, last = tests[0], tests[-1]
    return {
        "before": first["pass@1"],
        "after": last["pass@1"],
        "after/low": last["pass@1/low"],
        "after/high": last["pass@1/high"],
        "length": last["response_length"],
        "truncated": last["truncated"],
        "samples": steps[-1]["samples/generated"],
        "tokens": sum(s["tokens/generated"] for s in steps),
        "minutes": steps[-1]["time/elapsed"] / 60,
        "CPU minutes": steps[-1]["time/cpu"] / 60,
    }


def evaluations(folder: Path) -> dict[str, Any]:
    """A run's curve on dev, and what its answers were like when it was last scored on test."""
    lengths = ("response_length", "response_length/right", "response_length/wrong")
    kept = ("step", "samples", "pass@1", *lengths)
    last = [e for e in records.read(folder / "eval.jsonl") if e["split"] == "test"][-1]
    return {
        "curve": [{key: e[key] for key in kept if key in e} for e in dev_scores(folder)],
        "test": {key: last[key] for key in last if key.startswith("behaviour/") or key in lengths},
    }


def settings(folder: Path) -> dict[str, Any]:
    """What a run says of itself, whatever the defaults are by now; of a choice's runs only the seed differs."""
    found = config.read_recorded(folder).model_dump(exclude={"seed"})
    found["run"].pop("dir")
    return found


def machine() -> dict[str, str]:
    """Where the grid was run, and at which commit if this is a checkout."""
    found, root = (
        {"machine": f"{platform.machine()}, {os.cpu_count()} cores"},
        Path(__file__).parents[3],
    )
    if not (root / ".git").exists() or which("git") is None:
        return found
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=root, capture_output=True, text=True
    )
    return found | ({"commit": done.stdout.strip()} if done.stdout else {})


def write(path: Path, grid: Grid, cells: Sequence[Cell], out: Path, jobs: int) -> None:
    """The comparison, in `out`, of the choices all of whose runs are finished, and which runs are not."""
    waiting = [cell.name for cell in cells if not finished(cell, out / cell.name)]
    by_choice: dict[str, list[Cell]] = {}
    for cell in cells:
        by_choice.setdefault("-".join(cell.choices), []).append(cell)
    by_choice = {n: m for n, m in by_choice.items() if not any(cell.name in waiting for cell in m)}
    results: dict[str, Any] = {}
    for name, members in by_choice.items():
        runs = {cell.seed: outcome(out / cell.name) for cell in members}
        means = {key: mean(run[key] for run in runs.values()) for key in next(iter(runs.values()))}
        if len(runs) > 1:
            low, high = interval([run["after"] for run in runs.values()])
            means |= {"after/low": max(0.0, low), "after/high": min(1.0, high)}
        by_seed = {cell.seed: runs[cell.seed] | evaluations(out / cell.name) for cell in members}
        results[name] = {
            "mean": means,
            "seeds": by_seed,
            "settings": settings(out / members[0].name),
        }
    about = {
        "command": shlex.join(["tinyzero", "ablate", str(path), "--jobs", str(jobs)])
    } | machine()
    record = about | {"grid": grid.model_dump(), "not finished": waiting, "results": results}
    with outputs.whole(out / "ablation.json", outputs.is_comparison, FIX) as temporary:
        temporary.write_text(json.dumps(record, indent=1))
    place = f"on {about['machine']}"
    place = f"at commit {about['commit']} {place}" if "commit" in about else place
    seeds = ", ".join(map(str, grid.seeds))
    spread = f"means over seeds {seeds}, with 95 % intervals of the mean over seeds, by Student's t"
    if len(grid.seeds) == 1:
        spread = f"seed {seeds}, with 95 % intervals of the one run, over problems"
    note = (
        f"`{about['command']}` {place}: pass@1 on test, {spread}. Samples are those generated, dropped groups "
        "included. Minutes are a run's, the last evaluation left out, as many runs at a time as there were."
    )
    missing = [f"not finished: {', '.join(waiting)}", ""] if waiting else []
    with outputs.whole(out / "ablation.md", outputs.is_comparison, FIX) as temporary:
        temporary.write_text("\n".join([*table(results), "", *missing, note]) + "\n")
    if by_choice:
        with outputs.whole(out / "ablation.png", outputs.is_comparison, FIX) as temporary:
            draw(by_choice, out, temporary)


def table(results: Mapping[str, Any]) -> list[str]:
    """The choices' means as lines of Markdown."""
    head = [
        "",
        "before",
        "after",
        "gain",
        "tokens a problem",
        "cut",
        "samples",
        "minutes",
        "CPU minutes",
    ]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, found in results.items():
        m = found["mean"]
        after = f"{m['after']:.3f} [{m['after/low']:.3f}, {m['after/high']:.3f}]"
        row = [
            name,
            f"{m['before']:.3f}",
            after,
            f"{m['after'] - m['before']:.3f}",
            f"{m['length']:.0f}",
        ]
        row += [
            f"{m['truncated']:.3f}",
            f"{m['samples']:.0f}",
            f"{m['minutes']:.1f}",
            f"{m['CPU minutes']:.1f}",
        ]
        lines.append("| " + " | ".join(row) + " |")
    return lines


def draw(by_choice: Mapping[str, Sequence[Cell]], out: Path, picture: Path) -> None:
    """Dev curves of every choice: the mean over seeds, and its 95 % interval as a band."""
    from matplotlib.figure import Figure

    runs = {
        name: [dev_scores(out / cell.name) for cell in members]
        for name, members in by_choice.items()
    }
    drawn = [
        key
        for key in CURVES
        if all(key in e for found in runs.values() for run in found for e in run[1:])
    ]
    figure = Figure(figsize=(3.4 * len(drawn), 3.2), layout="constrained")
    axes = figure.subplots(1, len(drawn), squeeze=False)[0]
    for axis, key in zip(axes, drawn, strict=True):
        for name, found in runs.items():
            scored = [
                entries for entries in zip(*found, strict=True) if all(key in e for e in entries)
            ]
            bounds = [interval([e[key] for e in entries]) for entries in scored]
            samples = [mean(e["samples"] for e in entries) for entries in scored]
            axis.plot(samples, [mean(e[key] for e in entries) for entries in scored], label=name)
            axis.fill_between(
                samples,
                [low for low, _ in bounds],
                [high for _, high in bounds],
                alpha=0.2,
                linewidth=0,
            )
        axis.set(title=CURVES[key], xlabel="samples")
    axes[0].legend(fontsize=7)
    figure.savefig(picture, dpi=130)


def dev_scores(folder: Path) -> list[dict[str, Any]]:
    """A run's evaluations on dev, each with the `samples` generated before it."""
    samples = [0, *(s["samples/generated"] for s in records.read(folder / "metrics.jsonl"))]
    return [
        e | {"samples": samples[e["step"]]}
        for e in records.read(folder / "eval.jsonl")
        if e["split"] == "dev"
    ]
