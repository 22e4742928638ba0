"""Exact graders for the datasets whose scorers run the answer, or reward a wrong one.

Each takes the answer, the package's own answer, and what else is given. None of them raises: an
answer that cannot be read is wrong. Answers are at most a few thousand characters long.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

from tinyzero.grading import evaluate_expression
from tinyzero.tasks.reasoning_gym.polynomials import read_polynomial

MAX_NUMBER = 30  # characters
Grader = Callable[[str, str, Mapping[str, Any]], bool]


def is_right(dataset: str, answer: str, expected: str, given: Mapping[str, Any]) -> bool:
    """Whether `answer` is right for a problem of a dataset in `GRADERS`; others compare texts.

    >>> is_right("gcd", "12", "12", {})
    True
    >>> is_right("puzzle24", "6*4*1*1", "4*(6/2+3)", {"numbers": [6, 2, 3, 4]})
    False
    """
    grader = GRADERS.get(dataset, _same_text)
    return grader(answer.strip(), expected.strip(), given)


def _same_text(answer: str, expected: str, _: Mapping[str, Any]) -> bool:
    return answer == expected


def _same_words(answer: str, expected: str, _: Mapping[str, Any]) -> bool:
    """The same words in each line, whatever the spaces between them."""
    return _words(answer) == _words(expected)


def _same_letters(answer: str, expected: str, _: Mapping[str, Any]) -> bool:
    """The same text, in small or capital letters."""
    return answer.lower() == expected.lower()


def _countdown(answer: str, _: str, given: Mapping[str, Any]) -> bool:
    """An expression of the target, with each number exactly once."""
    return _reaches(answer, given["target"], given["numbers"])


def _puzzle24(answer: str, _: str, given: Mapping[str, Any]) -> bool:
    """An expression of 24, with each number exactly once."""
    return _reaches(answer, 24, given["numbers"])


def _reaches(answer: str, target: int, numbers: list[int]) -> bool:
    evaluated = evaluate_expression(answer)
    return evaluated is not None and (
        evaluated[0] == target and sorted(evaluated[1]) == sorted(numbers)
    )


def _polynomial(answer: str, expected: str, _: Mapping[str, Any]) -> bool:
    """A sum of terms that is the same polynomial."""
    polynomial = read_polynomial(answer)
    return polynomial is not None and polynomial == read_polynomial(expected)


def _complex(answer: str, expected: str, _: Mapping[str, Any]) -> bool:
    """The same complex number, such as `3.0 - 2.0i`."""
    number = _read_complex(answer)
    return number is not None and number == _read_complex(expected)


def _read_complex(text: str) -> tuple[Fraction, Fraction] | None:
    """The real and the imaginary part, exactly."""
    match = re.fullmatch(
        r"(?P<real>[+-]?[0-9.]+(?![0-9.]*[ij]))?(?P<imaginary>[+-]?[0-9.]*[ij])?",
        text.replace(" ", ""),
    )
    if not match or not match[0]:
        return None

    real = match["real"] or "0"
    imaginary = (match["imaginary"] or "0i")[:-1]
    if imaginary in ("", "+", "-"):
        imaginary += "1"
    parts = _number(real), _number(imaginary)
    return None if None in parts else (parts[0] or Fraction(0), parts[1] or Fraction(0))


def _number_value(answer: str, expected: str, _: Mapping[str, Any]) -> bool:
    """The same number, perhaps with commas between thousands."""
    if re.fullmatch(r"-?[0-9]{1,3}(,[0-9]{3})+(\.[0-9]+)?", answer):
        answer = answer.replace(",", "")
    number = _number(answer)
    return number is not None and number == _number(expected)


def _number(text: str) -> Fraction | None:
    """A decimal number, exactly; None if the text is not one."""
    if len(text) > MAX_NUMBER or not re.fullmatch(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)", text):
        return None
    return Fraction(text)


def _bits(answer: str, expected: str, _: Mapping[str, Any]) -> bool:
    """The same whole number, in decimal or hexadecimal digits."""
    number = _whole_number(answer)
    return number is not None and number == _whole_number(expected)


def _whole_number(text: str) -> int | None:
    match = re.fullmatch(r"-?(0[xX][0-9a-fA-F]{1,40}|[0-9]{1,40})", text)
    return int(text, 16 if "x" in text.lower() else 10) if match else None


def _sorted_numbers(answer: str, expected: str, _: Mapping[str, Any]) -> bool:
    """The same numbers in the same order: `['-3.5', '2']`, with or without quotation marks."""
    numbers = _numbers(answer)
    return numbers is not None and numbers == _numbers(expected)


def _numbers(text: str) -> list[Fraction] | None:
    """The numbers of a list; None if the text is not a list of numbers."""
    if not (text.startswith("[") and text.endswith("]")):
        return None
    numbers = [_number(word.strip(" '\"")) for word in text[1:-1].split(",")]
    known = [number for number in numbers if number is not None]
    return known if len(known) == len(numbers) else None


def _truth(answer: str, expected: str, _: Mapping[str, Any]) -> bool:
    """The same of True and False."""
    return answer.lower() == expected.lower()


def _factors(answer: str, expected: str, _: Mapping[str, Any]) -> bool:
    """The same factors in any order, with × , x or * between them."""
    factors = _split_factors(answer)
    return factors is not None and factors == _split_factors(expected)


def _split_factors(text: str) -> list[int] | None:
    words = [word.strip() for word in re.split("[×x*]", text)]
    if not all(re.fullmatch("[0-9]{1,19}", word) for word in words):
        return None
    return sorted(map(int, words))


def _kakurasu(answer: str, _: str, given: Mapping[str, Any]) -> bool:
    """A grid of 0 and 1 with the right weighted sums."""
    rows: list[int] = given["row_sums"]
    columns: list[int] = given["col_sums"]
    grid = _words(answer)
    if len(grid) != len(rows) or any(len(row) != len(columns) for row in grid):
        return False
    if any(cell not in ("0", "1") for row in grid for cell in row):
        return False
    return bool(_weighted_sums(grid) == rows and _weighted_sums(_turned(grid)) == columns)


def _weighted_sums(grid: list[list[str]]) -> list[int]:
    """For each row, the sum of the positions (from 1) that hold a 1."""
    return [sum(position for position, cell in enumerate(row, 1) if cell == "1") for row in grid]


def _turned(grid: list[list[str]]) -> list[list[str]]:
    """The columns of a grid."""
    return [list(column) for column in zip(*grid, strict=True)]


def _knights(answer: str, expected: str, _: Mapping[str, Any]) -> bool:
    """The same role for each person, in any order: `Zoe is a knight, and Bob is a knave.`"""
    roles = _roles(answer)
    return roles is not None and roles == _roles(expected)


def _roles(text: str) -> Counter[tuple[str, str]] | None:
    """Who is what; None if the text says anything else."""
    clauses = re.split(r",\s*and\s+|,\s*|\s+and\s+", text.strip().removesuffix("."))
    matches = [re.fullmatch(r"(\w+) is an? (\w+)", clause.strip()) for clause in clauses]
    if not all(matches):
        return None
    return Counter((match[1].lower(), match[2].lower()) for match in matches if match)


def _queens(answer: str, _: str, given: Mapping[str, Any]) -> bool:
    """A board of `_` and `Q` that keeps the given queens and has one in each row and line."""
    puzzle = given["puzzle"]
    board = _words(answer)
    if [len(row) for row in board] != [len(row) for row in puzzle]:
        return False
    if any(cell not in ("_", "Q") for row in board for cell in row):
        return False

    cells = {(x, y) for y, row in enumerate(board) for x, cell in enumerate(row) if cell == "Q"}
    kept = {(x, y) for y, row in enumerate(puzzle) for x, cell in enumerate(row) if cell == "Q"}
    lines = (
        {x for x, _ in cells},
        {y for _, y in cells},
        {x + y for x, y in cells},
        {x - y for x, y in cells},
    )
    return kept <= cells and all(len(line) == len(cells) == len(puzzle) for line in lines)


def _lock(answer: str, expected: str, given: Mapping[str, Any]) -> bool:
    """A sequence of buttons, as short as the package's own, that opens the lock."""
    pressed = re.split(r"\s*(?:→|->|,)\s*|\s+", answer)
    buttons = {button["name"]: button for button in given["buttons"]}
    if len(pressed) != len(re.split(r"\s*→\s*", expected)) or not set(pressed) <= set(buttons):
        return False

    value, light = given["initial_value"], given["initial_state"]
    for name in pressed:
        button = buttons[name]
        if button["active_state"] not in (light, "any"):
            continue
        value = _after(button, value)
        light = "green" if light == "red" else "red"
    return bool(value == given["target_value"])


def _after(button: Mapping[str, Any], value: int) -> int:
    """The number after a button is pressed."""
    amount: int = button["value"]
    if button["type"] == "multiply":
        return value * amount
    return value + amount if button["type"] == "add" else value - amount


def _words(text: str) -> list[list[str]]:
    """The words of each line."""
    return [line.split() for line in text.splitlines()]


GRADERS: Mapping[str, Grader] = {
    "binary_matrix": _same_words,
    "bitwise_arithmetic": _bits,
    "complex_arithmetic": _complex,
    "countdown": _countdown,
    "game_of_life_halting": _truth,
    "gsm_symbolic": _number_value,
    "kakurasu": _kakurasu,
    "knights_knaves": _knights,
    "letter_jumble": _same_letters,
    "n_queens": _queens,
    "number_sorting": _sorted_numbers,
    "polynomial_multiplication": _polynomial,
    "prime_factorization": _factors,
    "puzzle24": _puzzle24,
    "quantum_lock": _lock,
    "spiral_matrix": _same_words,
    "string_insertion": _same_text,
    "survo": _same_words,
}
