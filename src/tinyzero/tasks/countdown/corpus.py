"""The synthetic text that the tiny base for Countdown is pretrained on. No torch.

A real base model has read people who compute, compare, guess, try and mostly give up. This corpus
gives a tiny model the same: arithmetic drills, direct guesses (mostly wrong), tries without a
verdict, short searches that mostly give up, and sometimes a long search. No document shows how to
solve a problem well: tries follow each other in a plain order from a random start, with occasional
jumps, and never by merit. Problems are drawn from the train split only.

A search has one try per line:

    24 from 3 5 12
    <think>
    12-3=9,9*5=45 vs 24 no
    12-5=7,7*3=21 vs 24 no
    5-3=2,12*2=24 vs 24 yes
    </think>
    <answer>12*(5-3)</answer>
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, islice

from pydantic import BaseModel, ConfigDict, Field

from tinyzero.tasks.corpora import END, Corpus
from tinyzero.tasks.countdown.task import combine, split_of


class CorpusOptions(BaseModel):
    """The shares and ranges of the corpus. A puzzle is a document that poses a problem."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    max_number: int = Field(25, ge=5, le=9999, description="largest given number")
    min_target: int = Field(10, ge=1, le=99_999, description="smallest target")
    max_target: int = Field(
        99, ge=10, le=99_999, description="largest target, and largest intermediate result"
    )
    drills: float = Field(
        0.15, ge=0, le=1, description="share of documents that are arithmetic drills"
    )
    two_numbers: float = Field(
        0.25,
        ge=0,
        le=1,
        description="share of puzzles with two numbers, which one try often solves",
    )
    four_numbers: float = Field(0.04, ge=0, le=1, description="share of puzzles with four numbers")
    guesses: float = Field(
        0.4, ge=0, le=1, description="share of puzzles that are answered by a blind guess"
    )
    unjudged: float = Field(
        0.15, ge=0, le=1, description="share of puzzles with tries but without verdicts"
    )
    go_on: float = Field(
        0.4, ge=0, lt=1, description="chance that a short search continues after a wrong try"
    )
    long: float = Field(0.2, ge=0, le=1, description="share of searches that are long")
    longest: int = Field(30, ge=2, le=10_000, description="most tries of a long search")
    only_hits: float = Field(
        0.0, ge=0, le=1, description="share of puzzles that only show one try, which hits"
    )
    jumps: float = Field(
        0.03,
        ge=0,
        le=1,
        description="chance that the next try is a random one, not the next in order",
    )


@dataclass(frozen=True)
class Try:
    """One way to combine all numbers, such as `12-3=9,9*5=45` with the value 45."""

    steps: str
    """The steps as they are written."""
    expression: str
    """The same as one expression, such as `(12-3)*5`."""
    value: int


@dataclass(frozen=True)
class _Operand:
    """A number that is still to be combined: a given one, or the result of a step."""

    value: int
    expression: str
    operator: str
    """The outermost operator of the expression; empty for a given number."""


def steps_of(a: int, b: int, limit: int) -> list[tuple[str, int]]:
    """The (operator, result) pairs that two numbers allow, if a is the larger one.

    Results are positive integers up to `limit`. Dividing by 1 is left out, because it equals
    multiplying by 1.

    >>> steps_of(12, 4, 40)
    [('+', 16), ('-', 8), ('/', 3)]
    """
    steps = []
    for operator in "+-*/":
        if operator == "/" and b == 1:
            continue
        value = combine(a, b, operator, limit)
        if value is not None:
            steps.append((operator, value))
    return steps


def tries(numbers: list[int], limit: int) -> list[Try]:
    """Every legal try without repeats, in plain order: the largest pair first, then + - * /.

    Sums and products of the same terms in another order are repeats.

    >>> [way.steps for way in tries([3, 5], 99)]
    ['5+3=8', '5-3=2', '5*3=15']
    """
    found_tries: dict[tuple[object, ...], Try] = {}
    pool = [_Operand(number, str(number), "") for number in sorted(numbers, reverse=True)]
    _extend(pool, "", (), limit, found_tries)
    return list(found_tries.values())


def _extend(
    pool: list[_Operand],
    steps: str,
    key: tuple[object, ...],
    limit: int,
    found_tries: dict[tuple[object, ...], Try],
) -> None:
    """Combine each pair of the pool, depth first; complete tries are added by their key."""
    if len(pool) == 1:
        found_tries.setdefault(key, Try(steps, pool[0].expression, pool[0].value))
        return

    for i, j in combinations(range(len(pool)), 2):
        left, right = sorted((pool[i], pool[j]), key=lambda operand: -operand.value)
        rest = [pool[k] for k in range(len(pool)) if k not in (i, j)]
        for operator, value in steps_of(left.value, right.value, limit):
            step = f"{left.value}{operator}{right.value}={value}"
            expression = (
                _bracketed(left, operator, on_right=False)
                + operator
                + _bracketed(right, operator, on_right=True)
            )
            _extend(
                [_Operand(value, expression, operator), *rest],
                f"{steps},{step}" if steps else step,
                _merge(key, operator, left, right),
                limit,
                found_tries,
            )


def _merge(
    key: tuple[object, ...], operator: str, left: _Operand, right: _Operand
) -> tuple[object, ...]:
    """The key of a try with one more step; a+b+c has one key, however it is paired."""
    continues = operator in "+*" and operator in (left.operator, right.operator)
    if continues and key and key[-1][0] == operator:  # type: ignore[index]
        new_term = left.value if left.operator != operator else right.value
        terms = tuple(sorted((*key[-1][1], new_term)))  # type: ignore[index]
        return (*key[:-1], (operator, terms))

    operands = (left.value, right.value)
    return (*key, (operator, operands if operator in "-/" else tuple(sorted(operands))))


