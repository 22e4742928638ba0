"""The synthetic text the bundled base is pretrained on. No torch.

A real base model has read people who compute, compare, guess, try and mostly give up; this corpus
gives a tiny one the same: arithmetic drills, direct guesses (mostly wrong), tries without a
verdict, short searches that mostly give up, and now and then a long one. No document shows how to
solve a problem well: tries come in plain order from a random one on, with a jump now and then, never
by merit. Problems are drawn from the train split only.

The grammar, one try a line:

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
    """Shares and ranges of the corpus. Shares of searches are of the puzzle documents."""

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
        0.25, ge=0, le=1, description="share of puzzles with two numbers, where a try often hits"
    )
    four_numbers: float = Field(0.04, ge=0, le=1, description="share of puzzles with four numbers")
    guesses: float = Field(
        0.4, ge=0, le=1, description="share of puzzles answered by a blind guess"
    )
    unjudged: float = Field(
        0.15, ge=0, le=1, description="share of puzzles with tries but no verdicts"
    )
    go_on: float = Field(
        0.4, ge=0, lt=1, description="chance that a short search goes on after a wrong try"
    )
    long: float = Field(0.2, ge=0, le=1, description="share of the searches that are long")
    longest: int = Field(30, ge=2, le=10_000, description="most tries of a long search")
    only_hits: float = Field(
        0.0, ge=0, le=1, description="share of puzzles that show nothing but a try that hits"
    )
    jumps: float = Field(
        0.03, ge=0, le=1, description="chance that the next try is any, not the next in order"
    )


@dataclass(frozen=True)
class Try:
    """One way to use all numbers: the steps as written, the expression, its value."""

    steps: str
    expression: str
    value: int


def steps_of(a: int, b: int, limit: int) -> list[tuple[str, int]]:
    """What can be done with two numbers, larger first: (operator, result). /1 is left out: it is *1."""
    found = [(op, combine(a, b, op, limit)) for op in "+-*/" if not (op == "/" and b == 1)]
    return [(op, value) for op, value in found if value is not None]


def tries(numbers: list[int], limit: int) -> list[Try]:
    """Every legal try, in plain order (pairs from the largest down, then + - * /), without repeats.

    Sums and products of the same terms in another order count as repeats.
    """
    found: dict[tuple[object, ...], Try] = {}
    _extend([(n, str(n), "") for n in sorted(numbers, reverse=True)], "", (), limit, found)
    return list(found.values())


def _extend(
    pool: list[tuple[int, str, str]],
    steps: str,
    key: tuple[object, ...],
    limit: int,
    found: dict[tuple[object, ...], Try],
) -> None:
    """Depth-first over pairs of `pool`, whose entries are (value, expression, its outermost operator)."""
    if len(pool) == 1:
        value, expression, _ = pool[0]
        found.setdefault(key, Try(steps, expression, value))
        return
    for i, j in combinations(range(len(pool)), 2):
        left, right = sorted((pool[i], pool[j]), key=lambda entry: -entry[0])
        rest = [pool[k] for k in range(len(pool)) if k not in (i, j)]
        for op, value in steps_of(left[0], right[0], limit):
            step = f"{left[0]}{op}{right[0]}={value}"
            entry = (value, _wrap(left, op, False) + op + _wrap(right, op, True), op)
            _extend(
                [entry, *rest],
                f"{steps},{step}" if steps else step,
                _merge(key, op, left, right),
                limit,
                found,
            )


def _merge(
    key: tuple[object, ...], op: str, left: tuple[int, str, str], right: tuple[int, str, str]
) -> tuple[object, ...]:
    """A key equal for regrouped sums or products: a+b+c and a*b*c are one try however paired."""
    if op in "+*" and op in (left[2], right[2]) and key and key[-1][0] == op:  # type: ignore[index]
        terms = tuple(sorted((*key[-1][1], left[0] if left[2] != op else right[0])))  # type: ignore[index]
        return (*key[:-1], (op, terms))
    return (*key, (op, (left[0], right[0]) if op in "-/" else tuple(sorted((left[0], right[0])))))


def _wrap(entry: tuple[int, str, str], op: str, on_right: bool) -> str:
    """The operand's expression, in brackets where precedence needs them."""
    _, expression, inner = entry
    if not inner:
        return expression
    lower = inner in "+-" and op in "*/"
    same = on_right and op in "-/" and (inner in "+-") == (op in "+-")
    return (
        f"({expression})"
        if lower or same or (on_right and op == "*" and inner == "/")
        else expression
    )


