"""Which of a run's stored rollouts are shown, and their thinking marked up in place."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Generic, TypeVar

from tinyzero.tasks.base import Event, Task
from tinyzero.tools.report.columns import Columns
from tinyzero.types import SPLITS, Problem

Record = dict[str, Any]
Item = TypeVar("Item")

PROBLEMS = 8  # of each evaluated split that are followed through the run
SHOWN_STEPS = 6  # of each split
KEPT_STEPS = 32  # of each split while reading; even
TRAINED = 2  # right ones, and as many wrong ones, of a step's training rollouts
CHARACTERS = (
    6_000  # of a completion that are shown, from its beginning; and a third of that from its end
)
MOST_FIELDS = 120  # characters of what a problem is made of that are shown
SEARCHED = 3_000_000  # characters of right answers that are searched for the first one that checks and revises
PERIOD, COPIES, LOOPED = (
    400,
    4,
    40,
)  # a loop repeats at most so many characters, so often, and over so many at least


class Ladder(Generic[Item]):
    """Evenly spaced items of a stream of unknown length: about `most`, an even number, and the newest one."""

    def __init__(self, most: int = KEPT_STEPS) -> None:
        self.most, self.stride, self.count = most, 1, 0
        self.kept: list[Item] = []
        self.newest: list[Item] = []

    def add(self, item: Item) -> None:
        """The next item."""
        kept = self.count % self.stride == 0
        self.newest = [] if kept else [item]
        self.kept += [item] if kept else []
        self.count += 1
        if len(self.kept) > self.most:
            self.kept, self.stride = self.kept[::2], 2 * self.stride

    def items(self) -> list[Item]:
        """What is kept, in the stream's order."""
        return self.kept + self.newest


class Samples:
    """What is kept of a stream of rollouts, of whatever length."""

    def __init__(self, task: Task | None = None) -> None:
        """`task` tells what the completions do and how problems are written; None for one that is not bundled."""
        self.task = task
        self.ladders: dict[str, Ladder[list[Record]]] = {split: Ladder() for split in SPLITS}
        self.followed: dict[str, list[str]] = {split: [] for split in SPLITS}
        self.columns = Columns()
        self.revision: Record | None = None
        self.searched = 0  # right answers, until it was found
        self.unread = SEARCHED
        self._at: tuple[int, str] | None = None
        self._group: list[Record] = []
        self._shown: list[tuple[Record, dict[str, Any]]] = []

    def add(self, record: Record) -> None:
        """The next rollout of the stream."""
        split, at = record["split"], (record["step"], record["split"])
        if at != self._at:
            self._at, self._group = at, []
            self.ladders[split].add(self._group)
        if self._wanted(record):
            self._group.append(record)
        if split == "train":
            looping = record["finish_reason"] == "length" and loops(record["text"])
            self.columns.add({"rollouts/step": record["step"], "rollouts/looping": float(looping)})
        if self.revision is None and right(record) and self.unread > 0:
            self.searched += 1
            self.unread -= len(record["text"])
            if revises(find_events(record, self.task)):
                self.revision = record

    def _wanted(self, record: Record) -> bool:
        if record["split"] == "train":
            return sum(right(r) == right(record) for r in self._group) < TRAINED
        followed = self.followed[record["split"]]
        if self.ladders[record["split"]].count == 1 and len(followed) < PROBLEMS:
            followed.append(record["problem"])
        return record["problem"] in followed and all(
            r["problem"] != record["problem"] for r in self._group
        )

    def chosen(self) -> list[Record]:
        """The rollouts to show: those of a few steps of each split, and the first that checks and revises."""
        found = [
            r
            for split in SPLITS
            for group in spread(self.ladders[split].items(), SHOWN_STEPS)
            for r in group
        ]
        found += [
            r for r in [self.revision] if r is not None and not any(r is other for other in found)
        ]
        return sorted(found, key=lambda r: (r["step"], SPLITS.index(r["split"])))

    def shown(self) -> list[tuple[Record, dict[str, Any]]]:
        """The rollouts to show, and each as the page has it: marked up once, however often it is asked for."""
        known = {id(record): sample for record, sample in self._shown}
        self._shown = [
            (record, known.get(id(record)) or shown(record, self.task)) for record in self.chosen()
        ]
        return self._shown


