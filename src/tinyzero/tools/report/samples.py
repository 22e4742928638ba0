"""The stored rollouts that the page shows, with the steps of their thinking marked."""

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

PROBLEMS = 8  # problems of each evaluated split that are followed through the run
SHOWN_STEPS = 6  # steps shown of each split
KEPT_STEPS = 32  # steps kept of each split while reading; even
TRAINED = 2  # right answers, and as many wrong ones, shown of a step's training rollouts
CHARACTERS = 6_000  # shown from the beginning of a completion, and a third of it from the end
MOST_FIELDS = 120  # characters of a problem's fields that are shown
SEARCHED = 3_000_000  # characters of right answers searched for the first that checks and revises

ENVIRONMENT = "environment"  # the mark of what an environment or a tool wrote
ENVIRONMENT_SAYS = "not written by the model, but by a tool or an environment"

# a loop repeats at most PERIOD characters, at least COPIES times and over LOOPED characters
PERIOD, COPIES, LOOPED = 400, 4, 40


class Ladder(Generic[Item]):
    """About `most` evenly spaced items of a stream of unknown length, and its newest one.

    `most` is even. When it is exceeded, every other item is dropped and the spacing doubles.
    """

    def __init__(self, most: int = KEPT_STEPS) -> None:
        self.most, self.stride, self.count = most, 1, 0
        self.kept: list[Item] = []
        self.newest: list[Item] = []

    def add(self, item: Item) -> None:
        """Append the next item."""
        if self.count % self.stride == 0:
            self.kept.append(item)
            self.newest = []
        else:
            self.newest = [item]

        self.count += 1
        if len(self.kept) > self.most:
            self.kept, self.stride = self.kept[::2], 2 * self.stride

    def items(self) -> list[Item]:
        """The kept items in the order of the stream."""
        return self.kept + self.newest


class Samples:
    """The part of a stream of rollouts, of any length, that the page may show."""

    def __init__(self, task: Task | None = None) -> None:
        """`task` marks completions and writes problems; None if it is not bundled."""
        self.task = task
        self.ladders: dict[str, Ladder[list[Record]]] = {split: Ladder() for split in SPLITS}
        self.followed: dict[str, list[str]] = {split: [] for split in SPLITS}
        self.columns = Columns()
        self.revision: Record | None = None
        self.searched = 0  # right answers read before the revision was found
        self.unread = SEARCHED
        self._at: tuple[int, str] | None = None
        self._group: list[Record] = []
        self._shown: list[tuple[Record, dict[str, Any]]] = []

    def add(self, record: Record) -> None:
        """Read the next rollout of the stream."""
        split = record["split"]
        if (record["step"], split) != self._at:
            self._at, self._group = (record["step"], split), []
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
        split = record["split"]
        if split == "train":
            alike = [other for other in self._group if right(other) == right(record)]
            return len(alike) < TRAINED

        followed = self.followed[split]
        if self.ladders[split].count == 1 and len(followed) < PROBLEMS:
            followed.append(record["problem"])
        is_new = all(other["problem"] != record["problem"] for other in self._group)
        return record["problem"] in followed and is_new

    def chosen(self) -> list[Record]:
        """The rollouts to show: those of a few steps of each split, and the first that revises."""
        records: list[Record] = []
        for split in SPLITS:
            for group in spread(self.ladders[split].items(), SHOWN_STEPS):
                records += group
        if self.revision is not None and not any(record is self.revision for record in records):
            records.append(self.revision)
        return sorted(records, key=lambda record: (record["step"], SPLITS.index(record["split"])))

    def shown(self) -> list[tuple[Record, dict[str, Any]]]:
        """The rollouts to show, each as the page shows it. Each is marked up only once."""
        known = {id(record): sample for record, sample in self._shown}
        self._shown = [
            (record, known.get(id(record)) or shown(record, self.task)) for record in self.chosen()
        ]
        return self._shown


def spread(items: Sequence[Item], most: int) -> list[Item]:
    """At most `most` evenly spaced items, with the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def right(record: Record) -> bool:
    """Whether the answer was right, by the rule of `Reward.right`."""
    return bool(record["parts"].get("answer", record["reward"]) >= 1)


def loops(text: str) -> bool:
    """Whether `text` ends in repetitions of one piece; the last repetition may be cut anywhere."""
    if len(text) < LOOPED:
        return False

    end = text[-16:]
    start = len(text) - len(end)
    at = text.rfind(end, max(0, start - PERIOD), len(text) - 1)
    while at >= 0:  # an earlier place of the end gives a possible length of the piece
        piece = text[at - start :]
        if text.endswith(piece * max(COPIES, -(-LOOPED // len(piece)))):
            return True
        at = text.rfind(end, max(0, start - PERIOD), at + len(end) - 1)
    return False


def attempt(question: Callable[[], Item], otherwise: Item) -> Item:
    """A bundled task's answer about a record; `otherwise` if the record does not fit it."""
    try:
        return question()
    except Exception:  # a record may come from anywhere and hold anything
        return otherwise


