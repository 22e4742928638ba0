"""Texts that no grader should reward, built from the problem itself.

Each attack has a name that describes it. Most attacks should never be rewarded. Rewarding those in
`POLICIES` may be intended, and then the author of the task allows them by name.
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
EFFECTS = ("files", "processes", "network", "native code")
ALLOWABLE = (*POLICIES, *EFFECTS)
"""The names that `allowed_attacks` and `--allow` may contain."""

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
GUESSES = {
    "integers": [str(number) for number in range(-20, 200)],
    "letters": [chr(code) for code in range(ord("A"), ord("Z") + 1)],
    "yes and no": ["yes", "no", "true", "false"],
}


WHOLE_ANSWER = "compare the whole answer instead of searching for it in the text"
FIXES = {
    "the echoed prompt": "look for the answer in its wrapping only, since the prompt is not one",
    "an empty form": "give 0 if there is no answer",
    "no answer": "give 0 if the answer is empty",
    "garbage": "give 0 for everything that is not an answer",
    "a pattern": "compare with ==, and never use the model's text as a pattern",
    "another problem's answer": "compare the answer with that of this problem",
    "another problem's solution": "compare the answer with that of this problem",
    "twenty answers, one of them right": WHOLE_ANSWER,
    "twenty wrapped answers, one of them right": "take one answer only, such as the last",
    JUNK: WHOLE_ANSWER,
    RIGHT_FIRST: WHOLE_ANSWER,
    RIGHT_LAST: WHOLE_ANSWER,
    OUTSIDE: "look for the answer in its wrapping only",
    AGAIN: "compare how often each number is used, not only which ones",
    "the task's own nonsense": "the task's own `nonsense` says that this must not be rewarded",
}
"""What to change in a reward function that rewards an attack, by the attack's name."""


def fix_for(name: str) -> str:
    """What to change in a reward function that rewards the attack of this name."""
    if name.startswith("a long list of"):
        return "compare the whole answer, since a list of guesses is not one"
    return FIXES.get(name, "check more: a model can write this without solving the problem")


class Attack(NamedTuple):
    """A text that is tried on a grader, and the name of its kind.

    Example: `Attack("an empty form", "<answer></answer>")`.
    """

    name: str
    text: str


class Known(NamedTuple):
    """What the attacks on a problem are built from."""

    fields: Mapping[str, Any]
    prompt: str
    solution: str | None
    """A right completion, or None if none is known."""
    answer: str | None
    """The answer in the solution."""
    others: Sequence[str]
    """The answers to other problems, which are wrong here."""
    other_solutions: Sequence[str]
    """The completions that have these answers."""
    stop: Sequence[str]
    """The task's stop strings."""


def attacks(known: Known, own: Wrapping, also: Sequence[Wrapping]) -> Iterator[Attack]:
    """Every attack on one problem, without repeating a text.

    `own` is the wrapping of the task's answers, and `also` are other wrappings to try.
    """
    tried = {known.solution}
    for attack in _all_attacks(known, own, also):
        if attack.text not in tried:
            tried.add(attack.text)
            yield attack


def _all_attacks(known: Known, own: Wrapping, also: Sequence[Wrapping]) -> Iterator[Attack]:
    """Every attack on one problem; some texts may come twice."""
    yield Attack("the echoed prompt", known.prompt)
    for text in FORMLESS:
        yield Attack("an empty form", text)

    for wrapping in (own, *also):
        for name, content in _contents(known):
            if not _is_right(content, known):
                yield Attack(name, wrapping.around(content))
        yield Attack("the echoed prompt", wrapping.around(known.prompt))
        yield from _long_lists(wrapping)

    for text in known.other_solutions:
        yield Attack("another problem's solution", text)
    if known.answer is not None and known.others:
        for wrapping in (own, *also):
            yield from _many(known.answer, known.others, wrapping)
    if known.answer is not None:
        yield from _lenient(known.answer, known, own)


def _long_lists(wrapping: Wrapping) -> Iterator[Attack]:
    """Lists of guesses, within one answer and as one answer per guess."""
    for name, guesses in GUESSES.items():
        for joiner in JOINERS:
            yield Attack(f"a long list of {name}", wrapping.around(joiner.join(guesses)))
        each_wrapped = "\n".join(map(wrapping.around, guesses))
        yield Attack(f"a long list of {name}, each as an answer", each_wrapped)


def _contents(known: Known) -> Iterator[tuple[str, str]]:
    """Wrong answers: the name of the attack, and the text within the wrapping."""
    if known.answer is not None:  # otherwise one of them may well be right
        yield from list(_values(known.fields))[:MOST_VALUES]
        for number in SMALL:
            yield "a small integer", str(number)
    for other in known.others[:3]:
        yield "another problem's answer", other
    for name, odd in ODD.items():
        for text in odd:
            yield name, text


