"""How a task's answers are wrapped, such as in tags or a box: its own solutions show it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple


class Wrapping(NamedTuple):
    """The text before and after an answer.

    >>> Wrapping("</think><answer>", "</answer>").around("42")
    '</think><answer>42</answer>'
    """

    opening: str
    closing: str

    def around(self, content: str) -> str:
        """`content` as an answer: between the opening and the closing."""
        return f"{self.opening}{content}{self.closing}"

    @property
    def is_plain(self) -> bool:
        """Whether an answer has nothing around it, except perhaps the end of the thinking."""
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
    """The wrapping that all solutions share, the whole wrapping of each solution, and the answers.

    Tags, a box, a code fence or `####` are looked for first. Otherwise the wrapping is what all
    solutions begin and end with.

    >>> shared, each, answers = unwrap(["It is 3.", "It is 18."])
    >>> shared, answers
    (Wrapping(opening='It is ', closing='.'), ['3', '18'])
    """
    spans = _by_pattern(solutions) or _by_comparison(solutions)
    each = []
    answers = []
    for text, (start, end) in zip(solutions, spans, strict=True):
        each.append(Wrapping(text[:start], text[end:]))
        answers.append(text[start:end])

    opening = _common_suffix([wrapping.opening for wrapping in each])
    if any(wrapping.opening != opening for wrapping in each):  # drop half a word of the thinking
        opening = re.sub(r"^[^\n<#\\`]*", "", opening) or opening.lstrip()
    closing = _common_prefix([wrapping.closing for wrapping in each])
    return Wrapping(opening, closing), each, answers


def _by_pattern(solutions: Sequence[str]) -> list[tuple[int, int]] | None:
    """The span of the last answer of each solution, if all are wrapped in the same usual way."""
    for pattern in PATTERNS:
        matches = [list(re.finditer(pattern, text, re.DOTALL)) for text in solutions]
        if matches and all(matches):
            return [_span_without_spaces(of_solution[-1]) for of_solution in matches]
    return None


def _span_without_spaces(match: re.Match[str]) -> tuple[int, int]:
    """The span of the group `answer`, without the spaces at its ends."""
    start, end = match.span("answer")
    answer = match["answer"]
    spaces_before = len(answer) - len(answer.lstrip())
    spaces_after = len(answer) - len(answer.rstrip())
    return start + spaces_before, end - spaces_after


def _by_comparison(solutions: Sequence[str]) -> list[tuple[int, int]]:
    """The span in which each solution differs from the others, in whole words.

    If there is only one solution, it is all that follows the thinking.
    """
    if len(set(solutions)) < 2:
        return [(_end_of_thinking(text), len(text)) for text in solutions]

    prefix = re.sub(r"[\w.,(-]+\Z", "", _common_prefix(solutions))
    rest = [text[len(prefix) :] for text in solutions]
    suffix = re.sub(r"\A[\w,)%]+", "", _common_suffix(rest))
    return [(len(prefix), len(text) - len(suffix)) for text in solutions]


def _end_of_thinking(text: str) -> int:
    """The index that follows the last `</think>`, or 0 without one."""
    start = text.rfind("</think>")
    return start + len("</think>") if start >= 0 else 0


def _common_prefix(texts: Sequence[str]) -> str:
    """What all of these texts begin with."""
    first, last = min(texts), max(texts)  # all others lie between them in sorted order
    pairs = enumerate(zip(first, last, strict=False))
    differing = (index for index, (one, other) in pairs if one != other)
    return first[: next(differing, len(first))]


def _common_suffix(texts: Sequence[str]) -> str:
    """What all of these texts end with."""
    return _common_prefix([text[::-1] for text in texts])[::-1]


def same(one: str, other: str) -> bool:
    """Whether two answers are equal, as numbers or as text. Case, spaces and dots do not count.

    >>> same("1,000", "$1000.0")
    True
    """
    return _normal(one) == _normal(other)


def _normal(answer: str) -> object:
    """An answer in a form that can be compared: a number if possible, else text."""
    text = re.sub(r"\s+", "", answer).strip("()[]{}.$\"'").casefold().replace(",", "")
    try:
        return float(text) if len(text) < 300 else text
    except ValueError:
        return text
