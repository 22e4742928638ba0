"""The comparison of a grid's choices: a record, two tables and a picture.

Means over seeds have intervals that account for seeds and problems; see
`tinyzero.tools.ablate.intervals`.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from shutil import which
from statistics import mean
from typing import TYPE_CHECKING, Any

from tinyzero import config
from tinyzero.errors import UserError
from tinyzero.run import outputs, records
from tinyzero.tasks import TASKS, load_task
from tinyzero.tools.ablate.grid import Cell, Grid
from tinyzero.tools.ablate.intervals import (
    Interval,
    Scores,
    difference,
    mean_score,
    over_seeds,
    read_scores,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LONGEST_LINE = 200
FIX = "name another folder with --out"
ANSWERS = re.compile(r"behaviour/.*|response_length.*|truncated|greedy|pass@\d+")
"""Keys of an evaluation that describe its answers."""

LENGTHS = ("response_length", "response_length/right", "response_length/wrong")
CURVES = {
    "pass@1": "pass@1 on dev",
    "response_length/right": "tokens of right answers",
    "response_length/wrong": "tokens of wrong answers",
    **{key: heading for name in TASKS for key, heading in load_task(name).highlights.items()},
}
COLUMNS = ("", "before", "after", "gain", "tokens", "cut off", "samples", "minutes", "CPU minutes")


def finished(cell: Cell, folder: Path) -> bool:
    """Whether a run has recorded every step and every evaluation. Its checkpoints may be deleted.

    Raises UserError if the run in the folder was started with other settings than the grid has now.
    """
    if not (folder / "config.toml").is_file():
        return False
    recorded = config.flat(config.read_asked(folder).model_dump())
    wanted = config.flat(cell.config.model_dump())
    for key in sorted(wanted.keys() | recorded.keys()):
        if recorded.get(key) != wanted.get(key):
            raise UserError(
                f"{folder} was run with {key} {recorded.get(key)}, and the grid has "
                f"{wanted.get(key)}: move the folder away, or {FIX}"
            )

    steps, every = cell.config.steps, cell.config.eval.every
    due = {("test", 0), ("test", steps), ("dev", steps)}
    due |= {("dev", step) for step in range(0, steps, every)}
    scored = {(entry["split"], entry["step"]) for entry in records.read(folder / "eval.jsonl")}
    trained = [entry["step"] for entry in records.read(folder / "metrics.jsonl")]
    return due <= scored and trained == list(range(steps))


def write(
    path: Path, grid: Grid, cells: Sequence[Cell], out: Path, jobs: int, trained: bool = True
) -> None:
    """Write ablation.json, .md and .png into `out`, for the choices whose runs are all finished.

    `trained` says whether this command trained anything. If not, a comparison that is already there
    keeps the command, the commit and the machine that it names.
    """
    waiting = [cell.name for cell in cells if not finished(cell, out / cell.name)]
    incomplete = {cell.choice for cell in cells if cell.name in waiting}

    by_choice: dict[str, list[Cell]] = {}
    for cell in cells:
        if cell.choice not in incomplete:
            by_choice.setdefault(cell.choice, []).append(cell)

    command = shlex.join(["tinyzero", "ablate", str(path), "--jobs", str(jobs)])
    made_by = {} if trained else recorded_origin(out / "ablation.json")
    record = {
        **(made_by or {"command": command, **machine()}),
        "grid": grid.model_dump(),
        "not finished": waiting,
        **compare(by_choice, out),
    }

    with outputs.whole(out / "ablation.json", outputs.is_comparison, FIX) as temporary:
        temporary.write_text(compact(record), encoding="utf-8")
    with outputs.whole(out / "ablation.md", outputs.is_comparison, FIX) as temporary:
        temporary.write_text(markdown(record), encoding="utf-8")

    if by_choice:
        with outputs.whole(out / "ablation.png", outputs.is_comparison, FIX) as temporary:
            draw(by_choice, out, temporary)


def compare(by_choice: Mapping[str, Sequence[Cell]], out: Path) -> dict[str, Any]:
    """The results of each choice, and the differences of all choices to the first."""
    results: dict[str, Any] = {}
    scores: dict[str, list[Scores]] = {}

    for name, members in by_choice.items():
        scores[name] = [read_scores(tests(out / cell.name)[-1]) for cell in members]
        results[name] = {
            "mean": summary([outcome(out / cell.name) for cell in members], scores[name]),
            "seeds": {cell.seed: seed_record(out / cell.name) for cell in members},
        }

    return {"results": results, "differences": differences(scores)}


def summary(outcomes: Sequence[Mapping[str, float]], scores: Sequence[Scores]) -> dict[str, float]:
    """The means of the runs' outcomes, with the interval of the accuracy after training."""
    means = {key: mean(run[key] for run in outcomes) for key in outcomes[0]}
    interval = mean_score(scores)
    return means | {"after/low": interval.low, "after/high": interval.high}


