"""The compact grammar of the bundled base, read exactly.

It has one attempt a line: steps `A op B=C` joined by commas, each on given numbers or results of earlier steps,
then perhaps the verdict ` vs TARGET no|yes`:

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
    """A line of steps. It is `legal`, a full attempt, when its last result uses each given number exactly once."""

    steps: tuple[Step, ...]
    legal: bool
    hits: bool
    """Legal, and equal to the target when computed exactly, whatever the steps state."""
    form: str | None
    """Canonical form of the last result over the given numbers; None where an operand comes from nowhere."""
    restated: int | None
    """The target as the verdict restates it."""
    verdict: bool | None
    """The claim that the target is reached; None where the line has no verdict."""
    places: tuple[int, ...]
    """Where in its line each step begins, where the last one ends, and where the line does."""

    @property
    def stated(self) -> int:
        """The last result, as stated."""
        return self.steps[-1].result


def is_compact(text: str) -> bool:
    """Whether a completion is written in the grammar, as `arithmetic.steps.is_compact` says it."""
    return grammar.is_compact(text, _LINE, _CUT)


def trace(numbers: Sequence[int], target: int, text: str) -> list[Line]:
    """The lines of steps of a completion, in order; other lines are passed over. Never raises."""
    return [line for _, line in lines_of(numbers, target, text)]


def lines_of(numbers: Sequence[int], target: int, text: str) -> list[tuple[int, Line]]:
    """The lines of steps, each with the place in the text where it begins."""
    thinking, closed = thinking_of(text)
    given, found, start = tuple(numbers), list[tuple[int, Line]](), 0
    for line in thinking.split("\n"):
        whole = closed or start + len(line) < len(thinking)
        if read := _line(given, target, line, whole):
            found.append((start, read))
        start += len(line) + 1
    return found


def compact_events(target: int, lines: Sequence[tuple[int, Line]]) -> list[Event]:
    """What happens in the lines, in order."""
    found: list[Event] = []
    tried, claimed = set[str | None](), set[str | None]()
    missed = False  # the line before
    for at, line in lines:
        here = [at + place for place in line.places]
        start, end, stop = here[0], here[-2], here[-1]
        for step, left, right in zip(line.steps, here, here[1:], strict=False):
            found.append(Event("step", left, right))
            if not step.is_true:
                found.append(Event("slip", left, right))
        if missed:
            found.append(Event("backtrack", start, end))
        if line.legal and line.form in claimed:
            found.append(Event("selfcheck", start, end))
        elif line.legal:
            found.append(Event("attempt", start, end))
            if line.hits:
                found.append(Event("right", start, end))
            if line.form in tried:
                found.append(Event("repeat", start, end))
            tried.add(line.form)
        if line.verdict is not None:
            found.append(Event("verification", end, stop, "yes" if line.verdict else "no"))
            if line.verdict != line.hits:
                found.append(Event("misjudged", end, stop, "yes" if line.verdict else "no"))
        if line.verdict:
            claimed.add(line.form)
            found.append(Event("claim", start, stop, line.form or ""))
        missed = line.verdict is False or (line.verdict is None and line.stated != target)
    return found


def count_lines(target: int, lines: Sequence[Line]) -> dict[str, int]:
    """What only the grammar tells: how each line ends, and the verdicts on results as they are stated."""
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
def _line(numbers: tuple[int, ...], target: int, line: str, whole: bool) -> Line | None:
    """`line` read, or None where it has no step. In a line cut short the last digits may be missing."""
    steps: list[Step] = []
    begins: list[int] = []
    position = 0
    while match := STEP.match(line, position):
        if match.end() == len(line) and not whole:
            break
        begins.append(position)
        position = match.end()
        left, operator, right, result = match.groups()
        steps.append(Step(int(left), operator, int(right), int(result)))
        if line[position : position + 1] != ",":
            break
        position += 1
    if not steps:
        return None
    expression, legal = _derive(numbers, steps)
    # Where every step is true the last result is the value; elsewhere it has to be computed anew.
    exact = (
        steps[-1].result
        if all(step.is_true for step in steps)
        else expression and value(expression)
    )
    judged = _VERDICT.fullmatch(line, position)
    return Line(
        steps=tuple(steps),
        legal=legal,
        hits=legal and exact == target,
        form=None if expression is None else canonical(expression),
        restated=int(judged[1]) if judged else None,
        verdict=judged[2] == "yes" if judged else None,
        places=(*begins, position, len(line)),
    )


def _derive(numbers: Sequence[int], steps: Sequence[Step]) -> tuple[Expression | None, bool]:
    """The last result as an expression of the given numbers, and whether it uses each exactly once.

    The expression is None where an operand is neither a given number nor an earlier result, or was used before.
    """
    pool: list[tuple[int, Expression]] = [(number, number) for number in numbers]
    for step in steps:
        operands: list[Expression] = []
        for stated in (step.left, step.right):
            # The newest first: of a given 9 and a result 9, the result is more likely meant.
            index = next((i for i in reversed(range(len(pool))) if pool[i][0] == stated), None)
            if index is None:
                return None, False
            operands.append(pool.pop(index)[1])
        pool.append((step.result, (step.operator, operands[0], operands[1])))
    return pool[-1][1], len(pool) == 1
