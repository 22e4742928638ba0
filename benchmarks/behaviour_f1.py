"""How well the behaviour rules agree with a human reader, per sentence, and how long they take.

    python benchmarks/behaviour_f1.py

The labelled completions are in tests/data/behaviours_*.jsonl. The rules were tuned on the first,
third ... completion of each file, and the others were held out. Nothing was tuned on the file
`fresh`. docs/behaviours.md defines the labels.

The completions of an untrained real model (`real` and `fresh`) contain almost no events, so their
F1 means little. What counts is the noise floor: how many events the rules find that are not there.
"""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import common

from tinyzero.tasks.countdown import thinking as behaviours
from tinyzero.types import Problem

DATA = Path(__file__).parents[1] / "tests" / "data"
FILES = {"compact": "compact grammar", "free": "free text"}
KINDS = [
    *(
        "step",
        "slip",
        "attempt",
        "right",
        "repeat",
        "yes",
        "no",
        "misjudged",
        "backtrack",
        "subgoal",
        "backward",
    ),
    *("selfcheck", "giveup"),
]

NOISE = {
    "tuned on": [("real", 0)],
    "held out": [("real", 1)],
    "fresh": [("fresh", 0), ("fresh", 1)],
}
"""Completions of an untrained real model: parts, each with its files and halves."""
MARKS = {"right", "repeat", "misjudged"}
"""Kinds that mark another event, and are no event of their own."""

RESAMPLES = 2000

Row = dict[str, Any]
Tally = Counter[tuple[str, str]]


