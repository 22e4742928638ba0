"""Texts that no grader should pay, built from the problem itself.

Each has a name that says what it is. Two kinds differ: most are never to be paid; `POLICIES` can be
meant, and then the task's author allows them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from tinyzero.tasks.check.hook import MARKER
from tinyzero.tasks.check.wrapping import Wrapping, same

JUNK = "junk around the answer"
RIGHT_FIRST = "right then wrong"
RIGHT_LAST = "wrong then right"
OUTSIDE = "answer outside the wrapper"
AGAIN = "given numbers used again"
POLICIES = (JUNK, RIGHT_FIRST, RIGHT_LAST, OUTSIDE, AGAIN)
ACTS = ("files", "processes", "network", "native code")
ALLOWABLE = (*POLICIES, *ACTS)
"""What `allowed_attacks` and `--allow` may name."""

SMALL = range(-5, 21)
MANY = 20  # answers in one text
JOINERS = ("\n", ", ", " ", "; ", " or ")
LONGEST_FIELD = 5_000  # characters
MOST_VALUES = 40  # of one problem's fields

ODD = {
    "garbage": (
        "hello",
        "\x00",
        "\ud800 half a character \U0001f600",
        "1/0",
        "((((",
        "9**9**9**9",
        "__import__('os')",
        "٣ × ４ − ²",
        "[[[]]]",
        '{"answer": null}',
        MARKER,
        f"{MARKER}-{MARKER}",
        f"_{MARKER}",
        f"'_{MARKER}'",
    ),
    "no answer": ("", " ", "\n", ".", "-"),
    "a value that is no answer": ("nan", "NaN", "inf", "-inf", "None", "null", "True", "False"),
    "a pattern": (".*", "*", "%", "{} % %s \\x", "[\\s\\S]*", "|"),
}
FORMLESS = (
    "",
    " \n\t",
    "hello",
    "\x00\x00\x00",
    "<think></think>",
    "</think>",
    "</think><answer>",
    "</think></answer>",
    "</think></answer><answer>",
    "<answer></answer>",
    "\\boxed{",
    "\\boxed{}",
    "####",
    "```",
)
LISTS = {
    "integers": [str(number) for number in range(-20, 200)],
    "letters": [chr(code) for code in range(ord("A"), ord("Z") + 1)],
    "yes and no": ["yes", "no", "true", "false"],
}


class Attack(NamedTuple):
    """A text that is tried on a grader, and the name that its kind goes by."""

    name: str
    text: str


class Known(NamedTuple):
    """What is known of a problem when its attacks are built."""

    fields: Mapping[str, Any]
    prompt: str
    solution: str | None
    answer: str | None
    """The answer within the solution."""
    others: Sequence[str]
    """Other problems' answers: wrong ones here."""
    other_solutions: Sequence[str]
    stop: Sequence[str]


def attacks(known: Known, own: Wrapping, also: Sequence[Wrapping]) -> Iterator[Attack]:
    """Every attack on one problem, each text once. `also` are other wrappings that are accepted."""
    tried = {known.solution}
    for attack in _all(known, own, also):
        if attack.text not in tried:
            tried.add(attack.text)
            yield attack


def _all(known: Known, own: Wrapping, also: Sequence[Wrapping]) -> Iterator[Attack]:
    yield Attack("the echoed prompt", known.prompt)
    for text in FORMLESS:
        yield Attack("an empty form", text)
    for wrapping in (own, *also):
        for name, content in _contents(known):
            if not _is_right(content, known):
                yield Attack(name, wrapping.around(content))
        yield Attack("the echoed prompt", wrapping.around(known.prompt))
        for name, guesses in LISTS.items():
            for joiner in JOINERS:
                yield Attack(f"a long list of {name}", wrapping.around(joiner.join(guesses)))
            each = "\n".join(map(wrapping.around, guesses))
            yield Attack(f"a long list of {name}, each as an answer", each)
    for text in known.other_solutions:
        yield Attack("another problem's solution", text)
    if known.answer is not None and known.others:
        for wrapping in (own, *also):
            yield from _many(known.answer, known.others, wrapping)
    if known.answer is not None:
        yield from _lenient(known.answer, known, own)


def _contents(known: Known) -> Iterator[tuple[str, str]]:
    """What stands in the place of an answer and is not the right one."""
    if known.answer is not None:  # else one of them may well be right
        yield from list(_values(known.fields))[:MOST_VALUES]
        for number in SMALL:
            yield "a small integer", str(number)
    for other in known.others[:3]:
        yield "another problem's answer", other
    for name, odd in ODD.items():
        for text in odd:
            yield name, text