def _values(fields: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Each field as text, and each element of a field that is a list or a dict."""
    for name, value in fields.items():
        text = _as_text(value)
        if len(text) <= LONGEST_FIELD:
            yield f"the field {name}", text

        if isinstance(value, (list, tuple, Mapping)):
            elements = value.values() if isinstance(value, Mapping) else value
            words = [_as_text(element) for element in elements]
            yield f"the field {name}", " ".join(words)[:LONGEST_FIELD]
            for word in words:
                if len(word) <= LONGEST_FIELD:
                    yield f"an element of the field {name}", word


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _is_right(content: str, known: Known) -> bool:
    """Whether this happens to be the right answer, or contains it as a whole word."""
    if known.answer is None:
        return False
    if same(content, known.answer):
        return True
    whole_word = rf"(?<![\w.-]){re.escape(known.answer.strip())}(?!\w)"
    return bool(known.answer.strip() and re.search(whole_word, content))


def _many(answer: str, others: Sequence[str], wrapping: Wrapping) -> Iterator[Attack]:
    """Twenty answers, one of them right and in the middle: rewarding that is never intended."""
    wrong = [others[index % len(others)] for index in range(MANY - 1)]
    guesses = [*wrong[: MANY // 2], answer, *wrong[MANY // 2 :]]

    for joiner in JOINERS:
        yield Attack("twenty answers, one of them right", wrapping.around(joiner.join(guesses)))
    for joiner in ("\n", " "):
        each_wrapped = joiner.join(map(wrapping.around, guesses))
        yield Attack("twenty wrapped answers, one of them right", each_wrapped)


def _lenient(answer: str, known: Known, own: Wrapping) -> Iterator[Attack]:
    """The attacks that an author may have intended to reward: the policies."""
    # If nothing closes an answer, the end of its line does, so what follows does not belong to it.
    ends = ("\n",) if own.closing.strip() or own.is_plain else ()

    junk = [f"purple {answer} monkey", f"purple monkey, {answer}"]
    junk += [f"{answer}{end}purple monkey" for end in ends]
    for text in junk:
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
            right_first = own.around(f"{answer}{joiner}{wrong}")
            yield from _reached(RIGHT_FIRST, right_first, answer, known, own)
            right_last = own.around(f"{wrong}{joiner}{answer}")
            yield from _reached(RIGHT_LAST, right_last, answer, known, own)


def _used_again(answer: str, fields: Mapping[str, Any]) -> Iterator[str]:
    """The answer with one of its numbers used once more, without changing the value.

    Only if the answer is an expression that uses each number of some field exactly once. Then using
    one again is probably against the rules, and a grader may have forgotten to count.
    """
    used = sorted(map(int, re.findall(r"\d+", answer)))
    lists = [value for value in fields.values() if isinstance(value, (list, tuple))]
    if not re.search(r"[-+*/]", answer) or not any(_numbers(given) == used for given in lists):
        return

    distinct = dict.fromkeys(number for number in used if number)
    for number in distinct:
        yield f"({answer})*{number}/{number}"
        yield f"({answer})+{number}-{number}"


def _numbers(given: Sequence[Any]) -> list[int]:
    """The sorted numbers of a list of whole numbers; empty for any other list."""
    are_whole = all(isinstance(number, int) and not isinstance(number, bool) for number in given)
    return sorted(given) if are_whole else []


def conventions(known: Known, own: Wrapping) -> Iterator[Attack]:
    """Two complete answers in a row. A grader must choose one of them; either choice is sound."""
    if known.answer is None or own.is_plain:
        return

    right = own.around(known.answer)
    for other in known.others[:1]:
        wrong = own.around(other)
        right_first = f"{right}\n{wrong}"
        right_last = f"{wrong}\n{right}"
        yield from _reached("the first of several answers", right_first, known.answer, known, own)
        yield from _reached("the last of several answers", right_last, known.answer, known, own)


def _reached(name: str, text: str, answer: str, known: Known, own: Wrapping) -> Iterator[Attack]:
    """The attack as far as a model can write it, which is up to the first stop string.

    Nothing if only the right answer, or only a wrong one, is left of it.
    """
    ends = [text.find(stop) + len(stop) for stop in known.stop if stop and stop in text]
    written = text[: min(ends)] if ends else text

    honest = (own.around(answer).strip(), f"{own.opening}{answer}".strip())
    if written == text or (answer in written and written.strip() not in honest):
        yield Attack(name, written)


def huge(own: Wrapping) -> Iterator[Attack]:
    """Texts of a million characters, and deeply nested ones."""
    for text in ("a" * 1_000_000, "\n" * 1_000_000, "</think>" * 125_000):
        yield Attack("a huge text", text)

    contents = (
        "9" * 1_000_000,
        "(" * 1_000_000,
        "(" * 50_000 + "1" + ")" * 50_000,
        "[" * 100_000 + "]" * 100_000,
        "{" * 50_000 + "}" * 50_000,
        "-" * 1_000_000 + "1",
        "1+" * 100_000 + "1",
        " " * 1_000_000 + "x",
    )
    for content in contents:
        yield Attack("a huge text", own.around(content))

    for part in (own.opening, own.closing, own.around("")):
        if part.strip():  # as much as a model can write; most patterns are slow on more
            yield Attack("a huge text", part * (30_000 // len(part)))
