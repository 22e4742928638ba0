"""What a check found: one line per kind of finding, with an input that shows it and the fix."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field

LONGEST_SHOWN = 100  # characters of a value
WINDOW = 1000  # characters in which repetitions are looked for
_REPEATED = re.compile(r"(.{1,40}?)\1{9,}", re.DOTALL)


@dataclass
class Finding:
    """One kind of finding: the first line about it, the fix, and where else it was found."""

    line: str
    fix: str
    seen_in: set[str] = field(default_factory=set)


class Findings:
    """Findings by kind, so that the same finding is reported once and not for every problem.

    `total` is the number of `things` (problems, or splits) that were looked at.

    >>> findings = Findings(total=5, things="problems")
    >>> for name in ("a", "b"):
    ...     findings.add("empty", name, f"the prompt of problem {name} is empty", "return text")
    >>> findings.lines()
    ['the prompt of problem a is empty (2 of 5 problems): return text']
    """

    def __init__(self, total: int, things: str) -> None:
        self.total = total
        self.things = things
        self._findings: dict[Hashable, Finding] = {}

    def add(self, kind: Hashable, name: str, line: str, fix: str) -> None:
        """Note a finding about the problem or split called `name`; only the first line is kept."""
        finding = self._findings.setdefault(kind, Finding(line, fix))
        finding.seen_in.add(name)

    def forget(self, kind: Hashable) -> None:
        """Forget the findings of this kind, because a later input will show more."""
        self._findings.pop(kind, None)

    def __iter__(self) -> Iterator[Hashable]:
        """The kinds, in the order in which they were found."""
        return iter(self._findings)

    def __len__(self) -> int:
        return len(self._findings)

    def line(self, kind: Hashable) -> str:
        """The line to print for a kind: what happens, how often, and what to change."""
        finding = self._findings[kind]
        seen = f"{len(finding.seen_in)} of {self.total} {self.things}"
        return f"{finding.line} ({seen}): {finding.fix}"

    def lines(self) -> list[str]:
        """One line per kind."""
        return [self.line(kind) for kind in self._findings]


def show(value: object) -> str:
    """A value in one short line. Repetitions in a long text are written as a product.

    >>> show("\\n9")
    "'\\\\n9'"
    >>> show("<answer>" + "9" * 1_000_000 + "</answer>")
    "'<answer>' + '9' * 1_000_000 + '</answer>'"
    """
    if isinstance(value, str) and len(value) > LONGEST_SHOWN:
        return _clipped(_as_products(value), len(value))
    try:
        text = repr(value)
    except BaseException:
        text = f"a {type(value).__name__} that cannot be shown"
    return _clipped(text, len(text))


def _as_products(text: str) -> str:
    """A Python expression for the beginning of `text`, in which repeated parts are products."""
    terms: list[str] = []
    end = 0
    while end < len(text) and len(" + ".join(terms)) <= LONGEST_SHOWN:
        match = _REPEATED.search(text, end, end + WINDOW)
        start = match.start() if match else min(end + WINDOW, len(text))
        if start > end:
            terms.append(repr(text[end:start]))
        end = start
        if match:
            run = re.compile(f"(?:{re.escape(match[1])})+").match(text, start)
            assert run is not None
            terms.append(f"{match[1]!r} * {len(run[0]) // len(match[1]):_}")
            end = run.end()

    return " + ".join(terms)


def _clipped(shown: str, length: int) -> str:
    """The beginning of what is shown, and how many characters there are, if it is long."""
    if len(shown) <= LONGEST_SHOWN:
        return shown
    return f"{shown[:80]}... ({length:,} characters)"