def differences(scores: Mapping[str, Sequence[Scores]]) -> dict[str, Any]:
    """How every choice but the first differs from the first, each with its corrected interval."""
    first, *others = scores or [""]
    compared = {name: difference(scores[name], scores[first], len(others)) for name in others}

    return {
        "from": first,
        "choices": {
            name: {"difference": interval.mean, "low": interval.low, "high": interval.high}
            for name, interval in compared.items()
        },
    }


def seed_record(folder: Path) -> dict[str, Any]:
    """What the comparison keeps of one run."""
    return outcome(folder) | evaluations(folder)


def outcome(folder: Path) -> dict[str, float]:
    """The scores of one run before and after training, and what the run cost."""
    steps = list(records.read(folder / "metrics.jsonl"))
    first, last = tests(folder)[0], tests(folder)[-1]
    return {
        "before": first["pass@1"],
        "after": last["pass@1"],
        "after/low": last["pass@1/low"],
        "after/high": last["pass@1/high"],
        "length": last["response_length"],
        "truncated": last["truncated"],
        "samples": steps[-1]["samples/generated"],
        "tokens": sum(step["tokens/generated"] for step in steps),
        "minutes": steps[-1]["time/elapsed"] / 60,
        "CPU minutes": steps[-1]["time/cpu"] / 60,
    }


def evaluations(folder: Path) -> dict[str, Any]:
    """One run's curve on dev, and what its answers on test were like before and after training."""
    kept = ("step", "samples", "pass@1", *LENGTHS)
    first, last = tests(folder)[0], tests(folder)[-1]
    return {
        "curve": [{key: entry[key] for key in kept if key in entry} for entry in curve(folder)],
        "test/before": answers(first),
        "test": answers(last),
    }


