"""How a task's answers are wrapped, found by looking at its own solutions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple


class Wrapping(NamedTuple):
    """What stands before and after an answer, such as `</think><answer>` and `</answer>`."""

    opening: str
    closing: str

    def around(self, content: str) -> str:
        """`content` as an answer."""
        return f"{self.opening}{content}{self.closing}"

    @property
    def is_plain(self) -> bool:
        """Whether an answer stands by itself, but for the end of the thinking."""
        return not f"{self.opening}{self.closing}".replace("</think>", "").strip()


PLAIN = Wrapping("", "")
USUAL = (
    Wrapping("</think>\n<answer>", "</answer>"),
    Wrapping("<answer>", "</answer>"),
    Wrapping("\\boxed{", "}"),
    Wrapping("#### ", ""),
    Wrapping("```\n", "\n```"),
    Wrapping("</think>\n", ""),
    PLAIN,
)

PATTERNS = (
    r"<(?!think)(\w+)>(?P<answer>(?:(?!<\1>).)*)</\1>",
    r"\\boxed\{(?P<answer>(?:[^{}]|\{[^{}]*\})*)\}",
    r"```\w*\n(?P<answer>(?:(?!```).)*?)\n?```",
    r"####[ ]?(?P<answer>[^\n]*)",
)


def unwrap(solutions: Sequence[str]) -> tuple[Wrapping, list[Wrapping], list[str]]:
    """The wrapping that these solutions share, each one's own whole wrapping, and each one's answer.

    Tags, a box, a fence or `####` are looked for first. If there is none, what all solutions begin
    and end with is the wrapping. Example: of `["It is 3.", "It is 18."]` the shared wrapping is
    `Wrapping("It is ", ".")`, and the answers are `["3", "18"]`.
    """
    spans = _by_pattern(solutions) or _by_comparison(solutions)
    pairs = list(zip(solutions, spans, strict=True))
    each = [Wrapping(text[:start], text[end:]) for text, (start, end) in pairs]
    answers = [text[start:end] for text, (start, end) in pairs]

    opening = _common([one.opening[::-1] for one in each])[::-1]
    if any(one.opening != opening for one in each):  # not half a word of what was thought
        opening = re.sub(r"^[^\n<#\\`]*", "", opening) or opening.lstrip()
    closing = _common([one.closing for one in each])
    return Wrapping(opening, closing), each, answers


def _by_pattern(solutions: Sequence[str]) -> list[tuple[int, int]] | None:
    """Where the last answer of each solution is, if all are marked in the same way."""
    for pattern in PATTERNS:
        found = [list(re.finditer(pattern, text, re.DOTALL)) for text in solutions]
        if found and all(found):
            return [_without_spaces(matches[-1]) for matches in found]
    return None


def _without_spaces(match: re.Match[str]) -> tuple[int, int]:
    start, end = match.span("answer")
    answer = match["answer"]
    return start + len(answer) - len(answer.lstrip()), end - len(answer) + len(answer.rstrip())


def _by_comparison(solutions: Sequence[str]) -> list[tuple[int, int]]:
    """What differs between the solutions, in whole words; all of each if only one is known."""
    if len(set(solutions)) < 2:
        thought = [text.rfind("</think>") for text in solutions]
        starts = [at + len("</think>") if at >= 0 else 0 for at in thought]
        return [(start, len(text)) for start, text in zip(starts, solutions, strict=True)]
    prefix = re.sub(r"[\w.,(-]+\Z", "", _common(solutions))
    rest = [text[len(prefix) :] for text in solutions]
    suffix = _common([text[::-1] for text in rest])[::-1]
    suffix = re.sub(r"\A[\w,)%]+", "", suffix)
    return [(len(prefix), len(text) - len(suffix)) for text in solutions]


def _common(texts: Sequence[str]) -> str:
    """What all of these begin with."""
    first, last = min(texts), max(texts)  # in sorted order, all others lie between
    differ = (i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b)
    return first[: next(differ, len(first))]


def same(one: str, other: str) -> bool:
    """Whether two answers are the same one: as numbers, or as text but for case, spaces and dots."""
    return _plain(one) == _plain(other)


def _plain(answer: str) -> object:
    text = re.sub(r"\s+", "", answer).strip("()[]{}.$\"'").casefold().replace(",", "")
    try:
        return float(text) if len(text) < 300 else text
    except ValueError:
        return text
