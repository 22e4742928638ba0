"""A family of short functions: of a whole number, of a list of whole numbers, or of a text."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Literal, NamedTuple

from tinyzero.grading.sandbox import canonical

Kind = Literal["number", "numbers", "text"]

EXPRESSIONS: dict[Kind, tuple[str, ...]] = {
    "number": (
        "x * {a} + {b}",
        "x * {a} if x < {c} else x + {b}",
        "x % {a} + {b}",
        "x // {a} - {b}",
        "abs(x - {c}) * {a}",
        "max(x, {c}) * {a} - {b}",
        "x * x - {b} * x + {c}",
        "sum(int(digit) for digit in str(abs(x))) * {a}",
        "-x if x % {a} == 0 else x + {b}",
        "x + {a} if x % 2 else x - {b}",
    ),
    "numbers": (
        "[n * {a} - {b} for n in x]",
        "[n for n in x if n > {c}]",
        "sum(n for n in x if n % {a} == 0)",
        "sorted(x, reverse=True)[:{a}]",
        "x[::-1] + [{c}]",
        "[n + {a} if n % 2 else n - {b} for n in x]",
        "sum(x) * {a} - len(x)",
        "len([n for n in x if n < {c}]) + {b}",
        "max(x, default={c}) - min(x, default={b})",
    ),
    "text": (
        "x[::-1] + {w!r}",
        "x.replace({l!r}, {w!r})",
        "x.count({l!r}) * {a} + {b}",
        "x[{b}:] + x[:{b}]",
        "''.join(letter for letter in x if letter not in {w!r})",
        "x.upper() if len(x) > {a} else x + {w!r}",
        "[part for part in x.split({l!r})]",
        "x.find({l!r}) + {b}",
    ),
}
"""The expressions that a function may return. a, b, c are whole numbers; l and w are texts."""

LETTERS = "abcdel"
NUMBERS = range(-20, 21)
LONGEST = 8  # numbers of a list, or letters of a text
PROBES = 60  # inputs whose values tell functions apart


class Function(NamedTuple):
    """A function of the family: its source, and the kind of its input."""

    source: str
    kind: Kind

    @property
    def constants(self) -> list[int]:
        """The whole numbers in the source, near which a wrong function is most likely to differ."""
        return [int(digits) for digits in re.findall(r"(?<![\w\]])-?\d+", self.source)]


def draw_function(rng: random.Random) -> Function:
    """A random function of the family; all three kinds are equally likely."""
    kind = rng.choice(list(EXPRESSIONS))
    expression = rng.choice(EXPRESSIONS[kind]).format(
        a=rng.randint(2, 6),
        b=rng.randint(1, 5),
        c=rng.randint(-9, 15),
        l=rng.choice(LETTERS),
        w="".join(rng.sample(LETTERS, 2)),
    )
    return Function(f"def f(x):\n    return {expression}", kind)


def draw_input(rng: random.Random, function: Function) -> object:
    """A random input, which is often near a constant of the function."""

    def number() -> int:
        if function.constants and rng.random() < 0.4:
            return rng.choice(function.constants) + rng.randint(-1, 1)
        return rng.choice(NUMBERS)

    if function.kind == "number":
        return number()
    length = rng.randint(0, LONGEST)
    if function.kind == "numbers":
        return [number() for _ in range(length)]
    return "".join(rng.choice(LETTERS) for _ in range(length))


def edge_inputs(function: Function) -> list[object]:
    """The inputs at and next to each constant, if the function takes a number."""
    if function.kind != "number":
        return []
    return [constant + step for constant in function.constants for step in (-1, 0, 1)]


def value_of(function: Function, argument: object) -> str:
    """The canonical text of what the function returns.

    >>> value_of(Function("def f(x):\\n    return x * 2", "number"), 21)
    '42'
    """
    return canonical(_compiled(function.source)(argument))


def key_of(function: Function) -> str:
    """A name for what the function computes, which is the same however it is written.

    >>> double = Function("def f(x):\\n    return x * 2", "number")
    >>> key_of(double) == key_of(Function("def f(x):\\n    return x + x", "number"))
    True
    """
    if function.kind == "number":
        inputs: list[object] = list(range(-2 * PROBES, 2 * PROBES))
    else:
        rng = random.Random(f"make-pass probes {function.kind}")
        plain = Function("", function.kind)
        inputs = [draw_input(rng, plain) for _ in range(PROBES)]

    values = ";".join(value_of(function, one) for one in inputs)
    return f"{function.kind}-{hashlib.sha256(values.encode()).hexdigest()[:16]}"


@lru_cache(maxsize=256)
def _compiled(source: str) -> Callable[[object], object]:
    """The function that a source of this family defines. It is our own text, never a model's."""
    names: dict[str, Callable[[object], object]] = {}
    exec(source, names)
    return names["f"]