def problem_of(record: Record) -> Problem:
    """The problem of a rollout."""
    return Problem(record["problem"], record["fields"], record["split"], record["problem"])


def find_events(record: Record, task: Task | None) -> list[Event]:
    """What happens in the completion, by place. Backtracking is marked only where it begins."""
    if task is None:
        return []
    events: Sequence[Event] = attempt(lambda: task.mark(problem_of(record), record["text"]), ())
    return [
        event._replace(end=event.start) if event.kind == "backtrack" else event
        for event in events
        if event.kind in task.kinds
    ]


def revises(events: Sequence[Event]) -> bool:
    """Whether a check says no, and a later attempt is right and is confirmed by a check."""
    checks = [event for event in events if event.kind == "verification"]
    first_no = min((event.end for event in checks if event.detail == "no"), default=math.inf)
    hits = [event.start for event in events if event.kind == "right" and event.start >= first_no]
    first_hit = min(hits, default=math.inf)
    return any(event.detail == "yes" and event.end > first_hit for event in checks)


Segment = str | tuple[str, str]
"""A piece of text, or a piece with the names of its marks, separated by spaces."""


def names(event: Event) -> list[str]:
    """The names by which the page styles an event: its kind, and the verdict of a check."""
    return [event.kind, event.detail] if event.kind == "verification" else [event.kind]


def marked(
    text: str, events: Sequence[Event], start: int = 0, end: int | None = None
) -> list[Segment]:
    """`text[start:end]` split where events begin and end. Joined, the pieces are the text."""
    end = len(text) if end is None else end
    waiting = [e for e in events if e.start < end and max(e.end, e.start + 1) > start]
    waiting.sort(key=lambda event: event.start, reverse=True)
    inner = {min(max(edge, start), end) for e in waiting for edge in (e.start, e.end)}
    edges = sorted({start, end, *inner})

    pieces: list[Segment] = []
    current: list[Event] = []
    for left, following in pairwise(edges):
        current = [event for event in current if event.end > left]
        while waiting and waiting[-1].start <= left:
            current.append(waiting.pop())

        piece = text[left:following]
        marks = " ".join(dict.fromkeys(name for event in current for name in names(event)))
        pieces.append((piece, marks) if marks else piece)
    return pieces


def shown(record: Record, task: Task | None = None) -> dict[str, Any]:
    """A rollout as the page shows it, in marked pieces. A very long one loses its middle."""
    text, events = record["text"], find_events(record, task)
    environment = [Event(ENVIRONMENT, *span) for span in record.get("environment", ())]
    kinds = sorted({event.kind for event in [*events, *environment]})
    is_revised = right(record) and revises(events)

    answer = text.rfind("<answer>")
    if answer >= 0:
        answer_end = len(text.removesuffix("</answer>"))
        events = [*events, Event("answer", answer + len("<answer>"), answer_end)]
    events = [*events, *environment]

    tail = len(text) - CHARACTERS // 3
    if tail > CHARACTERS:
        gap = (f"{tail - CHARACTERS:,} characters are left out here", "gap")
        pieces = [*marked(text, events, 0, CHARACTERS), gap, *marked(text, events, tail)]
    else:
        pieces = marked(text, events)
    return {
        "step": record["step"],
        "split": record["split"],
        "problem": problem_line(record, task),
        "right": right(record),
        "reward": record["reward"],
        "tokens": record["response_length"],
        "cut": record["finish_reason"] == "length",
        "kinds": kinds,
        "revises": is_revised,
        "text": pieces,
    }


def problem_line(record: Record, task: Task | None) -> str:
    """The problem on one line: as the task writes it, or its fields."""
    line = attempt(lambda: task.line(problem_of(record)), "") if task else ""
    if line:
        return line

    fields = ", ".join(f"{name} {value}" for name, value in record["fields"].items())
    if not fields:
        fields = record["problem"]
    elif len(fields) > MOST_FIELDS:
        fields = f"{fields[:MOST_FIELDS]} ... ({record['problem']})"
    return " ".join(fields.split())
