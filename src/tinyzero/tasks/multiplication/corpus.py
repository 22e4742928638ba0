"""The synthetic text that the tiny base for multiplication is pretrained on. No torch.

The base learns its tables and how to add. It guesses at products, and sees a little distributive
work, most of which is spoilt: the tens are not shifted, the cross terms are forgotten, or the work
is given up after the first row. The text has one row per digit of the second operand, then the sum
of the rows:

    47*36
    <think>
    40*6=240,7*6=42,240+42=282
    40*3=120,7*3=21,120+21=141
    1410+282=1692
    </think>
    <answer>1692</answer>

Only products of the train split are posed. Every product that is stated has an operand below 10, so
the text never gives a product of two larger numbers away. Products with an operand below 10 may be
stated whatever their split, so measure this base on operands of two digits, as the recipe does.
"""

from __future__ import annotations

import random

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tinyzero.tasks.corpora import END, Corpus
from tinyzero.tasks.multiplication.task import split_of


class ProductsOptions(BaseModel):
    """The shares of the corpus. Posed products that are not guessed or worked out are spoilt."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    max_operand: int = Field(99, ge=11, le=99, description="largest operand of a posed product")
    drills: float = Field(
        0.3, ge=0, le=1, description="share of documents that are pages of arithmetic facts"
    )
    guesses: float = Field(
        0.6, ge=0, le=1, description="share of posed products that are answered by a blind guess"
    )
    whole: float = Field(
        0.15, ge=0, le=1, description="share of posed products that are worked out to the end"
    )

    @model_validator(mode="after")
    def _shares_add_up(self) -> ProductsOptions:
        if self.guesses + self.whole > 1:
            raise ValueError(
                f"guesses {self.guesses} and whole {self.whole} add up to more than 1: lower one"
            )
        return self


def document(rng: random.Random, options: ProductsOptions) -> tuple[str, str]:
    """One document: a prompt, which has no loss (empty for drills), and the rest up to END."""
    if rng.random() < options.drills:
        prompt, text = "", _drill(rng, options)
    else:
        prompt, text = _product(rng, options)
    return prompt, text + END


def _drill(rng: random.Random, options: ProductsOptions) -> str:
    """A page of facts: products of a digit with a digit or a round number, and sums."""
    lines: list[str] = []
    for _ in range(14):
        if rng.random() < 0.4:
            a = rng.randint(1, 9) * 10 ** rng.randint(0, 1)
            b = rng.randint(1, 9)
            lines.append(f"{a}*{b}={a * b}\n")
            continue

        largest = rng.choice((99, 999, options.max_operand * 90))
        a = rng.randint(1, largest)
        b = rng.randint(1, max(9, largest // 9))
        if a > 10 and rng.random() < 0.6:
            a = a // 10 * 10
        a, b = max(a, b), min(a, b)
        lines.append(f"{a}+{b}={a + b}\n")
    return "".join(lines)


def _product(rng: random.Random, options: ProductsOptions) -> tuple[str, str]:
    """A posed product: its prompt, and a guess, the whole work, or spoilt work."""
    while True:
        a = rng.randint(2, options.max_operand)
        b = rng.randint(2, options.max_operand)
        if split_of(a, b) == "train":
            break

    prompt = f"{a}*{b}\n<think>\n"
    style = rng.random()
    if style < options.guesses:
        return prompt, _answer(max(1, round(a * b * rng.uniform(0.7, 1.3))))
    if style < options.guesses + options.whole:
        return prompt, work(a, b)
    spoilt_work = rng.choice((_unshifted, _without_cross_terms, _given_up))
    return prompt, spoilt_work(a, b)


def work(a: int, b: int) -> str:
    """a*b worked out by the distributive rule, with the answer.

    >>> print(work(47, 36))
    40*6=240,7*6=42,240+42=282
    40*3=120,7*3=21,120+21=141
    1410+282=1692
    </think>
    <answer>1692</answer>
    """
    lines: list[str] = []
    rows: list[int] = []
    for power, digit in places(b):
        line, value = _row(a, digit)
        lines.append(line)
        rows.append(value * 10**power)
    return "".join(lines) + _sum_line(rows[::-1]) + _answer(sum(rows))


def places(number: int) -> list[tuple[int, int]]:
    """The digits of a number that are not 0, as (power of ten, digit), the ones first.

    >>> places(307)
    [(0, 7), (2, 3)]
    """
    digits = enumerate(reversed(str(number)))
    return [(power, int(digit)) for power, digit in digits if digit != "0"]


def _row(a: int, digit: int) -> tuple[str, int]:
    """One row, a times a digit: its line and its value."""
    parts = [leading * 10**power for power, leading in reversed(places(a))]
    steps = [f"{part}*{digit}={part * digit}" for part in parts]

    total = parts[0] * digit
    for part in parts[1:]:
        steps.append(f"{total}+{part * digit}={total + part * digit}")
        total += part * digit
    return ",".join(steps) + "\n", total


def _sum_line(rows: list[int]) -> str:
    """The line that adds the rows, the largest first; empty if there is only one row."""
    steps: list[str] = []
    total = rows[0]
    for row in rows[1:]:
        steps.append(f"{total}+{row}={total + row}")
        total += row
    return ",".join(steps) + "\n" if steps else ""


def _unshifted(a: int, b: int) -> str:
    """Spoilt work: the rows are added without shifting them."""
    rows = [_row(a, digit) for _, digit in places(b)]
    values = [value for _, value in rows][::-1]
    return "".join(line for line, _ in rows) + _sum_line(values) + _answer(sum(values))


def _without_cross_terms(a: int, b: int) -> str:
    """Spoilt work: only tens times tens and ones times ones."""
    lines: list[str] = []
    values: list[int] = []
    for power, digit in places(a):
        for other_power, other_digit in places(b):
            if power == other_power:
                lines.append(f"{digit}*{other_digit}={digit * other_digit}\n")
                values.append(digit * other_digit * 10 ** (2 * power))

    if not lines:
        return _given_up(a, b)
    return "".join(lines) + _sum_line(values[::-1]) + _answer(sum(values))


def _given_up(a: int, b: int) -> str:
    """Spoilt work: the first row is given as the answer."""
    _, first_digit = places(b)[0]
    line, value = _row(a, first_digit)
    return line + _answer(value)


def _answer(value: int) -> str:
    return f"</think>\n<answer>{value}</answer>"


CORPUS = Corpus(
    ProductsOptions,
    document,
    knows="its tables, how to add, and the look of a product broken down",
    note="; products with an operand below 10 may be from any split, so measure larger ones",
)
