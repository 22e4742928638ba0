"""The one text of a value, so that values are compared by type and by content without reading them.

A program in the sandbox sends this text of what its function returned, and the process outside
compares it with the text of the expected value. Nothing that a program sends is ever turned back
into a value, so it cannot cost time or memory, or run code.
"""

from __future__ import annotations

import ast
import math

LONGEST_DECIMAL = 10**18  # longer whole numbers are written in base 16, which is fast
LONGEST_NUMBER = 40  # characters of a number that is compared with a tolerance


def canonical(value: object) -> str:
    """The text of a value of Python's built-in types: equal texts mean equal types and values.

    It looks like the value's `repr`. The order of a set, and of a dict's keys, does not matter, and
    an instance of a subclass counts as its built-in type. Raises TypeError for other types, and
    RecursionError if values are nested too deeply.

    >>> canonical([1, 1.0, True]), canonical({"b": (2,), "a": None})
    ('[1, 1.0, True]', "{'a': None, 'b': (2,)}")
    >>> canonical({3, 1}) == canonical({1, 3}), canonical(float("nan"))
    (True, 'nan')
    """
    if value is None or isinstance(value, bool):
        return repr(value)
    if isinstance(value, int):
        number = int(value)
        return repr(number) if abs(number) < LONGEST_DECIMAL else hex(number)
    if isinstance(value, float):
        return repr(float(value) + 0.0)  # -0.0 equals 0.0
    if isinstance(value, complex):
        return repr(complex(value))
    if isinstance(value, str):
        return ascii(str.__str__(value))
    if isinstance(value, bytes):
        return repr(bytes(value))
    return _canonical_container(value)


def is_near(text: str, expected: float, tolerance: float) -> bool:
    """Whether a canonical text is a number that differs from `expected` by less than `tolerance`.

    >>> is_near("0.30000000000000004", 0.3, 1e-6), is_near("True", 1.0, 1e-6)
    (True, False)
    """
    if len(text) > LONGEST_NUMBER or text in ("True", "False", "None"):
        return False
    try:
        number = float(text)
    except ValueError:
        return False
    return math.isfinite(number) and abs(number - expected) < tolerance


def parse_arguments(text: str) -> tuple[object, ...]:
    """The arguments of a call that are written as literals, without the brackets around them.

    Raises ValueError or SyntaxError if they are not literals.

    >>> parse_arguments("[1, 2], 'a'")
    ([1, 2], 'a')
    """
    arguments: tuple[object, ...] = ast.literal_eval(f"({text},)") if text.strip() else ()
    return arguments


def write_arguments(arguments: tuple[object, ...]) -> str:
    """The inverse of `parse_arguments`.

    >>> write_arguments(([1, 2], 'a'))
    "[1, 2], 'a'"
    """
    return ", ".join(map(repr, arguments))


def _canonical_container(value: object) -> str:
    """The text of a list, tuple, dict or set."""
    if isinstance(value, list):
        return f"[{', '.join(map(canonical, list.__iter__(value)))}]"
    if isinstance(value, tuple):
        parts = [canonical(part) for part in tuple.__iter__(value)]
        return f"({parts[0]},)" if len(parts) == 1 else f"({', '.join(parts)})"
    if isinstance(value, dict):
        pairs = sorted(f"{canonical(key)}: {canonical(held)}" for key, held in dict.items(value))
        return f"{{{', '.join(pairs)}}}"
    if isinstance(value, set):
        return f"{{{', '.join(sorted(map(canonical, set.__iter__(value))))}}}" if value else "set()"
    if isinstance(value, frozenset):
        members = ", ".join(sorted(map(canonical, frozenset.__iter__(value))))
        return f"frozenset({{{members}}})"
    raise TypeError(f"a value of type {type(value).__name__} cannot be compared")
