"""The functions that tests are written for, and their mutants.

A function is a value for each of its conditions, and one for the rest: `x*2 if x<7 else x+9`. The
first condition that holds decides. Functions are data, and `compute` is all that runs them.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple, TypeVar

from tinyzero.errors import UserError

COMPARISONS = ("<", "<=", ">", ">=", "==")
SMALLEST_NUMBER, LARGEST_NUMBER = 2, 9  # in a value, such as the 9 of x+9
MOST_CONDITIONS = 3
MOST_DIGITS = 3  # of a number in a function that a person types

_NUMBER = rf"(?:0|[1-9][0-9]{{0,{MOST_DIGITS - 1}}})"
_VALUE = re.compile(rf"(x[-+*])?({_NUMBER})")
_CONDITION = re.compile(rf"x(<=|>=|==|<|>)({_NUMBER})")

Part = TypeVar("Part")


class Value(NamedTuple):
    """What a branch returns: `x+9` is `Value("+", 9)`, and the constant 4 is `Value("", 4)`."""

    operator: str
    number: int

    @property
    def code(self) -> str:
        """The value as it is written in a function."""
        return f"x{self.operator}{self.number}" if self.operator else str(self.number)

    def at(self, x: int) -> int:
        """The value for the input `x`.

        >>> Value("*", 2).at(7), Value("-", 9).at(7), Value("", 4).at(7)
        (14, -2, 4)
        """
        if self.operator == "+":
            return x + self.number
        if self.operator == "-":
            return x - self.number
        return x * self.number if self.operator == "*" else self.number


class Condition(NamedTuple):
    """When a branch is taken: `x<7` is `Condition("<", 7)`."""

    comparison: str
    number: int

    @property
    def code(self) -> str:
        """The condition as it is written in a function."""
        return f"x{self.comparison}{self.number}"

    def holds(self, x: int) -> bool:
        """Whether the input `x` meets the condition.

        >>> Condition("<=", 7).holds(7), Condition(">", 7).holds(7)
        (True, False)
        """
        if self.comparison == "==":
            return x == self.number
        if x == self.number:
            return len(self.comparison) == 2
        return (x < self.number) == (self.comparison[0] == "<")


class Function(NamedTuple):
    """A function of one whole number. There is one value more than there are conditions.

    >>> Function((Value("*", 2), Value("+", 9)), (Condition("<", 7),)).code
    'x*2 if x<7 else x+9'
    """

    values: tuple[Value, ...]
    conditions: tuple[Condition, ...]

    @property
    def code(self) -> str:
        """The function as a Python expression of x."""
        branches = zip(self.values, self.conditions, strict=False)
        chosen = [f"{value.code} if {condition.code} else " for value, condition in branches]
        return "".join(chosen) + self.values[-1].code

    def branch(self, x: int) -> int:
        """The number of the branch that the input `x` takes, from 0."""
        for index, condition in enumerate(self.conditions):
            if condition.holds(x):
                return index
        return len(self.conditions)


def compute(function: Function, x: int) -> int:
    """The value of the function for the input `x`.

    >>> compute(read("x*2 if x<7 else x+9"), 7)
    16
    """
    return function.values[function.branch(x)].at(x)


def read(code: str) -> Function:
    """The function that is written as `code`. Raises UserError if it is not one.

    >>> read("4 if x==7 else x-2").conditions
    (Condition(comparison='==', number=7),)
    """
    *branches, last = code.strip().split(" else ", MOST_CONDITIONS + 1)
    parts = [branch.partition(" if ") for branch in branches]
    values = [_VALUE.fullmatch(value.strip()) for value in (*(part[0] for part in parts), last)]
    conditions = [_CONDITION.fullmatch(part[2].strip()) for part in parts]

    is_function = 0 < len(conditions) <= MOST_CONDITIONS and all(values) and all(conditions)
    if not is_function:
        raise UserError(
            f"{code[:80]!r} is not a function of this task: write one to {MOST_CONDITIONS} "
            "conditions, as in x*2 if x<7 else x+9"
        )
    return Function(
        tuple(Value((m[1] or "")[1:], int(m[2])) for m in values if m),
        tuple(Condition(m[1], int(m[2])) for m in conditions if m),
    )


class Mutant(NamedTuple):
    """A copy of a function with one number changed, and the inputs at which the two differ."""

    function: Function
    in_condition: bool
    """Whether the number belongs to a condition, rather than to a value."""
    caught_at: frozenset[int]
    """A true test at one of these inputs catches the mutant."""


@lru_cache(maxsize=4096)
def mutants(function: Function, max_input: int) -> tuple[Mutant, ...]:
    """The mutants of a function: a condition's number one smaller or larger, a value's one larger.

    A mutant that returns the same as the function for every input from 0 to `max_input` is left
    out, because no test could catch it.

    >>> [m.function.code for m in mutants(read("x*2 if x<7 else x+9"), 20)][:3]
    ['x*2 if x<6 else x+9', 'x*2 if x<8 else x+9', 'x*3 if x<7 else x+9']
    >>> [sorted(m.caught_at) for m in mutants(read("x*2 if x<7 else x+9"), 20)][:2]
    [[6], [7]]
    """
    changed: list[tuple[Function, bool]] = []
    for index, condition in enumerate(function.conditions):
        for number in (condition.number - 1, condition.number + 1):
            conditions = _replace(function.conditions, index, condition._replace(number=number))
            changed.append((function._replace(conditions=conditions), True))
    for index, value in enumerate(function.values):
        values = _replace(function.values, index, value._replace(number=value.number + 1))
        changed.append((function._replace(values=values), False))

    made = []
    for mutant, in_condition in changed:
        inputs = range(max_input + 1)
        caught_at = frozenset(x for x in inputs if compute(mutant, x) != compute(function, x))
        if caught_at:
            made.append(Mutant(mutant, in_condition, caught_at))
    return tuple(made)


def _replace(parts: tuple[Part, ...], index: int, part: Part) -> tuple[Part, ...]:
    return (*parts[:index], part, *parts[index + 1 :])


def smallest_suite(function: Function, max_input: int, most: int) -> list[int] | None:
    """The fewest inputs whose tests catch every mutant, in order; None if it takes over `most`.

    >>> smallest_suite(read("x*2 if x<7 else x+9"), 20, most=4)
    [6, 7]
    """
    hardest_first = sorted(mutants(function, max_input), key=lambda mutant: len(mutant.caught_at))
    for count in range(1, most + 1):
        inputs = _inputs_that_catch([mutant.caught_at for mutant in hardest_first], count)
        if inputs is not None:
            return sorted(inputs)
    return None


def _inputs_that_catch(left: Sequence[frozenset[int]], count: int) -> list[int] | None:
    """At most `count` inputs, one of each set; None if that is impossible."""
    if not left:
        return []
    if not count:
        return None

    for x in sorted(left[0]):
        rest = _inputs_that_catch([inputs for inputs in left if x not in inputs], count - 1)
        if rest is not None:
            return [x, *rest]
    return None


def draw(rng: random.Random, conditions: int, max_input: int) -> Function | None:
    """A random function with that many conditions; None if a branch is never taken: draw again."""
    values = tuple(_draw_value(rng) for _ in range(conditions + 1))
    function = Function(values, tuple(_draw_condition(rng, max_input) for _ in range(conditions)))

    taken = {function.branch(x) for x in range(max_input + 1)}
    are_different = all(one != other for one, other in pairwise(values))
    return function if len(taken) == len(values) and are_different else None


def _draw_value(rng: random.Random) -> Value:
    operator = rng.choice(("+", "-", "*", ""))
    return Value(operator, rng.randint(SMALLEST_NUMBER, LARGEST_NUMBER))


def _draw_condition(rng: random.Random, max_input: int) -> Condition:
    """A condition that still holds for some inputs only if its number is one smaller or larger."""
    return Condition(rng.choice(COMPARISONS), rng.randint(2, max_input - 2))
