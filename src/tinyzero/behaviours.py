"""How a completion thinks, measured by rule: attempts, arithmetic, verdicts. Compact grammar only, and exact.

The compact grammar has one attempt a line: steps `A op B=C` joined by commas, each on given numbers or
results of earlier steps, then perhaps the verdict ` vs TARGET no|yes`:

    12-3=9,9*5=45 vs 24 no
    5-3=2,12*2=24 vs 24 yes
    </think>
    <answer>12*(5-3)</answer>

Of a multiplication the steps are read wherever they stand, and asked whether they break the product down.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from typing import NamedTuple, TypeVar

from tinyzero.rewards import extract_answer
from tinyzero.types import Problem

MAX_CHARACTERS = 100_000  # of a completion; what follows is not read
MAX_ANSWER = 100  # characters; bounds the depth of its parentheses

_STEP = re.compile(r"(-?[0-9]{1,9})([-+*/])(-?[0-9]{1,9})=(-?[0-9]{1,9})(?![0-9])")
_VERDICT = re.compile(r" vs (-?[0-9]{1,9}) (no|yes)")
_TOKEN = re.compile(r"[0-9]{1,9}|[-+*/()]")

Expression = int | tuple[str, "Expression", "Expression"]
"""A number, or (operator, left, right)."""

Number = TypeVar("Number", int, Fraction)


class Step(NamedTuple):
    """`left operator right = result`, as stated."""

    left: int
    operator: str
    right: int
    result: int

    @property
    def is_true(self) -> bool:
        """Whether the statement holds exactly over the rationals: 7/2=3 does not."""
        if self.operator == "/":
            return self.right != 0 and self.left == self.result * self.right
        return self.result == _apply(self.operator, self.left, self.right)


@dataclass(frozen=True)
class Attempt:
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

    @property
    def stated(self) -> int:
        """The last result, as stated."""
        return self.steps[-1].result


def trace(numbers: Sequence[int], target: int, text: str) -> list[Attempt]:
    """The lines of steps of a completion, in order; other lines are passed over. Never raises."""
    thinking, closed, _ = text[:MAX_CHARACTERS].rpartition("</think>")
    lines = (thinking if closed else text[:MAX_CHARACTERS]).split("\n")
    attempts = [_attempt(numbers, target, line, whole=True) for line in lines[:-1]]
    attempts.append(_attempt(numbers, target, lines[-1], whole=bool(closed)))
    return [attempt for attempt in attempts if attempt]


def measure(problem: Problem, text: str) -> dict[str, int]:
    """Counts of one completion, which `summarise` turns into metrics. Empty where the problem is of another kind."""
    numbers, target, a, b = map(problem.fields.get, ("numbers", "target", "a", "b"))
    if isinstance(target, int) and isinstance(numbers, Sequence):
        return _measure_search(numbers, target, text)
    return _measure_product(a, b, text) if isinstance(a, int) and isinstance(b, int) else {}


def _measure_search(numbers: Sequence[int], target: int, text: str) -> dict[str, int]:
    lines = trace(numbers, target, text)
    steps = [step for line in lines for step in line.steps]
    attempts = [line for line in lines if line.legal]
    judged = [line for line in lines if line.verdict is not None]
    claims = [line for line in judged if line.verdict]
    equal = [line for line in judged if line.stated == target]
    hits = [number for number, attempt in enumerate(attempts, 1) if attempt.hits]
    answer = extract_answer(text)
    return {
        "completions": 1,
        "lines": len(lines),
        "attempts": len(attempts),
        "distinct_attempts": len({attempt.form for attempt in attempts}),
        "repeats": len(attempts) - len({attempt.form for attempt in attempts}),
        "steps": len(steps),
        "steps_right": sum(step.is_true for step in steps),
        "judged": len(judged),
        "targets_right": sum(line.restated == target for line in judged),
        "equal": len(equal),
        "equal_claimed": sum(line.verdict is True for line in equal),
        "unequal": len(judged) - len(equal),
        "unequal_claimed": sum(line.stated != target for line in claims),
        "claims": len(claims),
        "claims_true": sum(line.hits for line in claims),
        "found": bool(hits),
        "first_hit": hits[0] if hits else 0,
        "early_attempts": len(attempts[:3]),
        "early_hits": sum(attempt.hits for attempt in attempts[:3]),
        "gave_up": answer is not None and bool(lines) and not claims,
        "direct": answer is not None and not lines,
        "claimed_answers": answer is not None and bool(claims),
        "faithful": _is_one_of(answer, claims),
    }


def _measure_product(a: int, b: int, text: str) -> dict[str, int]:
    thinking = text[:MAX_CHARACTERS].rpartition("</think>")[0]
    steps = [Step(int(x), operator, int(y), int(z)) for x, operator, y, z in _STEP.findall(thinking)]
    covered, pairs, parts = decomposition(a, b, steps)
    return {
        "steps": len(steps),
        "steps_right": sum(step.is_true for step in steps),
        "posed": pairs > 1,  # a digit times a digit cannot be broken down
        "decomposed": pairs > 1 and covered == pairs and parts > 1,
        "decomposed_partly": pairs > 1 and parts > 0 and covered < pairs,
    }


def decomposition(a: int, b: int, steps: Sequence[Step]) -> tuple[int, int, int]:
    """How a*b is broken down by the distributive rule: (covered, pairs, parts).

    `pairs` are those of a digit of a and a digit of b, zeros left out; `covered` those that a stated product stands
    for, whatever its place: 40*3, 4*30 and 4*3 all stand for 4 and 3, and 47*3 for two pairs of 47*36, but 47*36
    for none. `parts` are the products that cover what none before did. Results are not looked at.
    """
    whole = Counter(product(_digits(a), _digits(b)))
    waiting, parts = Counter(whole), 0
    for step in steps:
        if step.operator != "*" or not waiting:
            continue
        for left, right in ((step.left, step.right), (step.right, step.left)):
            meant = Counter(product(_digits(left), _digits(right)))
            if meant and meant <= waiting and (meant != whole or whole.total() == 1):
                waiting -= meant
                parts += 1
                break
    return whole.total() - waiting.total(), whole.total(), parts


def _digits(number: int) -> str:
    """The digits that are not 0."""
    return str(abs(number)).replace("0", "")


RATIOS: dict[str, tuple[str, str]] = {
    "behaviour/attempts": ("attempts", "completions"),
    "behaviour/distinct_attempts": ("distinct_attempts", "completions"),
    "behaviour/repeat_rate": ("repeats", "attempts"),
    "behaviour/legal_rate": ("attempts", "lines"),
    "behaviour/arithmetic_accuracy": ("steps_right", "steps"),
    "behaviour/verdict_rate": ("judged", "lines"),
    "behaviour/target_restated": ("targets_right", "judged"),
    "behaviour/recognition_recall": ("equal_claimed", "equal"),
    "behaviour/false_claim_rate": ("unequal_claimed", "unequal"),
    "behaviour/verification_precision": ("claims_true", "claims"),
    "behaviour/found_rate": ("found", "completions"),
    "behaviour/first_hit": ("first_hit", "found"),
    "behaviour/early_hit_rate": ("early_hits", "early_attempts"),
    "behaviour/gave_up": ("gave_up", "completions"),
    "behaviour/direct": ("direct", "completions"),
    "behaviour/faithful": ("faithful", "claimed_answers"),
    "behaviour/decomposed": ("decomposed", "posed"),
    "behaviour/decomposed_partly": ("decomposed_partly", "posed"),
}
"""Each metric as one count of `measure` over another, both summed over completions."""


def summarise(counts: Sequence[Mapping[str, int]]) -> dict[str, float]:
    """Metrics over many completions from the counts of each. A metric with nothing to measure is left out."""
    totals: Counter[str] = Counter()
    for one in counts:
        totals.update(one)
    return {name: totals[above] / totals[below] for name, (above, below) in RATIOS.items() if totals[below]}


def canonical(expression: Expression) -> str:
    """The same text for expressions that differ only in the order and grouping of terms or of factors."""
    if isinstance(expression, int):
        return str(expression)
    operators = "+-" if expression[0] in "+-" else "*/"
    return f"({''.join(sorted(_operands(expression, operators, inverse=False)))})"


def _operands(expression: Expression, operators: str, inverse: bool) -> list[str]:
    """The terms ("+-") or factors ("*/") of an expression, each after its sign: `12-(5-3)` has +12, -5 and +3."""
    if isinstance(expression, int) or expression[0] not in operators:
        return [operators[inverse] + canonical(expression)]
    operator, left, right = expression
    return [
        *_operands(left, operators, inverse),
        *_operands(right, operators, inverse != (operator == operators[1])),
    ]


def _attempt(numbers: Sequence[int], target: int, line: str, whole: bool) -> Attempt | None:
    """`line` as an attempt, or None where it has no step. In a line cut short the last digits may be missing."""
    steps: list[Step] = []
    position = 0
    while match := _STEP.match(line, position):
        position = match.end()
        if position == len(line) and not whole:
            break
        left, operator, right, result = match.groups()
        steps.append(Step(int(left), operator, int(right), int(result)))
        if line[position : position + 1] != ",":
            break
        position += 1
    if not steps:
        return None
    expression, legal = _derive(numbers, steps)
    # Where every step is true the last result is the value; elsewhere it has to be computed anew.
    exact = steps[-1].result if all(step.is_true for step in steps) else expression and _value(expression)
    judged = _VERDICT.fullmatch(line, position)
    return Attempt(
        steps=tuple(steps),
        legal=legal,
        hits=legal and exact == target,
        form=None if expression is None else canonical(expression),
        restated=int(judged[1]) if judged else None,
        verdict=judged[2] == "yes" if judged else None,
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


def _value(expression: Expression) -> Fraction | None:
    """The exact value, or None where something is divided by zero."""
    if isinstance(expression, int):
        return Fraction(expression)
    operator, left, right = expression[0], _value(expression[1]), _value(expression[2])
    if left is None or right is None:
        return None
    if operator == "/":
        return left / right if right else None
    return _apply(operator, left, right)


def _apply(operator: str, left: Number, right: Number) -> Number:
    if operator == "+":
        return left + right
    return left - right if operator == "-" else left * right


def _is_one_of(answer: str | None, attempts: Sequence[Attempt]) -> bool:
    expression = _parse(answer) if answer is not None else None
    return expression is not None and canonical(expression) in {attempt.form for attempt in attempts}


def _parse(text: str) -> Expression | None:
    """The tree of whole numbers, + - * / and parentheses, or None for any other text."""
    tokens = _TOKEN.findall(text)
    if len(text) > MAX_ANSWER or "".join(tokens) != "".join(text.split()):
        return None
    tokens.reverse()  # so that the next one is popped off the end
    try:
        expression = _sum(tokens)
    except (IndexError, ValueError):
        return None
    return None if tokens else expression


def _sum(tokens: list[str]) -> Expression:
    expression = _product(tokens)
    while tokens and tokens[-1] in "+-":
        expression = (tokens.pop(), expression, _product(tokens))
    return expression


def _product(tokens: list[str]) -> Expression:
    expression = _atom(tokens)
    while tokens and tokens[-1] in "*/":
        expression = (tokens.pop(), expression, _atom(tokens))
    return expression


def _atom(tokens: list[str]) -> Expression:
    token = tokens.pop()
    if token != "(":
        return int(token)
    expression = _sum(tokens)
    if tokens.pop() != ")":
        raise ValueError("a parenthesis is not closed")
    return expression
