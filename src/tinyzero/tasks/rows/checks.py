"""The checks of an answer: exact, number, choice and math."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from tinyzero.grading import equivalence, maths

CHECKS = ("exact", "number", "choice", "math")
"""The checks by name; a function of the user is named as file.py:function."""

LETTER = re.compile(r"\(?([A-Za-z])(?:[).:]|\s*$)")


class Outcome(NamedTuple):
    """What a check says about an answer: whether it is right, whether it has the right form.

    Example: `Outcome(right=False, well_formed=True)` for the number 41 instead of 42.
    """

    right: bool
    well_formed: bool = True
    too_long: bool = False
    """Whether the comparison took too long and was ended."""


def examine(
    check: str, expected: Sequence[str], answer: str, choices: Sequence[str] = ()
) -> Outcome:
    """Compare an answer with the expected ones, of which each is right.

    >>> examine("number", ["1,200"], "$1200.00")
    Outcome(right=True, well_formed=True, too_long=False)
    >>> examine("number", ["1,200"], "twelve hundred")
    Outcome(right=False, well_formed=False, too_long=False)
    """
    if check == "exact":
        given = maths.normal_text(answer)
        return Outcome(any(given == maths.normal_text(one) for one in expected), bool(given))
    if check == "choice":
        letter = chosen_letter(answer, choices)
        right = letter != "" and letter in [expected_letter(one, choices) for one in expected]
        return Outcome(right, bool(letter))
    if check == "number":
        return _as_numbers(expected, answer)
    return _as_maths(expected, answer)


def is_checkable(check: str, expected: str, choices: Sequence[str]) -> bool:
    """Whether `check` can compare answers with this expected one.

    >>> is_checkable("number", "blue", [])
    False
    """
    if check == "number":
        return maths.quantity(expected) is not None
    if check == "choice":
        return bool(expected_letter(expected, choices))
    return bool(maths.normal_text(expected))


def expected_letter(expected: str, choices: Sequence[str]) -> str:
    """The letter of the right choice, which a row may give by its text; "" for no choice.

    >>> expected_letter("blue", ["red", "blue"]), expected_letter("B", [])
    ('B', 'B')
    """
    texts = [maths.normal_text(choice) for choice in choices]
    wanted = maths.normal_text(expected)
    if wanted in texts:
        return chr(ord("A") + texts.index(wanted))
    return chosen_letter(expected, choices)


def chosen_letter(answer: str, choices: Sequence[str]) -> str:
    """The letter that an answer consists of, perhaps followed by the text of that choice, or "".

    >>> chosen_letter("(b)", []), chosen_letter("B. blue", ["red", "blue"])
    ('B', 'B')
    >>> chosen_letter("A or B", []), chosen_letter("blue", ["red", "blue"])
    ('', '')
    """
    answer = answer.strip().strip("*$").strip()
    match = LETTER.match(answer)
    if match is None:
        return ""

    letter, rest = match[1].upper(), maths.normal_text(answer[match.end() :])
    index = ord(letter) - ord("A")
    if choices and index >= len(choices):
        return ""
    is_its_text = bool(choices) and rest == maths.normal_text(choices[index])
    return letter if not rest or is_its_text else ""


def _as_numbers(expected: Sequence[str], answer: str) -> Outcome:
    """The comparison of numbers, with their units."""
    if maths.quantity(answer) is None:
        return Outcome(right=False, well_formed=False)
    return Outcome(any(maths.same_value(one, answer) is True for one in expected))


def _as_maths(expected: Sequence[str], answer: str) -> Outcome:
    """The comparison of formulas: by reading them if that decides, else by math-verify."""
    equivalence.prepare()  # at the start of a run, and not when a formula first needs it
    if not answer.strip():
        return Outcome(right=False, well_formed=False)

    decisions = [maths.same_value(one, answer) for one in expected]
    if True in decisions:
        return Outcome(right=True)

    too_long = False
    for one, decision in zip(expected, decisions, strict=True):
        if decision is None:
            try:
                if equivalence.equivalent(one, answer):
                    return Outcome(right=True)
            except TimeoutError:
                too_long = True
    return Outcome(right=False, too_long=too_long)
