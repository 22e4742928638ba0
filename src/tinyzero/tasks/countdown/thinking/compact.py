"""The compact grammar of the tiny base for Countdown, read exactly.

A line is one attempt: steps `A op B=C` joined by commas, each of which combines given numbers or
results of earlier steps. A verdict may follow, ` vs TARGET no` or ` vs TARGET yes`:

    12-3=9,9*5=45 vs 24 no
    5-3=2,12*2=24 vs 24 yes
    </think>
    <answer>12*(5-3)</answer>
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from tinyzero.tasks.arithmetic import steps as grammar
from tinyzero.tasks.arithmetic.expressions import Expression, Step, canonical, value
from tinyzero.tasks.arithmetic.steps import STEP
from tinyzero.tasks.arithmetic.thinking import thinking_of
from tinyzero.tasks.base import Event

_VERDICT = re.compile(r" vs (-?[0-9]{1,9}) (no|yes)")
_LINE = re.compile(rf"{grammar.LINE.pattern}(?:{_VERDICT.pattern})?")
_CUT = re.compile(rf"{grammar.CUT.pattern}(?: v?s? ?-?[0-9]* ?[yesno]*)?")


@dataclass(frozen=True)
class Line:
    """A line of steps, such as `12-3=9,9*5=45 vs 24 no`."""

    steps: tuple[Step, ...]
    legal: bool
    """Whether it is a full attempt: its last result uses each given number exactly once."""
    hits: bool
    """Whether it is legal and its exact value is the target, whatever the steps state."""
    form: str | None
    """Canonical form of the last result over the given numbers; None if an operand is not known."""
    restated: int | None
    """The target as the verdict repeats it; None without a verdict."""
    verdict: bool | None
    """Whether the line claims to reach the target; None without a verdict."""
    bounds: tuple[int, ...]
    """Indices in the line: the start of each step, the end of the last one, the end of the line."""

    @property
    def stated(self) -> int:
        """The last result, as stated."""
        return self.steps[-1].result


def is_compact(text: str) -> bool:
    """Whether a completion is written in this grammar; see `arithmetic.steps.is_compact`."""
    return grammar.is_compact(text, _LINE, _CUT)


def trace(numbers: Sequence[int], target: int, text: str) -> list[Line]:
    """The lines of steps of a completion, in order; other lines are skipped. Never raises.

    >>> [line] = trace([3, 5, 12], 24, "5-3=2,12*2=24 vs 24 yes")
    >>> line.legal, line.hits, line.verdict, line.form
    (True, True, True, '(*(+5-3)*12)')
    """
    return [line for _, line in lines_of(numbers, target, text)]


def lines_of(numbers: Sequence[int], target: int, text: str) -> list[tuple[int, Line]]:
    """The lines of steps, each with the index in the text at which it begins."""
    thinking, closed = thinking_of(text)
    given = tuple(numbers)
    lines: list[tuple[int, Line]] = []
    start = 0

    for text_line in thinking.split("\n"):
        is_whole = closed or start + len(text_line) < len(thinking)
        if line := _line(given, target, text_line, is_whole):
            lines.append((start, line))
        start += len(text_line) + 1
    return lines


def compact_events(target: int, lines: Sequence[tuple[int, Line]]) -> list[Event]:
    """The events in the lines, in order."""
    events: list[Event] = []
    tried: set[str | None] = set()  # the forms of attempts so far
    claimed: set[str | None] = set()  # the forms that got a yes
    missed = False  # whether the previous line failed

    for line_start, line in lines:
        bounds = [line_start + bound for bound in line.bounds]
        start, end, stop = bounds[0], bounds[-2], bounds[-1]

        for step, left, right in zip(line.steps, bounds, bounds[1:], strict=False):
            events.append(Event("step", left, right))
            if not step.is_true:
                events.append(Event("slip", left, right))

        if missed:
            events.append(Event("backtrack", start, end))

        if line.legal and line.form in claimed:
            events.append(Event("selfcheck", start, end))
        elif line.legal:
            events.append(Event("attempt", start, end))
            if line.hits:
                events.append(Event("right", start, end))
            if line.form in tried:
                events.append(Event("repeat", start, end))
            tried.add(line.form)

        if line.verdict is not None:
            detail = "yes" if line.verdict else "no"
            events.append(Event("verification", end, stop, detail))
            if line.verdict != line.hits:
                events.append(Event("misjudged", end, stop, detail))
        if line.verdict:
            claimed.add(line.form)
            events.append(Event("claim", start, stop, line.form or ""))

        missed = line.verdict is False or (line.verdict is None and line.stated != target)

    return events


def count_lines(target: int, lines: Sequence[Line]) -> dict[str, int]:
    """Counts that only this grammar has: how lines end, and the verdicts on results as stated."""
    judged = [line for line in lines if line.verdict is not None]
    equal = [line for line in judged if line.stated == target]
    return {
        "lines": len(lines),
        "legal": sum(line.legal for line in lines),
        "judged": len(judged),
        "targets_right": sum(line.restated == target for line in judged),
        "equal": len(equal),
        "equal_claimed": sum(line.verdict is True for line in equal),
        "unequal": len(judged) - len(equal),
        "unequal_claimed": sum(line.verdict is True and line.stated != target for line in judged),
    }


@lru_cache(maxsize=4096)  # the completions of one problem have many lines in common
def _line(numbers: tuple[int, ...], target: int, line: str, is_whole: bool) -> Line | None:
    """The steps and the verdict of `line`, or None if it has no step.

    The last step of a line that was cut short is ignored, because digits may be missing.
    """
    steps: list[Step] = []
    step_starts: list[int] = []
    position = 0
    while match := STEP.match(line, position):
        if match.end() == len(line) and not is_whole:
            break
        step_starts.append(position)
        position = match.end()
        left, operator, right, result = match.groups()
        steps.append(Step(int(left), operator, int(right), int(result)))
        if line[position : position + 1] != ",":
            break
        position += 1
    if not steps:
        return None

    expression, legal = _derive(numbers, steps)
    are_true = all(step.is_true for step in steps)  # then the last result is the exact value
    exact = steps[-1].result if are_true else expression and value(expression)
    verdict = _VERDICT.fullmatch(line, position)
    return Line(
        steps=tuple(steps),
        legal=legal,
        hits=legal and exact == target,
        form=None if expression is None else canonical(expression),
        restated=int(verdict[1]) if verdict else None,
        verdict=verdict[2] == "yes" if verdict else None,
        bounds=(*step_starts, position, len(line)),
    )


def _derive(numbers: Sequence[int], steps: Sequence[Step]) -> tuple[Expression | None, bool]:
    """The last result as an expression of the given numbers, and whether it uses each exactly once.

    The expression is None if an operand is neither a given number nor an earlier result, or if it
    was used before.
    """
    pool: list[tuple[int, Expression]] = [(number, number) for number in numbers]
    for step in steps:
        operands: list[Expression] = []
        for stated in (step.left, step.right):
            # The newest first: if 9 is given and also a result, the result is more likely meant.
            index = next((i for i in reversed(range(len(pool))) if pool[i][0] == stated), None)
            if index is None:
                return None, False
            operands.append(pool.pop(index)[1])
        pool.append((step.result, (step.operator, operands[0], operands[1])))
    return pool[-1][1], len(pool) == 1
