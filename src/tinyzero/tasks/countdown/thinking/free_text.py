"""Thinking in free text, by rules: what is computed is derived exactly, what is said of it is told by its words.

A text is read once, sentence by sentence. Each chain of arithmetic is traced back to the given numbers; verdicts,
turns, goals and surrender are cues in the words around it, each counted at most once a sentence. The rules are
calibrated on labelled traces, and docs/behaviours.md says how well they agree with them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from tinyzero.tasks.arithmetic.chains import Chain, chains, fold, is_true
from tinyzero.tasks.arithmetic.expressions import (
    Expression,
    Number,
    canonical,
    leaves,
    subexpressions,
    value,
)
from tinyzero.tasks.base import Event
from tinyzero.tasks.countdown.thinking import cues

PATIENCE = 2  # sentences without arithmetic after which a verdict is on nothing in particular

ONCE = ("backtrack", "subgoal", "backward", "selfcheck", "giveup")
"""Kinds that are counted once a sentence; the others are exact, given the words."""

_SENTENCE = re.compile(r"[^\s.;!?](?:[^\n.;!?]|[.;!?]+(?![.;!?\s]|$)){0,500}[.;!?]*")
_DIGIT = re.compile(r"\d")
_LETTER = re.compile(r"[^\W\d_]")


@dataclass
class Work:
    """Something worked out: a full attempt, or a result on the way to one."""

    start: int
    end: int
    form: str  # canonical; over the given numbers where it can be traced back to them
    stated: Number | None
    clock: int
    legal: bool = False
    hits: bool = False
    judged: str = ""

    def taken(self, target: int) -> bool:
        """Whether it passes for a solution: a yes, or the target as its value and no word against it."""
        return self.judged == "yes" or (not self.judged and self.legal and self.stated == target)


class Derived(NamedTuple):
    """An expression traced back to the given numbers."""

    expression: Expression
    full: bool  # each given number is used exactly once
    results: list[Number]  # the earlier results in it


def free_events(numbers: Sequence[int], target: int, thinking: str) -> list[Event]:
    """What happens in the thinking, in the order it is read."""
    reader, text = _Reader(numbers, target), fold(thinking)
    for match in _SENTENCE.finditer(text):
        reader.read(match[0], match.start())
    return reader.events + [
        Event("claim", work.start, work.end, work.form) for work in reader.silent_claims()
    ]


class _Reader:
    """What is known after the sentences read so far."""

    def __init__(self, numbers: Sequence[int], target: int) -> None:
        self.given, self.target = Counter[Number](numbers), target
        self.events: list[Event] = []
        self.known: dict[
            Number, tuple[Expression, int]
        ] = {}  # results: what they are made of, and when
        self.attempts: dict[str, Work] = {}
        self.work: Work | None = None  # the latest
        self.tried: Work | None = None  # the latest attempt
        self.open: Expression | None = None  # proposed, and its value not yet stated
        self.last: Number | None = None  # the latest result
        self.missed = False  # the line of work led nowhere
        self.goals: list[int] = []  # the subgoals not made yet, by their places among the events
        self.turned = False  # it is said that it is given up
        self.claimed = False  # something got a yes
        self.checking = False  # a check is announced
        self.age = 0  # sentences since the latest arithmetic
        self.clock = 0  # chains so far

    def read(self, sentence: str, start: int) -> None:
        """One sentence, which stands at `start`."""
        self.sentence, self.start, self.said = sentence, start, set[str]()
        found = list(chains(sentence, self.last)) if _DIGIT.search(sentence) else []
        self.checking = cues.CHECK.search(sentence) is not None or (self.checking and self.age > 0)
        self.age += _LETTER.search(sentence) is not None
        self.aim(found)
        acts: list[tuple[int, Callable[[Any], None], Any]] = [
            (chain.start, self.compute, chain) for chain in found
        ]
        if found or (self.work and self.age <= PATIENCE):
            for pattern, judge in ((cues.NO, self.deny), (cues.YES, self.affirm)):
                said = (match for match in pattern.finditer(sentence) if not _within(match, found))
                acts += [(match.start(), judge, match) for match in said]
            acts += [
                (match.start(), self.reject, match) for match in cues.REJECTED.finditer(sentence)
            ]
        if found or self.work:
            acts += [(match.start(), self.turn, match) for match in cues.TURN.finditer(sentence)]
        for _, act, what in sorted(acts, key=lambda act: act[0]):
            act(what)
        if not self.claimed:
            for match in cues.SURRENDER.finditer(sentence):
                if cues.number(match) in (None, self.target):
                    self.emit("giveup", *match.span())

    def silent_claims(self) -> list[Work]:
        """What is taken for a solution without a yes; at the very end, even what uses other numbers."""
        found = [
            work for work in self.attempts.values() if not work.judged and work.taken(self.target)
        ]
        last = self.work
        ends = (
            last is not None and not last.legal and not last.judged and last.stated == self.target
        )
        return [*found, last] if last is not None and ends else found

    def emit(self, kind: str, left: int, right: int, detail: str = "") -> None:
        """An event at a place of the sentence; a cue in words counts once a sentence."""
        if kind in ONCE and kind in self.said:
            return
        self.said.add(kind)
        self.events.append(Event(kind, self.start + left, self.start + right, detail))

    def compute(self, chain: Chain) -> None:
        """A chain of arithmetic: its steps, and what they make of the given numbers."""
        span, parts = (chain.start, chain.end), chain.parts
        if parts[0] is None:
            if self.open is None and len(parts) == 2 and not isinstance(parts[1], tuple):
                if parts[1] == self.target and self.work and self.work.stated == self.target:
                    self.judge("yes", *span)
                return
            parts = [self.open, *parts[1:]] if self.open is not None else parts[1:]
            chain = chain._replace(parts=parts)
        for left, right in chain.steps:
            self.emit("step", *span)
            if not is_true(left, right):
                self.emit("slip", *span)
        if not chain.expressions:
            return
        self.clock += 1
        self.age = 0
        if self.is_backward(parts):
            self.emit("backward", *span)
            return
        self.open = None
        self.work_out(chain.expressions, chain.stated, span)

    def work_out(
        self, expressions: list[Expression], stated: Number | None, span: tuple[int, int]
    ) -> None:
        """Expressions of one value, stated perhaps; the first one that uses all numbers counts, or else any."""
        traced = [
            (derived, expression)
            for expression in expressions
            if (derived := self.derive(expression))
        ]
        derived = next((one for one, _ in traced if one.full), traced[0][0] if traced else None)
        if self.goals:
            self.reach(
                [
                    part
                    for _, expression in traced
                    for part in (expression, *subexpressions(expression))
                ],
                span[0],
            )
        if self.missed and not self.turned and not (derived and self.last in derived.results):
            self.emit("backtrack", *span, "silent")
        self.missed = self.turned = False
        if stated is None:
            self.open = expressions[0]
        form = canonical(derived.expression if derived else expressions[0])
        work = Work(self.start + span[0], self.start + span[1], form, stated, self.clock)
        if derived and derived.full:
            self.attempt(work, derived, anew=len(expressions) > 1)
            work = self.tried = self.attempts[form]
            self.missed = work.stated is not None and work.stated != self.target
        self.work = work
        if stated is not None:
            self.last = stated
            if derived:
                self.known[stated] = (derived.expression, self.clock)
        if derived and len(expressions) > 1:  # what a bracket comes to is seen without being said
            for part in subexpressions(derived.expression):
                if (inner := value(part)) is not None:
                    self.known.setdefault(inner, (part, 0))

    def attempt(self, work: Work, derived: Derived, anew: bool) -> None:
        """A full attempt: a new one, an old one again, or the solution checked. `anew`: worked out, not quoted."""
        span = (work.start - self.start, work.end - self.start)
        old = self.attempts.get(work.form)
        if old and old.taken(self.target):
            if (
                anew
                or self.checking
                or any(self.known[result][1] > old.clock for result in derived.results)
            ):
                self.emit("selfcheck", *span)
            return
        if (
            old and old.stated is None and not old.judged
        ):  # it was proposed, and this goes on with it
            old.stated = work.stated
            return
        exact = value(derived.expression)
        work.legal, work.hits = True, exact == self.target
        self.emit("attempt", *span, str(exact))
        if work.hits:
            self.emit("right", *span)
        if old:
            self.emit("repeat", *span)
        self.attempts[work.form] = work

    def derive(self, expression: Expression) -> Derived | None:
        """The expression over the given numbers, or None where they do not suffice.

        A number that was given and is a result too is read in the way that uses all numbers, if there is one:
        first only the latest result as a result, then none that is given, then all.
        """
        best = None
        several = any(number in self.known for number in leaves(expression))
        for results in ({self.last}, set[Number](), self.known) if several else (self.known,):
            left, used = self.given.copy(), list[Number]()
            traced = self.trace(expression, results, left, used)
            if traced is not None:
                full = not +left
                best = Derived(traced, full, used) if full or best is None else best
                if full:
                    break
        return best

    def trace(
        self,
        expression: Expression,
        results: Container[Number | None],
        left: Counter[Number],
        used: list[Number],
    ) -> Expression | None:
        """`derive` under one reading; numbers are taken out of `left`, and results noted in `used`."""
        if isinstance(expression, tuple):
            one = self.trace(expression[1], results, left, used)
            other = self.trace(expression[2], results, left, used) if one is not None else None
            return None if one is None or other is None else (expression[0], one, other)
        given = left[expression] > 0
        if expression in self.known and (expression in results or not given):
            known = self.known[expression][0]
            needed = Counter(leaves(known))
            if needed <= left:
                left -= needed
                used.append(expression)
                return known
        if given:
            left[expression] -= 1
            return expression
        return None

    def is_backward(self, parts: Sequence[Expression | None]) -> bool:
        """Whether the target is an operand though nothing gave it, or is split into what is not there yet."""
        target = self.target
        operands = [number for part in parts if isinstance(part, tuple) for number in leaves(part)]
        if target in operands and target not in self.given and target not in self.known:
            return True
        supposed = parts[0] == target or cues.HYPOTHESIS.search(self.sentence) is not None
        if target in parts:
            return supposed and any(n not in self.given and n not in self.known for n in operands)
        return False

    def aim(self, found: Sequence[Chain]) -> None:
        """Numbers that the sentence sets out to reach, and words for reasoning from the target."""
        for match in cues.SUBGOAL.finditer(self.sentence):
            number = cues.number(match)
            if number != self.target and number not in self.given and not _within(match, found):
                if "subgoal" not in self.said:
                    self.goals.append(len(self.events))
                self.emit("subgoal", *match.span(), str(number))
        for match in cues.BACKWARD.finditer(self.sentence):
            if cues.number(match) in (None, self.target):
                self.emit("backward", *match.span())

    def reach(self, made: Sequence[Expression], start: int) -> None:
        """What is made, at a place of the sentence, is noted with the subgoals named before it."""
        values = {str(value(part)) for part in made}
        for i in self.goals.copy():
            goal = self.events[i]
            if goal.detail in values and goal.end <= self.start + start:
                self.events[i] = goal._replace(detail=f"{goal.detail} made")
                self.goals.remove(i)

    def deny(self, match: re.Match[str]) -> None:
        """Words that say no."""
        if cues.number(match) in (None, self.target):
            self.judge("no", *match.span())

    def affirm(self, match: re.Match[str]) -> None:
        """Words that say yes: of the target, or else of a result that is stated to be the target."""
        before = self.sentence[max(0, match.start() - 25) : match.start()]
        if cues.number(match) not in (None, self.target) or cues.NEGATED.search(before + match[0]):
            return
        if before.endswith("to ") or self.sentence.rstrip().endswith(
            "?"
        ):  # what is yet to be reached, or asked
            return
        if self.work and (
            cues.EXPLICIT.search(match[0]) or self.work.stated == self.target or self.work.hits
        ):
            self.judge("yes", *match.span())

    def judge(self, verdict: str, left: int, right: int) -> None:
        """A verdict on the latest work, unless it was said before."""
        work, tried = self.work, self.tried
        simplified = tried and tried.hits and tried.stated is None and not tried.judged
        if simplified and work and not work.legal and work.stated == self.target:
            work = tried  # worked out in ways that are not followed here
        if work is None or self.age > PATIENCE or work.judged == verdict:
            return
        work.judged = verdict
        self.emit("verification", left, right, verdict)
        if (verdict == "yes") != work.hits:
            self.emit("misjudged", left, right, verdict)
        if verdict == "yes":
            self.claimed = True
            self.emit("claim", left, right, work.form)
        self.missed = verdict == "no" and not self.turned

    def turn(self, match: re.Match[str]) -> None:
        """Words that leave what was worked on, once until something is worked out again."""
        checks = cues.CHECK.search(self.sentence) and self.work and self.work.taken(self.target)
        vague = cues.VAGUE.match(match[0]) and not self.missed
        if self.work and not self.turned and not checks and not vague:
            self.emit("backtrack", *match.span(), "said")
            self.turned, self.missed = True, False

    def reject(self, match: re.Match[str]) -> None:
        """Words that say that a result is of no use for another reason than its value."""
        self.missed = self.missed or (self.work is not None and self.age <= 1 and not self.turned)


def _within(match: re.Match[str], found: Sequence[Chain]) -> bool:
    return any(chain.start < match.end() and match.start() < chain.end for chain in found)
