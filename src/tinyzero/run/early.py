"""Words about a bad start while it is still cheap: hopeless, cut off, or collapsing.

The report's alarms need ten steps. These need one or two, so their thresholds are coarse: a start
that is only slow says nothing. Each is said once per run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Record = Mapping[str, Any]

FIRST_STEPS = 2  # steps after which a start is judged
FEW_RIGHT = 0.05  # below this share of right answers, a start is judged by what holds it back
MOST_FLAT = 0.8  # share of groups with equal rewards from which there is almost nothing to learn
MOST_CUT = 0.5  # share of answers at the token limit
FALL_FROM = 0.1  # accuracy from which a fall to zero is no accident
CRASH = 0.1  # entropy below this share of what it was at first
SOLVED = 0.5  # a policy that solves this many problems may be certain


class Start:
    """What the first evaluations and steps of a run say about its start.

    `levels` are the task's options that make its problems easier or harder.

    >>> start = Start(levels=["max_number"], max_tokens=16, learning_rate=5e-5)
    >>> start.after_step({"step": 0, "accuracy": 0.0, "flat_groups": 1.0, "truncated": 0.0})[0][:42]
    'hopeless start: 0 % of the answers are rig'
    """

    def __init__(self, levels: Sequence[str], max_tokens: int, learning_rate: float) -> None:
        self.levels = levels
        self.max_tokens, self.learning_rate = max_tokens, learning_rate
        self.steps: list[Record] = []
        self.said: set[str] = set()

    def after_evaluation(self, entries: Sequence[Record]) -> list[str]:
        """What to say after the evaluations before the first step."""
        answers = sum(entry["n"] * entry["k"] for entry in entries)
        if not answers or any(entry.get("graded") for entry in entries):
            return []

        said = []
        if not any(entry["pass@1"] for entry in entries):
            said.append(
                f"none of {answers} answers is right before training: rewards may all be equal, so "
                f"check the task with check-task, or use {easier(self.levels)}"
            )
        return said + self._new(cut_off=self._cut_off(entries[-1]))

    def after_step(self, record: Record) -> list[str]:
        """What to say after a step, from its record."""
        self.steps.append(record)
        if any(step.get("graded") for step in self.steps):
            return []
        if len(self.steps) > FIRST_STEPS:
            return self._new(collapsing=self._collapsing())
        return self._new(
            hopeless=self._hopeless(record),
            cut_off=self._cut_off(record),
            collapsing=self._collapsing(),
        )

    def _new(self, **texts: str) -> list[str]:
        """The texts that are not empty and of a kind that was not said before."""
        new = {kind: text for kind, text in texts.items() if text and kind not in self.said}
        self.said |= new.keys()
        return list(new.values())

    def _hopeless(self, record: Record) -> str:
        flat = record["flat_groups"]
        if record["accuracy"] >= FEW_RIGHT or flat < MOST_FLAT:
            return ""
        return (
            f"hopeless start: {_percent(record['accuracy'])} of the answers are right, and in "
            f"{_percent(flat)} of the groups all rewards are equal, so there is almost nothing to "
            f"learn from: use {easier(self.levels)}, or a lower --rollout.temperature; "
            "`tinyzero probe` finds settings that work"
        )

    def _cut_off(self, record: Record) -> str:
        cut = record["truncated"]
        if cut < MOST_CUT or record["accuracy"] >= FEW_RIGHT:
            return ""
        return (
            f"cut off: {_percent(cut)} of the answers reach the limit of {self.max_tokens} tokens "
            f"and {_percent(record['accuracy'])} are right: raise it with --rollout.max_tokens "
            f"{2 * self.max_tokens}, or sample at a lower --rollout.temperature"
        )

    def _collapsing(self) -> str:
        lower = (
            "the learning rate is probably too high: try --optimizer.learning_rate "
            f"{self.learning_rate / 5:.1g}"
        )
        accuracies = [step["accuracy"] for step in self.steps]
        if fell_to_zero(accuracies):
            return (
                f"collapsing: no answer of this step is right, after {_percent(max(accuracies))} "
                f"before; {lower}"
            )
        entropies = [s["entropy"] for s in self.steps if s.get("entropy") and s["flat_groups"] < 1]
        if entropies and entropies[-1] < CRASH * entropies[0] and accuracies[-1] < SOLVED:
            return (
                f"collapsing: the entropy of the next token fell from {entropies[0]:.3g} to "
                f"{entropies[-1]:.3g} nats with {_percent(accuracies[-1])} of the answers right; "
                f"{lower}"
            )
        return ""


def fell_to_zero(accuracies: Sequence[float]) -> bool:
    """Whether nothing is right any more, after enough was right that this is no accident.

    >>> fell_to_zero([0.05, 0.16, 0.0]), fell_to_zero([0.05, 0.0])
    (True, False)
    """
    return bool(accuracies) and accuracies[-1] == 0 and max(accuracies) >= FALL_FROM


def easier(levels: Sequence[str]) -> str:
    """How to get easier problems, with the options of the task that say how hard they are.

    >>> easier(["max_count", "max_number"])
    'easier problems (--task.max_count, --task.max_number)'
    """
    options = ", ".join(f"--task.{level}" for level in levels)
    return f"easier problems ({options})" if options else "easier problems"


def say(note: Callable[[str], None], texts: Sequence[str]) -> None:
    """Show each text as a line that stays."""
    for text in texts:
        note(text)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if 0 < share < 0.01 else f"{100 * share:.0f} %"