def document(rng: random.Random, o: CorpusOptions) -> tuple[str, str]:
    """One document: a prompt, on which there is no loss (empty for drills), and what follows it, up to END."""
    prompt, text = _drill(rng, o) if rng.random() < o.drills else _puzzle(rng, o)
    return prompt, text + END


def _drill(rng: random.Random, o: CorpusOptions) -> tuple[str, str]:
    """A page of facts: steps with their results, and comparisons with their verdicts."""
    lines: list[str] = []
    while len(lines) < 18:
        if rng.random() < 0.25:
            value = rng.randint(1, o.max_target)
            target = value if rng.random() < 0.3 else _near_miss(value, rng, o)
            lines.append(f"{value} vs {target} {'yes' if value == target else 'no'}\n")
            continue
        op = rng.choice("+-*/")
        a, b = rng.randint(1, o.max_target), rng.randint(1, o.max_number)
        if op in "*/":  # drawn through the product, or most would be too large
            a = rng.randint(1, max(1, o.max_target // b))
            a, b = (a * b, min(a, b)) if op == "/" else (a, b)
        a, b = max(a, b), min(a, b)
        value_or_none = combine(a, b, op, o.max_target)
        if value_or_none is not None:
            lines.append(f"{a}{op}{b}={value_or_none}\n")
    return "", "".join(lines)


def _near_miss(value: int, rng: random.Random, o: CorpusOptions) -> int:
    """Another number, often one that shares a digit."""
    swapped = value % 10 * 10 + value // 10
    near = [
        value + 1,
        value - 1,
        value + 10,
        value - 10,
        swapped,
        rng.randint(o.min_target, o.max_target),
    ]
    return rng.choice([t for t in near if t != value and 1 <= t <= o.max_target])


def _puzzle(rng: random.Random, o: CorpusOptions) -> tuple[str, str]:
    numbers, target, ways = _draw(rng, o)
    prompt = f"{target} from {' '.join(map(str, numbers))}\n<think>\n"
    style = rng.random() - o.only_hits
    if style < 0:
        hits = [way for way in ways if way.value == target]
        return prompt, _search(rng, o, iter([rng.choice(hits)]), target)
    if style < o.guesses:
        return prompt, _answer(rng.choice(ways))
    if style < o.guesses + o.unjudged:
        return prompt, _unjudged(
            _walk(rng, ways, o.jumps), min(len(ways), 1 + _geometric(rng, 0.5))
        )
    return prompt, _search(rng, o, _walk(rng, ways, o.jumps), target)


def _draw(rng: random.Random, o: CorpusOptions) -> tuple[list[int], int, list[Try]]:
    """Numbers of the train split, a target one of their tries reaches, and all tries."""
    while True:
        kind = rng.random()
        count = 2 if kind < o.two_numbers else 4 if kind < o.two_numbers + o.four_numbers else 3
        numbers = [rng.randint(1, o.max_number) for _ in range(count)]
        if split_of(numbers) != "train":
            continue
        ways = tries(numbers, o.max_target)
        targets = [w.value for w in ways if w.value >= o.min_target]
        if targets:
            return numbers, rng.choice(targets), ways


def _walk(rng: random.Random, ways: list[Try], jumps: float) -> Iterator[Try]:
    """Tries in order, round and round, from a random one on; with chance `jumps` from another on."""
    at = rng.randrange(len(ways))
    while True:
        yield ways[at]
        at = rng.randrange(len(ways)) if rng.random() < jumps else (at + 1) % len(ways)


def _unjudged(walk: Iterator[Try], count: int) -> str:
    """A few tries, never compared with the target, and the last one as the answer."""
    chosen = list(islice(walk, count))
    return "".join(f"{way.steps}\n" for way in chosen) + _answer(chosen[-1])


def _search(rng: random.Random, o: CorpusOptions, walk: Iterator[Try], target: int) -> str:
    """Tries with verdicts until one hits or patience ends; the last try is the answer."""
    patience = rng.randint(4, o.longest) if rng.random() < o.long else 1 + _geometric(rng, o.go_on)
    lines: list[str] = []
    for way in islice(walk, patience):
        lines.append(f"{way.steps} vs {target} {'yes' if way.value == target else 'no'}\n")
        if way.value == target:
            break
    return "".join(lines) + _answer(way)


def _answer(way: Try) -> str:
    return f"</think>\n<answer>{way.expression}</answer>"


def _geometric(rng: random.Random, go_on: float) -> int:
    """How often one goes on, each time with chance `go_on`."""
    count = 0
    while rng.random() < go_on:
        count += 1
    return count


CORPUS = Corpus(
    CorpusOptions,
    document,
    knows="two-digit arithmetic and the look of a search for Countdown",
    measured_by="`python benchmarks/base.py`",
)