def rows(file: str, half: int) -> list[Row]:
    """One half of a file: completions with numbers, target, and sentences with their labels."""
    lines = (DATA / f"behaviours_{file}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines[half::2]]


def text_of(row: Row) -> str:
    """The text of a labelled completion."""
    return "".join(sentence for sentence, _ in row["sentences"])


def detected(row: Row) -> list[set[str]]:
    """The kinds of events that the rules detect in each sentence."""
    kinds: list[set[str]] = [set() for _ in row["sentences"]]
    ends: list[int] = []
    for sentence, _ in row["sentences"]:
        ends.append(len(sentence) + (ends[-1] if ends else 0))

    for event in behaviours.events(
        text_of(row), {"numbers": row["numbers"], "target": row["target"]}
    ):
        if event.kind != "claim":
            here = next(i for i, end in enumerate(ends) if event.start < end)
            kinds[here].add(event.detail if event.kind == "verification" else event.kind)
    return kinds


def scores(chosen: Sequence[Row]) -> dict[str, tuple[float, float, float, int]]:
    """Precision, recall, F1 and number of labels, for each kind that is labelled or detected."""
    total = sum((tally(row) for row in chosen), Tally())

    table = {}
    for kind in KINDS:
        hit, extra, missed = (total[kind, how] for how in ("hit", "extra", "missed"))
        if hit + extra + missed:
            table[kind] = (
                hit / max(1, hit + extra),
                hit / max(1, hit + missed),
                f1(total, kind),
                hit + missed,
            )
    return table


def tally(row: Row) -> Tally:
    """How many sentences of a completion are hits, false detections and misses, for each kind."""
    counts = Tally()
    for (_, labels), kinds in zip(row["sentences"], detected(row), strict=True):
        meant = set(labels.split())
        for how, chosen in (
            ("hit", kinds & meant),
            ("extra", kinds - meant),
            ("missed", meant - kinds),
        ):
            counts.update((kind, how) for kind in chosen)
    return counts


def f1(counts: Tally, kind: str) -> float:
    """The harmonic mean of precision and recall; 0 if nothing is labelled or detected."""
    wrong = counts[kind, "extra"] + counts[kind, "missed"]
    return 2 * counts[kind, "hit"] / max(1, 2 * counts[kind, "hit"] + wrong)


def intervals(chosen: Sequence[Row]) -> dict[str, tuple[float, float]]:
    """95 % bootstrap intervals of each kind's F1, drawing whole completions with replacement."""
    tallies, rng = [tally(row) for row in chosen], random.Random(0)
    seen: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(RESAMPLES):
        total = Tally()
        for drawn in rng.choices(tallies, k=len(tallies)):
            total.update(drawn)
        # A draw without a kind says nothing about that kind.
        for kind in {kind for kind, _ in total} & set(KINDS):
            seen[kind].append(f1(total, kind))

    ends = {kind: sorted(values) for kind, values in seen.items() if values}
    return {
        kind: (v[round(0.025 * (len(v) - 1))], v[round(0.975 * (len(v) - 1))])
        for kind, v in ends.items()
    }


def noise(chosen: Sequence[Row]) -> dict[str, tuple[float, float, float]]:
    """Events per completion for each kind that is labelled: found, false among them, and missed.

    The kind "all" is their sum without MARKS. Like the labels, it counts a kind once per sentence.
    """
    total = sum((tally(row) for row in chosen), Tally())
    labelled = [kind for kind in KINDS if all(kind in row["labelled"] for row in chosen)]

    counts = {
        kind: (
            total[kind, "hit"] + total[kind, "extra"],
            total[kind, "extra"],
            total[kind, "missed"],
        )
        for kind in labelled
    }
    events = [counts[kind] for kind in labelled if kind not in MARKS]
    found, false, missed = (sum(column) for column in zip(*events, strict=True))
    counts["all"] = (found, false, missed)

    size = len(chosen)
    return {kind: (a / size, b / size, c / size) for kind, (a, b, c) in counts.items()}


def noise_interval(chosen: Sequence[Row]) -> tuple[float, float]:
    """95 % bootstrap interval of the false events per completion, of all kinds but MARKS."""
    rng = random.Random(0)
    kinds = [kind for kind in chosen[0]["labelled"] if kind not in MARKS]
    tallies = [tally(row) for row in chosen]
    false = [sum(counts[kind, "extra"] for kind in kinds) for counts in tallies]

    means = sorted(sum(rng.choices(false, k=len(false))) / len(false) for _ in range(RESAMPLES))
    return means[round(0.025 * (RESAMPLES - 1))], means[round(0.975 * (RESAMPLES - 1))]


def noise_table(parts: dict[str, dict[str, tuple[float, float, float]]], sizes: list[int]) -> str:
    """A table of the noise floor: what is found and what of it is false, per completion."""
    head = ["untrained real model"]
    for (name, _), size in zip(parts.items(), sizes, strict=True):
        head += [f"found, {name} ({size})", "false", "missed"]

    lines = []
    for kind in next(iter(parts.values())):
        cells = [f"{x:.3f}" for part in parts.values() for x in part[kind]]
        lines.append([kind, *cells])
    return common.table(head, lines)


def faithful(chosen: Sequence[Row]) -> float:
    """Share of completions for which rules and labels agree: faithful, unfaithful or neither."""
    agreed = []
    for row in chosen:
        problem = Problem("", {"numbers": row["numbers"], "target": row["target"]}, "dev", "")
        counts = behaviours.measure(problem, text_of(row))
        agreed.append(
            row["faithful"] == (bool(counts["faithful"]) if counts["claimed_answers"] else None)
        )
    return sum(agreed) / len(agreed)


def seconds(file: str, completions: int = 256, characters: int = 600) -> float:
    """CPU seconds to measure completions of that length, made of labelled ones; best of five."""
    posed = []
    for row in rows(file, 0) + rows(file, 1):
        problem = Problem("", {"numbers": row["numbers"], "target": row["target"]}, "dev", "")
        thinking = text_of(row).partition("</think>")[0]
        if thinking:
            posed.append((problem, (thinking * (characters // len(thinking) + 1))[:characters]))

    took = []
    for _ in range(5):
        start = time.process_time()
        for i in range(completions):
            behaviours.measure(*posed[i % len(posed)])
        took.append(time.process_time() - start)
    return min(took)


def main() -> None:
    results: dict[str, Any] = {"seconds": {file: seconds(file) for file in FILES}}
    parts = []
    for file, name in FILES.items():
        halves = [rows(file, half) for half in (0, 1)]
        tuned, held = (scores(half) for half in halves)
        spread = intervals(halves[1])
        results[file] = {"tuned on": tuned, "held out": held, "held out, F1, 95 %": spread}
        results[file]["faithful"] = [faithful(half) for half in halves]

        nothing = ("-", "-", "-", 0)
        shown = {kind: f"{low:.2f} to {high:.2f}" for kind, (low, high) in spread.items()}
        lines = [
            (kind, *tuned.get(kind, nothing)[2:], *held.get(kind, nothing), shown.get(kind, "-"))
            for kind in KINDS
        ]

        head = [
            name,
            "F1, tuned on",
            "labels",
            "precision, held out",
            "recall, held out",
            "F1, held out",
            "labels",
        ]
        head += ["95 % interval of F1, held out"]

        sizes = [(len(half), sum(len(row["sentences"]) for row in half)) for half in halves]
        counts = ", ".join(
            f"{completions} completions of {sentences} sentences"
            for completions, sentences in sizes
        )
        agreed = ", ".join(f"{share:.2f}" for share in results[file]["faithful"])

        parts += [
            common.table(
                head, [[f"{x:.2f}" if isinstance(x, float) else x for x in line] for line in lines]
            ),
            f"Tuned on, held out: {counts}. Intervals come from {RESAMPLES} bootstrap draws of the "
            "completions, seed 0; if nothing is missed, they cannot say how rare a miss is. "
            f"Rules and labels agree on whether answers are faithful to the thinking for {agreed}.",
        ]

    chosen = {
        name: [row for file, half in halves for row in rows(file, half)]
        for name, halves in NOISE.items()
    }
    results["noise"] = {name: noise(part) for name, part in chosen.items()}
    results["noise, all false, 95 %"] = {
        name: noise_interval(part) for name, part in chosen.items()
    }
    shown_intervals = ", ".join(
        f"{name} {low:.2f} to {high:.2f}"
        for name, (low, high) in results["noise, all false, 95 %"].items()
    )
    parts += [
        noise_table(results["noise"], [len(part) for part in chosen.values()]),
        "Events per completion of an untrained real model, whose completions contain almost none. "
        f"The last line leaves out {', '.join(sorted(MARKS))}, which mark other events. "
        f"95 % intervals of its false events: {shown_intervals}.",
    ]

    taken = " and ".join(
        f"{results['seconds'][file] * 1000:.0f} ms in the {name}" for file, name in FILES.items()
    )
    parts.append(f"256 completions of 600 characters are measured in {taken}, CPU time.")
    common.write("behaviour_f1", common.describe([1]), results, "\n\n".join(parts))


if __name__ == "__main__":
    main()