def answers(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What an evaluation says about the answers: scores, lengths and behaviours."""
    return {key: value for key, value in entry.items() if ANSWERS.fullmatch(key)}


def tests(folder: Path) -> list[dict[str, Any]]:
    """A run's evaluations on the test split, in order."""
    return [entry for entry in records.read(folder / "eval.jsonl") if entry["split"] == "test"]


def curve(folder: Path) -> list[dict[str, Any]]:
    """A run's evaluations on dev, each with the number of `samples` generated before it."""
    steps = records.read(folder / "metrics.jsonl")
    samples = [0, *(step["samples/generated"] for step in steps)]
    return [
        entry | {"samples": samples[entry["step"]]}
        for entry in records.read(folder / "eval.jsonl")
        if entry["split"] == "dev"
    ]


def recorded_origin(path: Path) -> dict[str, str]:
    """The command, machine and commit that a comparison names; empty if there is no comparison."""
    if not (path.is_file() and outputs.is_comparison(path)):
        return {}
    record = json.loads(path.read_text(encoding="utf-8"))
    origin = {key: record[key] for key in ("command", "machine", "commit") if key in record}
    return origin if {"command", "machine"} <= origin.keys() else {}


def machine() -> dict[str, str]:
    """The machine that the grid was run on, and the commit if this is a git checkout."""
    described = {"machine": f"{platform.machine()}, {os.cpu_count()} cores"}
    root = Path(__file__).parents[4]
    if not (root / ".git").exists() or which("git") is None:
        return described

    command = ["git", "describe", "--always", "--dirty"]
    answer = subprocess.run(command, cwd=root, capture_output=True, text=True)
    commit = answer.stdout.strip()
    return described | ({"commit": commit} if commit else {})


def compact(record: Mapping[str, Any]) -> str:
    """The record as indented JSON, with short lists and objects on one line each."""
    text = json.dumps(record, indent=1)

    def on_one_line(match: re.Match[str]) -> str:
        joined = re.sub(r"\n\s*", " ", match[0])
        return joined if len(joined) <= LONGEST_LINE else match[0]

    return re.sub(r"[\[{][^\[\]{}]*[\]}]", on_one_line, text) + "\n"


def markdown(record: Mapping[str, Any]) -> str:
    """The comparison as Markdown: a table of the choices, one of the differences, and notes."""
    seeds = record["grid"]["seeds"]
    parts = [table(record["results"])]
    if record["not finished"]:
        parts.append(f"Not finished: {', '.join(record['not finished'])}.")
    if record["differences"]["choices"]:
        parts.append(difference_table(record["differences"], one_seed=len(seeds) == 1))
    parts.append(explanation(seeds, len(record["differences"]["choices"])))

    commit = f" at commit {record['commit']}" if "commit" in record else ""
    parts.append(f"Made by `{record['command']}`{commit} on {record['machine']}.")
    return "\n\n".join(parts) + "\n"


def table(results: Mapping[str, Any]) -> str:
    """One row per choice: its means over seeds."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]

    for name, result in results.items():
        means = result["mean"]
        row = [
            name,
            f"{means['before']:.3f}",
            f"{means['after']:.3f} [{means['after/low']:.3f}, {means['after/high']:.3f}]",
            f"{means['after'] - means['before']:.3f}",
            f"{means['length']:.0f}",
            f"{means['truncated']:.3f}",
            f"{means['samples']:.0f}",
            f"{means['minutes']:.1f}",
            f"{means['CPU minutes']:.1f}",
        ]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def difference_table(compared: Mapping[str, Any], one_seed: bool = False) -> str:
    """One row per choice but the first: its difference from the first, in figures and in words."""
    question = "told apart, on this seed?" if one_seed else "told apart?"
    lines = [f"| minus {compared['from']} | pass@1 | {question} |", "|---|---|---|"]
    for name, entry in compared["choices"].items():
        verdict = "no"
        if entry["low"] > 0:
            verdict = f"yes, {name} is better"
        elif entry["high"] < 0:
            verdict = f"yes, {name} is worse"

        interval = f"{entry['difference']:+.3f} [{entry['low']:+.3f}, {entry['high']:+.3f}]"
        lines.append(f"| {name} | {interval} | {verdict} |")
    return "\n".join(lines)


def explanation(seeds: Sequence[int], comparisons: int) -> str:
    """What the figures in the tables are."""
    listed = ", ".join(map(str, seeds))
    sentences = [f"pass@1 on test, means over seeds {listed}, with 95 % intervals"]
    sentences[0] += " that account for the seeds and for the problems."
    if len(seeds) == 1:
        sentences = [
            f"pass@1 on test of one seed, {listed}, with 95 % intervals over the problems.",
            "One seed says nothing about other seeds, which may differ by more than the interval.",
        ]

    if comparisons:
        sentences.append("Differences are paired by problem if the runs recorded each problem.")
    if comparisons and len(seeds) > 1:
        sentences.append(
            "The seeds of both choices are assumed to scatter equally (pooled variance)."
        )
    if comparisons > 1:
        sentences.append(
            f"Their intervals are widened so that all {comparisons} hold at once with 95 %"
            " (Bonferroni)."
        )

    sentences.append(
        "Tokens are per answer on test, and answers are cut off at the limit of tokens. "
        "Samples are all completions that were generated, those of dropped groups too. "
        "Minutes are those of one run without its last evaluation."
    )
    return " ".join(sentences)


def draw(by_choice: Mapping[str, Sequence[Cell]], out: Path, picture: Path) -> None:
    """Draw every choice's curves on dev: means over seeds, with 95 % intervals as bands."""
    from matplotlib.figure import Figure

    curves = {
        name: [curve(out / cell.name) for cell in members] for name, members in by_choice.items()
    }
    entries = [entry for runs in curves.values() for run in runs for entry in run[1:]]
    drawn = [key for key in CURVES if all(key in entry for entry in entries)]

    figure = Figure(figsize=(3.4 * len(drawn), 3.2), layout="constrained")
    axes = figure.subplots(1, len(drawn), squeeze=False)[0]
    for axis, key in zip(axes, drawn, strict=True):
        for name, runs in curves.items():
            draw_choice(axis, key, name, runs)

        axis.set(title=CURVES[key], xlabel="samples")
    axes[0].legend(fontsize=7)
    figure.savefig(picture, dpi=130)


def draw_choice(
    axis: Axes, key: str, name: str, runs: Sequence[Sequence[Mapping[str, Any]]]
) -> None:
    """Draw the mean of one figure over a choice's runs, and its band."""
    same_step = [entries for entries in zip(*runs, strict=True) if all(key in e for e in entries)]
    samples = [mean(entry["samples"] for entry in entries) for entries in same_step]
    bounds = [band(key, entries) for entries in same_step]

    axis.plot(samples, [bound.mean for bound in bounds], label=name)
    lows, highs = [bound.low for bound in bounds], [bound.high for bound in bounds]
    axis.fill_between(samples, lows, highs, alpha=0.2, linewidth=0)


def band(key: str, entries: Sequence[Mapping[str, Any]]) -> Interval:
    """The mean of one figure over seeds with its interval, cut to the values that are possible.

    Only pass@1 has an interval over problems as well. Every figure that is drawn is at least 0.
    """
    if key == "pass@1":
        return mean_score([read_scores(entry) for entry in entries])
    interval = over_seeds([entry[key] for entry in entries])
    return interval._replace(low=max(0.0, interval.low))