def spread(items: Sequence[Item], most: int) -> list[Item]:
    """At most `most` of `items`, evenly, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def right(record: Record) -> bool:
    """Whether the answer was right, as `Reward.right` says it."""
    return bool(record["parts"].get("answer", record["reward"]) >= 1)


def loops(text: str) -> bool:
    """Whether `text` ends in the same piece over and over, cut anywhere."""
    if len(text) < LOOPED:
        return False
    end = text[-16:]
    start = len(text) - len(end)
    at = text.rfind(end, max(0, start - PERIOD), len(text) - 1)
    while at >= 0:  # where the end stood before says how long the piece may be
        piece = text[at - start :]
        if text.endswith(piece * max(COPIES, -(-LOOPED // len(piece)))):
            return True
        at = text.rfind(end, max(0, start - PERIOD), at + len(end) - 1)
    return False


def ask(question: Callable[[], Item], otherwise: Item) -> Item:
    """What a bundled task says of a record; `otherwise` if the record is not one of that task."""
    try:
        return question()
    except Exception:  # a record may come from anywhere, and hold anything
        return otherwise


def problem_of(record: Record) -> Problem:
    """The problem that a record tells of."""
    return Problem(record["problem"], record["fields"], record["split"], record["problem"])


def find_events(record: Record, task: Task | None) -> list[Event]:
    """What the completion does, where; a new start is marked at its beginning only."""
    if task is None:
        return []
    found: Sequence[Event] = ask(lambda: task.mark(problem_of(record), record["text"]), ())
    return [
        e._replace(end=e.start) if e.kind == "backtrack" else e
        for e in found
        if e.kind in task.kinds
    ]


def revises(events: Sequence[Event]) -> bool:
    """Whether a check says no, and after it an attempt that is right is checked and says yes."""
    said = {
        answer: [e for e in events if e.kind == "verification" and e.detail == answer]
        for answer in ("no", "yes")
    }
    doubted = min((e.end for e in said["no"]), default=math.inf)
    hit = min(
        (e.start for e in events if e.kind == "right" and e.start >= doubted), default=math.inf
    )
    return any(e.end > hit for e in said["yes"])


Segment = str | tuple[str, str]
"""A piece of text; or with it the names of what it belongs to, space between."""


def names(event: Event) -> list[str]:
    """What an event is called in the page: its kind, and for a check what it says."""
    return [event.kind, event.detail] if event.kind == "verification" else [event.kind]


def marked(
    text: str, events: Sequence[Event], start: int = 0, end: int | None = None
) -> list[Segment]:
    """`text[start:end]` in pieces that the events begin and end; joined, they are the text."""
    end = len(text) if end is None else end
    waiting = [e for e in events if e.start < end and max(e.end, e.start + 1) > start]
    waiting.sort(key=lambda e: e.start, reverse=True)
    edges = sorted(
        {start, end, *(min(max(edge, start), end) for e in waiting for edge in (e.start, e.end))}
    )
    found: list[Segment] = []
    here: list[Event] = []
    for left, following in pairwise(edges):
        here = [e for e in here if e.end > left]
        while waiting and waiting[-1].start <= left:
            here.append(waiting.pop())
        called = " ".join(dict.fromkeys(name for e in here for name in names(e)))
        found.append((text[left:following], called) if called else text[left:following])
    return found


def shown(record: Record, task: Task | None = None) -> dict[str, Any]:
    """A rollout as the page has it: in marked pieces, the middle of a very long one left out."""
    text, events = record["text"], find_events(record, task)
    kinds = sorted({e.kind for e in events})
    tail = len(text) - CHARACTERS // 3
    if (answer := text.rfind("<answer>")) >= 0:
        events = [
            *events,
            Event("answer", answer + len("<answer>"), len(text.removesuffix("</answer>"))),
        ]
    pieces = marked(text, events, 0, min(len(text), CHARACTERS) if tail > CHARACTERS else None)
    if tail > CHARACTERS:
        pieces += [
            (f"{tail - CHARACTERS:,} characters are left out here", "gap"),
            *marked(text, events, tail),
        ]
    return {
        "step": record["step"],
        "split": record["split"],
        "problem": posed(record, task),
        "right": right(record),
        "reward": record["reward"],
        "tokens": record["response_length"],
        "cut": record["finish_reason"] == "length",
        "kinds": kinds,
        "revises": right(record) and revises(events),
        "text": pieces,
    }


def posed(record: Record, task: Task | None) -> str:
    """The problem in a line: as it is typed, or else what it is made of."""
    line = ask(lambda: task.line(problem_of(record)), "") if task else ""
    if line:
        return line
    fields = ", ".join(f"{name} {value}" for name, value in record["fields"].items())
    if not 0 < len(fields) <= MOST_FIELDS:
        fields = (
            f"{fields[:MOST_FIELDS]} ... ({record['problem']})" if fields else record["problem"]
        )
    return " ".join(fields.split())