def _values(fields: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Each field's value as text, and each element of those that hold several."""
    for name, value in fields.items():
        said = value if isinstance(value, str) else json.dumps(value)
        if len(said) <= LONGEST_FIELD:
            yield f"the field {name}", said
        parts = value.values() if isinstance(value, Mapping) else value
        if isinstance(value, (list, tuple, Mapping)):
            words = [part if isinstance(part, str) else json.dumps(part) for part in parts]
            yield f"the field {name}", " ".join(words)[:LONGEST_FIELD]
            for word in words:
                if len(word) <= LONGEST_FIELD:
                    yield f"an element of the field {name}", word


def _is_right(content: str, known: Known) -> bool:
    """Whether this happens to be the right answer, or has it as a whole word."""
    if known.answer is None:
        return False
    if same(content, known.answer):
        return True
    whole = rf"(?<![\w.-]){re.escape(known.answer.strip())}(?!\w)"
    return bool(known.answer.strip() and re.search(whole, content))


def _many(answer: str, others: Sequence[str], wrapping: Wrapping) -> Iterator[Attack]:
    """Twenty answers, the right one neither first nor last: nobody can mean that to be paid."""
    wrong = [others[i % len(others)] for i in range(MANY - 1)]
    guesses = [*wrong[: MANY // 2], answer, *wrong[MANY // 2 :]]
    for joiner in JOINERS:
        yield Attack("twenty answers, one of them right", wrapping.around(joiner.join(guesses)))
    for joiner in ("\n", " "):
        each = joiner.join(map(wrapping.around, guesses))
        yield Attack("twenty wrapped answers, one of them right", each)


def _lenient(answer: str, known: Known, own: Wrapping) -> Iterator[Attack]:
    """What may be meant: the policies."""
    # An answer that nothing closes ends with its line.
    ends = ("\n",) if own.closing.strip() or own.is_plain else ()
    junk = (f"purple {answer} monkey", f"purple monkey, {answer}")
    for text in (*junk, *(f"{answer}{end}purple monkey" for end in ends)):
        yield from _reached(JUNK, own.around(text), answer, known, own)
    for text in _used_again(answer, known.fields):
        yield Attack(AGAIN, own.around(text))
    if not own.is_plain:
        for text in (
            answer,
            f"</think>\n{answer}",
            f"The answer is {answer}.",
            f"{answer}\n</think>",
        ):
            yield Attack(OUTSIDE, text)
    for wrong in known.others[:2]:
        for joiner in (*ends, ", ", " or "):
            both = own.around(f"{answer}{joiner}{wrong}")
            yield from _reached(RIGHT_FIRST, both, answer, known, own)
            both = own.around(f"{wrong}{joiner}{answer}")
            yield from _reached(RIGHT_LAST, both, answer, known, own)


def _used_again(answer: str, fields: Mapping[str, Any]) -> Iterator[str]:
    """The answer with some given number used once more, to the same value.

    Only if the answer is an expression that uses each number of some field exactly once: then using
    one again is most likely against the rules, and a grader forgets to count.
    """
    used = sorted(map(int, re.findall(r"\d+", answer)))
    lists = [value for value in fields.values() if isinstance(value, (list, tuple))]
    if not re.search(r"[-+*/]", answer) or not any(_numbers(given) == used for given in lists):
        return
    for number in dict.fromkeys(n for n in used if n):
        yield f"({answer})*{number}/{number}"
        yield f"({answer})+{number}-{number}"


def _numbers(given: Sequence[Any]) -> list[int]:
    """The numbers of a list in order; empty if it holds anything else."""
    whole = all(isinstance(n, int) and not isinstance(n, bool) for n in given)
    return sorted(given) if whole else []


def conventions(known: Known, own: Wrapping) -> Iterator[Attack]:
    """Two whole answers in a row. A grader must take one of them; which one is its own affair."""
    if known.answer is None or own.is_plain:
        return
    right = own.around(known.answer)
    for wrong in known.others[:1]:
        first, last = f"{right}\n{own.around(wrong)}", f"{own.around(wrong)}\n{right}"
        yield from _reached("the first of several answers", first, known.answer, known, own)
        yield from _reached("the last of several answers", last, known.answer, known, own)


def _reached(name: str, text: str, answer: str, known: Known, own: Wrapping) -> Iterator[Attack]:
    """The attack as far as a model can write it: up to the first stop string.

    If only the right answer, or a wrong one by itself, is left, this is no attack of its kind.
    """
    ends = [text.find(stop) + len(stop) for stop in known.stop if stop and stop in text]
    cut = text[: min(ends)] if ends else text
    honest = (own.around(answer).strip(), f"{own.opening}{answer}".strip())
    if cut == text or (answer in cut and cut.strip() not in honest):
        yield Attack(name, cut)


def huge(own: Wrapping) -> Iterator[Attack]:
    """Texts of a million characters, and deeply nested ones."""
    contents = {
        "digits": "9" * 1_000_000,
        "open brackets": "(" * 1_000_000,
        "nested brackets": "(" * 50_000 + "1" + ")" * 50_000,
        "nested lists": "[" * 100_000 + "]" * 100_000,
        "nested braces": "{" * 50_000 + "}" * 50_000,
        "minus signs": "-" * 1_000_000 + "1",
        "sums": "1+" * 100_000 + "1",
        "spaces": " " * 1_000_000 + "x",
    }
    for text in ("a" * 1_000_000, "\n" * 1_000_000, "</think>" * 125_000):
        yield Attack("a huge text", text)
    for content in contents.values():
        yield Attack("a huge text", own.around(content))
    for part in (own.opening, own.closing, own.around("")):
        if part.strip():  # as much as a model can write; more is slow for most patterns
            yield Attack("a huge text", part * (30_000 // len(part)))