def _bracketed(operand: _Operand, operator: str, on_right: bool) -> str:
    """The operand's expression as a part of an operation, in brackets if precedence needs them."""
    inner = operand.operator
    if not inner:
        return operand.expression

    binds_less = inner in "+-" and operator in "*/"
    is_regrouped = on_right and operator in "-/" and (inner in "+-") == (operator in "+-")
    divides_in_product = on_right and operator == "*" and inner == "/"
    if binds_less or is_regrouped or divides_in_product:
        return f"({operand.expression})"
    return operand.expression


def document(rng: random.Random, options: CorpusOptions) -> tuple[str, str]:
    """One document: a prompt, which has no loss (empty for drills), and the rest up to END."""
    if rng.random() < options.drills:
        prompt, text = "", _drill(rng, options)
    else:
        prompt, text = _puzzle(rng, options)
    return prompt, text + END


def _drill(rng: random.Random, options: CorpusOptions) -> str:
    """A page of facts: steps with their results, and comparisons with their verdicts."""
    lines: list[str] = []
    while len(lines) < 18:
        if rng.random() < 0.25:
            value = rng.randint(1, options.max_target)
            target = value if rng.random() < 0.3 else _near_miss(value, rng, options)
            lines.append(f"{value} vs {target} {'yes' if value == target else 'no'}\n")
            continue

        operator = rng.choice("+-*/")
        a = rng.randint(1, options.max_target)
        b = rng.randint(1, options.max_number)
        if operator in "*/":  # drawn through the product, since most products would be too large
            a = rng.randint(1, max(1, options.max_target // b))
            if operator == "/":
                a, b = a * b, min(a, b)
        a, b = max(a, b), min(a, b)
        result = combine(a, b, operator, options.max_target)
        if result is not None:
            lines.append(f"{a}{operator}{b}={result}\n")
    return "".join(lines)


def _near_miss(value: int, rng: random.Random, options: CorpusOptions) -> int:
    """Another number than `value`, which often has a digit in common with it."""
    swapped = value % 10 * 10 + value // 10
    candidates = [
        value + 1,
        value - 1,
        value + 10,
        value - 10,
        swapped,
        rng.randint(options.min_target, options.max_target),
    ]
    return rng.choice([n for n in candidates if n != value and 1 <= n <= options.max_target])


def _puzzle(rng: random.Random, options: CorpusOptions) -> tuple[str, str]:
    """A posed problem: its prompt, and a guess, tries without verdicts, or a search."""
    numbers, target, ways = _draw(rng, options)
    prompt = f"{target} from {' '.join(map(str, numbers))}\n<think>\n"

    style = rng.random() - options.only_hits
    if style < 0:
        hits = [way for way in ways if way.value == target]
        return prompt, _search(rng, options, iter([rng.choice(hits)]), target)
    if style < options.guesses:
        return prompt, _answer(rng.choice(ways))

    walk = _walk(rng, ways, options.jumps)
    if style < options.guesses + options.unjudged:
        count = min(len(ways), 1 + _geometric(rng, 0.5))
        return prompt, _unjudged(walk, count)
    return prompt, _search(rng, options, walk, target)


def _draw(rng: random.Random, options: CorpusOptions) -> tuple[list[int], int, list[Try]]:
    """Numbers of the train split, a target that one of their tries reaches, and all tries."""
    while True:
        kind = rng.random()
        if kind < options.two_numbers:
            count = 2
        elif kind < options.two_numbers + options.four_numbers:
            count = 4
        else:
            count = 3

        numbers = [rng.randint(1, options.max_number) for _ in range(count)]
        if split_of(numbers) != "train":
            continue
        ways = tries(numbers, options.max_target)
        targets = [way.value for way in ways if way.value >= options.min_target]
        if targets:
            return numbers, rng.choice(targets), ways


def _walk(rng: random.Random, ways: list[Try], jumps: float) -> Iterator[Try]:
    """The tries in order, again and again, from a random one; `jumps` is the chance of a jump."""
    index = rng.randrange(len(ways))
    while True:
        yield ways[index]
        index = rng.randrange(len(ways)) if rng.random() < jumps else (index + 1) % len(ways)


def _unjudged(walk: Iterator[Try], count: int) -> str:
    """A few tries that are never compared with the target; the last one is the answer."""
    chosen = list(islice(walk, count))
    return "".join(f"{way.steps}\n" for way in chosen) + _answer(chosen[-1])


def _search(rng: random.Random, options: CorpusOptions, walk: Iterator[Try], target: int) -> str:
    """Tries with verdicts until one hits the target or patience ends; the last is the answer."""
    lines: list[str] = []
    for way in islice(walk, _patience(rng, options)):
        lines.append(f"{way.steps} vs {target} {'yes' if way.value == target else 'no'}\n")
        if way.value == target:
            break
    return "".join(lines) + _answer(way)


def _patience(rng: random.Random, options: CorpusOptions) -> int:
    """The most tries that a search makes."""
    if rng.random() < options.long:
        return rng.randint(4, options.longest)
    return 1 + _geometric(rng, options.go_on)


def _answer(way: Try) -> str:
    return f"</think>\n<answer>{way.expression}</answer>"


def _geometric(rng: random.Random, chance: float) -> int:
    """How often in a row something with this chance happens."""
    count = 0
    while rng.random() < chance:
        count += 1
    return count


CORPUS = Corpus(
    CorpusOptions,
    document,
    knows="two-digit arithmetic and the look of a search for Countdown",
    measured_by="`python benchmarks/base.py`",
)
