"""The synthetic text a base for multiplication is pretrained on. No torch.

It knows the tables and how to add, guesses at products, and has seen a little distributive work, most of it
spoilt: the tens not shifted, the cross terms forgotten, or given up after the first row. The grammar, one row
for each digit of the second operand, then the rows' sum:

    47*36
    <think>
    40*6=240,7*6=42,240+42=282
    40*3=120,7*3=21,120+21=141
    1410+282=1692
    </think>
    <answer>1692</answer>

Only products of the train split are posed. Every product stated has an operand below 10, so that no product of two
larger numbers is ever told; of those with such an operand every one may be, whatever its split, so this base is for
operands of two digits, as in the recipe.
"""

from __future__ import annotations

import random

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tinyzero.tasks.corpora import END, Corpus
from tinyzero.tasks.multiplication.task import split_of


class ProductsOptions(BaseModel):
    """Shares of the corpus; those of guesses and of whole work are of the posed products, the rest is spoilt work."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    max_operand: int = Field(99, ge=11, le=99, description="largest operand of a posed product")
    drills: float = Field(0.3, ge=0, le=1, description="share of documents that are pages of facts")
    guesses: float = Field(
        0.6, ge=0, le=1, description="share of products answered by a blind guess"
    )
    whole: float = Field(0.15, ge=0, le=1, description="share of products worked out to the end")

    @model_validator(mode="after")
    def _shares_add_up(self) -> ProductsOptions:
        if self.guesses + self.whole > 1:
            raise ValueError(
                f"guesses {self.guesses} and whole {self.whole} add up to more than 1: lower one"
            )
        return self


def document(rng: random.Random, o: ProductsOptions) -> tuple[str, str]:
    """One document: a prompt, on which there is no loss (empty for drills), and what follows it, up to END."""
    prompt, text = ("", _drill(rng, o)) if rng.random() < o.drills else _product(rng, o)
    return prompt, text + END


def _drill(rng: random.Random, o: ProductsOptions) -> str:
    """A page of facts: a digit times a digit or a round number, and sums of round and of any numbers."""
    lines: list[str] = []
    for _ in range(14):
        if rng.random() < 0.4:
            a, b = rng.randint(1, 9) * 10 ** rng.randint(0, 1), rng.randint(1, 9)
            lines.append(f"{a}*{b}={a * b}\n")
        else:
            largest = rng.choice((99, 999, o.max_operand * 90))
            a, b = rng.randint(1, largest), rng.randint(1, max(9, largest // 9))
            a = a // 10 * 10 if a > 10 and rng.random() < 0.6 else a
            a, b = max(a, b), min(a, b)
            lines.append(f"{a}+{b}={a + b}\n")
    return "".join(lines)


def _product(rng: random.Random, o: ProductsOptions) -> tuple[str, str]:
    """A posed product and what is made of it."""
    while True:
        a, b = rng.randint(2, o.max_operand), rng.randint(2, o.max_operand)
        if split_of(a, b) == "train":
            break
    prompt, style = f"{a}*{b}\n<think>\n", rng.random()
    if style < o.guesses:
        return prompt, _answer(max(1, round(a * b * rng.uniform(0.7, 1.3))))
    if style < o.guesses + o.whole:
        return prompt, work(a, b)
    return prompt, rng.choice((_unshifted, _without_cross_terms, _given_up))(a, b)


def work(a: int, b: int) -> str:
    """a*b by the distributive rule, to the end."""
    lines, rows = [], []
    for power, digit in places(b):
        line, value = _row(a, digit)
        lines.append(line)
        rows.append(value * 10**power)
    return "".join(lines) + _sum_line(rows[::-1]) + _answer(sum(rows))


def places(n: int) -> list[tuple[int, int]]:
    """(power of ten, digit) of the digits of n that are not 0, the ones first."""
    return [(power, int(digit)) for power, digit in enumerate(reversed(str(n))) if digit != "0"]


def _row(a: int, digit: int) -> tuple[str, int]:
    """a times one digit: the line and its value."""
    parts = [place * 10**power for power, place in reversed(places(a))]
    steps = [f"{part}*{digit}={part * digit}" for part in parts]
    total = parts[0] * digit
    for part in parts[1:]:
        steps.append(f"{total}+{part * digit}={total + part * digit}")
        total += part * digit
    return ",".join(steps) + "\n", total


def _sum_line(rows: list[int]) -> str:
    """The rows added, the largest first; nothing where there is but one."""
    steps, total = [], rows[0]
    for row in rows[1:]:
        steps.append(f"{total}+{row}={total + row}")
        total += row
    return ",".join(steps) + "\n" if steps else ""


def _unshifted(a: int, b: int) -> str:
    """The rows are added as they stand."""
    rows = [_row(a, digit) for _, digit in places(b)]
    values = [value for _, value in rows][::-1]
    return "".join(line for line, _ in rows) + _sum_line(values) + _answer(sum(values))


def _without_cross_terms(a: int, b: int) -> str:
    """Tens times tens and ones times ones, and nothing between."""
    pairs = [(x, y, p + q) for p, x in places(a) for q, y in places(b) if p == q]
    if not pairs:
        return _given_up(a, b)
    values = [x * y * 10**power for x, y, power in pairs][::-1]
    return (
        "".join(f"{x}*{y}={x * y}\n" for x, y, _ in pairs)
        + _sum_line(values)
        + _answer(sum(values))
    )


def _given_up(a: int, b: int) -> str:
    """The first row is the answer."""
    line, value = _row(a, places(b)[0][1])
    return line + _answer(value)


def _answer(value: int) -> str:
    return f"</think>\n<answer>{value}</answer>"


CORPUS = Corpus(
    ProductsOptions,
    document,
    knows="its tables, how to add, and the look of a product broken down",
    note="; products with an operand below 10 are told whatever their split: score larger ones",
)
