"""Words about a bad start while it is still cheap: hopeless, cut off, or collapsing.

The rules and the words are those of the report's alarms (see `signs`). The console says each once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tinyzero.run import signs
from tinyzero.run.signs import Alarm, easier

Record = Mapping[str, Any]

FIRST_STEPS = 2  # steps after which a start is judged
ENOUGH = 60  # answers: if none is right, the chance of a right one is below 5 % (3 / 60)
READ = (
    "accuracy",
    "behaviour/majority",
    "behaviour/repetition",
    "behaviour/truth",
    "entropy",
    "flat_groups",
    "graded",
    "response_length",
    "reward",
    "truncated",
)


class Start:
    """What the first evaluations and steps of a run say about its start.

    `levels` are the task's options that make its problems easier or harder.

    >>> start = Start(levels=["max_number"])
    >>> start.after_step({"step": 0, "accuracy": 0.0, "flat_groups": 1.0})[0][:33]
    'Almost nothing to learn from. In '
    """

    def __init__(self, levels: Sequence[str]) -> None:
        self.levels = levels
        self.columns: dict[str, list[float]] = {key: [] for key in READ}
        self.said: set[str] = set()

    def after_evaluation(self, entries: Sequence[Record]) -> list[str]:
        """What to say after the evaluations before the first step."""
        answers = sum(entry["n"] * entry["k"] for entry in entries)
        if answers < ENOUGH or any(entry.get("graded") for entry in entries):
            return []
        if any(entry["pass@1"] for entry in entries):
            return []

        cut = entries[-1]["truncated"]
        because = f" and {signs.percent(cut)} are cut off" if cut >= signs.MANY_CUT else ""
        longer = ", raise rollout.max_tokens" if because else ""
        return [
            f"none of {answers} answers is right before training{because}: rewards may all be "
            f"equal, so check the task with check-task{longer}, or use {easier(self.levels)}"
        ]

    def after_step(self, record: Record) -> list[str]:
        """What to say after a step, from its record."""
        for key, column in self.columns.items():
            value = record.get(key)
            column.append(math.nan if value is None else float(value))

        alarms = [signs.collapse(self.columns), signs.entropy_collapse(self.columns)]
        alarms += [check(self.columns) for check in signs.HACKING]
        if record["step"] < FIRST_STEPS:
            alarms += self._hopeless()
        return [_as_line(alarm) for alarm in alarms if alarm and self._is_new(alarm)]

    def _hopeless(self) -> list[Alarm | None]:
        """That there is nothing to learn from, and that answers are cut off if this may be why."""
        if signs.are_easy(self.columns):
            return []
        return [signs.equal_groups(self.columns, self.levels), signs.truncation(self.columns)]

    def _is_new(self, alarm: Alarm) -> bool:
        if alarm.title in self.said:
            return False
        self.said.add(alarm.title)
        return True


def _as_line(alarm: Alarm) -> str:
    return f"{alarm.title}. {alarm.seen} {alarm.advice}"


def say(note: Callable[[str], None], texts: Sequence[str]) -> None:
    """Show each text as a line that stays."""
    for text in texts:
        note(text)
