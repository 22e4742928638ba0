"""Thinking in free text, read by rules: the arithmetic exactly, the rest by the words around it.

A text is read once, sentence by sentence. Each chain of arithmetic is traced back to the given
numbers. Verdicts, backtracks, goals and giving up are found by cues, which are words around the
arithmetic; a cue counts at most once per sentence. The rules were calibrated on labelled texts, and
docs/behaviours.md has the agreement with a reader.
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

PATIENCE = 2  # sentences without arithmetic, after which a verdict is about nothing in particular

ONCE = ("backtrack", "subgoal", "backward", "selfcheck", "giveup")
"""Kinds that count once per sentence, because words find them; the other kinds are exact."""

_SENTENCE = re.compile(r"[^\s.;!?](?:[^\n.;!?]|[.;!?]+(?![.;!?\s]|$)){0,500}[.;!?]*")
_OPEN_ANSWER = re.compile(r"^[ \t]{0,8}<answer>", re.MULTILINE)
_DIGIT = re.compile(r"\d")
_WHOLE = re.compile(r"(?<![\d.])\d{1,9}(?![\d.])")
_LETTER = re.compile(r"[^\W\d_]")


@dataclass
class Work:
    """Something that was worked out: a full attempt, or a result on the way to one."""

    start: int
    end: int
    form: str
    """Canonical form, over the given numbers if it can be traced back to them."""
    stated: Number | None
    """The value that the text states, or None if it states none."""
    clock: int
    """How many chains of arithmetic came before it."""
    grounded: bool
    """Whether it works with nothing but given numbers and results of them."""
    legal: bool = False
    """Whether it is a full attempt."""
    hits: bool = False
    """Whether its exact value is the target."""
    judged: str = ""
    """The latest verdict, "yes" or "no"; empty without one."""

    def taken(self, target: int) -> bool:
        """Whether the text accepts it as the solution.

        It does with a yes, or if it states the target as the value and does not deny it.
        """
        return self.judged == "yes" or (not self.judged and self.legal and self.stated == target)


class Derived(NamedTuple):
    """An expression traced back to the given numbers."""

    expression: Expression
    full: bool
    """Whether each given number is used exactly once."""
    results: list[Number]
    """The earlier results in it."""


def free_events(numbers: Sequence[int], target: int, thinking: str) -> list[Event]:
    """The events in a thinking, in the order in which they are read."""
    reader = _Reader(numbers, target)
    for match in _SENTENCE.finditer(fold(_before_answer(thinking))):
        reader.read(match[0], match.start())

    claims = [Event("claim", work.start, work.end, work.form) for work in reader.silent_claims()]
    return reader.events + claims


class _Reader:
    """Reads sentence after sentence, and keeps what is known so far."""

    def __init__(self, numbers: Sequence[int], target: int) -> None:
        self.given = Counter[Number](numbers)
        self.target = target
        self.events: list[Event] = []

        # Results, each with the expression that made it and the clock at that time.
        self.known: dict[Number, tuple[Expression, int]] = {}
        # Given numbers and stated results of them, with both signs.
        self.usable = set[Number](numbers) | {-number for number in numbers}
        self.stated = set[Number]()  # every value that the text has stated
        self.attempts: dict[str, Work] = {}  # by canonical form
        self.work: Work | None = None  # the latest
        self.tried: Work | None = None  # the latest attempt
        self.open: Expression | None = None  # proposed, but its value is not stated yet
        self.last: Number | None = None  # the latest result

        self.missed = False  # the current line of work failed
        self.turned = False  # the text says that it gives this line of work up
        self.claimed = False  # something got a yes
        self.checking = False  # a check is announced
        self.goals: list[int] = []  # indices of the events of subgoals that are not made yet
        self.age = 0  # sentences since the latest arithmetic
        self.clock = 0  # chains of arithmetic so far

    def read(self, sentence: str, start: int) -> None:
        """Read one sentence, which begins at `start` in the text."""
        self.sentence = sentence
        self.start = start
        self.said = set[str]()
        sentence_chains = list(chains(sentence, self.last)) if _DIGIT.search(sentence) else []
        self.checking = cues.CHECK.search(sentence) is not None or (self.checking and self.age > 0)
        self.age += _LETTER.search(sentence) is not None

        self.find_goals(sentence_chains)
        for _, act, argument in sorted(self.acts(sentence_chains), key=lambda act: act[0]):
            act(argument)

        if not self.claimed:
            for match in cues.SURRENDER.finditer(sentence):
                if cues.number(match) in (None, self.target):
                    self.emit("giveup", *match.span())

    def acts(
        self, sentence_chains: Sequence[Chain]
    ) -> list[tuple[int, Callable[[Any], None], Any]]:
        """What the sentence does: the index of each act, its method, and the argument."""
        sentence = self.sentence
        acts: list[tuple[int, Callable[[Any], None], Any]] = [
            (chain.start, self.compute, chain) for chain in sentence_chains
        ]

        if sentence_chains or (self.work and self.age <= PATIENCE):
            for pattern, judge in ((cues.NO, self.deny), (cues.YES, self.affirm)):
                for match in pattern.finditer(sentence):
                    if not (
                        _overlaps(match, sentence_chains)
                        or self.is_quoted(match.start(), sentence_chains)
                    ):
                        acts.append((match.start(), judge, match))
            for match in cues.REJECTED.finditer(sentence):
                acts.append((match.start(), self.reject, match))

        if sentence_chains or self.work:
            for match in cues.TURN.finditer(sentence):
                acts.append((match.start(), self.turn, match))
        return acts

    def is_quoted(self, index: int, sentence_chains: Sequence[Chain]) -> bool:
        """Whether the sentence repeats the question at `index`, without arithmetic since then."""
        starts = [match.start() for match in cues.QUOTED.finditer(self.sentence, 0, index)]
        return bool(starts) and not any(
            starts[-1] <= chain.start < index for chain in sentence_chains
        )

    def silent_claims(self) -> list[Work]:
        """What the text accepts as a solution without a yes.

        At the very end that may even be a result that uses other numbers.
        """
        accepted = [
            work for work in self.attempts.values() if not work.judged and work.taken(self.target)
        ]
        last = self.work
        if last is None or last.legal or last.judged or last.stated != self.target:
            return accepted
        return [*accepted, last]

    def emit(self, kind: str, left: int, right: int, detail: str = "") -> None:
        """Add an event at these indices; a kind in ONCE counts once per sentence."""
        if kind in ONCE and kind in self.said:
            return
        self.said.add(kind)
        self.events.append(Event(kind, self.start + left, self.start + right, detail))

    def compute(self, chain: Chain) -> None:
        """Take in a chain of arithmetic: its steps, and what they make of the given numbers."""
        span = (chain.start, chain.end)
        parts = chain.parts
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
        """Take in expressions that are said to be equal, and their value if it is stated.

        The first one that uses all given numbers counts, or else the first that is made of them.
        """
        grounded = any(self.is_grounded(leaves(expression)) for expression in expressions)
        traced = []
        for expression in expressions:
            if trace := self.derive(expression):
                traced.append((trace, expression))
        fallback = traced[0][0] if traced else None
        derived = next((trace for trace, _ in traced if trace.full), fallback)

        if self.goals:
            made: list[Expression] = []
            for _, expression in traced:
                made += (expression, *subexpressions(expression))
            self.reach(made, span[0])

        if grounded:
            continues = derived is not None and self.last in derived.results
            if self.missed and not self.turned and not continues:
                self.emit("backtrack", *span, "silent")
            self.missed = self.turned = False
        if stated is None:
            self.open = expressions[0]

        form = canonical(derived.expression if derived else expressions[0])
        left, right = self.start + span[0], self.start + span[1]
        work = Work(left, right, form, stated, self.clock, grounded)
        if derived and derived.full:
            self.attempt(work, derived, worked_out=len(expressions) > 1)
            work = self.tried = self.attempts[form]
            self.missed = work.stated is not None and work.stated != self.target
        self.work = work

        if stated is not None:
            self.last = stated
            self.stated.add(stated)
            if grounded:
                self.usable |= {stated, -stated}
            if derived:
                self.known[stated] = (derived.expression, self.clock)
        if derived and len(expressions) > 1:  # the value of a bracket is known without being stated
            for part in subexpressions(derived.expression):
                if (inner := value(part)) is not None:
                    self.known.setdefault(inner, (part, 0))

    def attempt(self, work: Work, derived: Derived, worked_out: bool) -> None:
        """Take in a full attempt: a new one, a repeated one, or a check of the solution.

        `worked_out` is False if the attempt is only quoted.
        """
        span = (work.start - self.start, work.end - self.start)
        old = self.attempts.get(work.form)

        if old and old.taken(self.target):
            has_new_results = any(self.known[result][1] > old.clock for result in derived.results)
            if worked_out or self.checking or has_new_results:
                self.emit("selfcheck", *span)
            return
        if old and old.stated is None and not old.judged:  # proposed before, and completed here
            old.stated = work.stated
            return

        exact = value(derived.expression)
        work.legal = True
        work.hits = exact == self.target
        self.emit("attempt", *span, str(exact))
        if work.hits:
            self.emit("right", *span)
        if old:
            self.emit("repeat", *span)
        self.attempts[work.form] = work

    def derive(self, expression: Expression) -> Derived | None:
        """The expression over the given numbers, or None if it is not made of them.

        A number may be given and be an earlier result too. Then the reading that uses all given
        numbers counts: first only the latest result is read as a result, then no given number is,
        then all of them are.
        """
        best = None
        has_results = any(number in self.known for number in leaves(expression))
        readings = ({self.last}, set[Number](), self.known) if has_results else (self.known,)
        for results in readings:
            left = self.given.copy()
            used: list[Number] = []
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
        """`derive` with one reading: `results` are the numbers to be read as earlier results.

        Numbers that are used are taken out of `left`, and earlier results are added to `used`.
        """
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

    def is_grounded(self, operands: Sequence[Number]) -> bool:
        """Whether all operands are given numbers or results of them, whatever their signs.

        Each may be used more often than it is given: that is an error, but it is about the problem.
        """
        return all(number in self.usable or number in self.known for number in operands)

    def is_backward(self, parts: Sequence[Expression | None]) -> bool:
        """Whether the arithmetic starts from the target.

        It does if the target is an operand that nothing has made, or if it is split into numbers
        that are not there yet.
        """
        target = self.target
        operands: list[Number] = []
        for part in parts:
            if isinstance(part, tuple):
                operands += leaves(part)

        is_new = target not in self.given and target not in self.stated
        if target in operands and is_new:
            others = [number for number in operands if number != target]
            return self.is_grounded(others) or parts[-1] in self.given
        supposed = parts[0] == target or cues.HYPOTHESIS.search(self.sentence) is not None
        if target in parts:
            return supposed and any(
                number not in self.given and number not in self.known for number in operands
            )
        return False

    def is_astray(self, sentence_chains: Sequence[Chain]) -> bool:
        """Whether neither the latest work nor the sentence is about the problem's numbers."""
        work = self.work
        if work is None or work.grounded or work.stated == self.target:
            return False

        named = {int(digits) for digits in _WHOLE.findall(self.sentence)}
        return not sentence_chains and not named & {*self.given, self.target}

    def find_goals(self, sentence_chains: Sequence[Chain]) -> None:
        """Find the numbers that the sentence wants to reach, and reasoning from the target."""
        if self.is_astray(sentence_chains):
            return

        for match in cues.SUBGOAL.finditer(self.sentence):
            number = cues.number(match)
            is_new = number != self.target and number not in self.given
            if is_new and not _overlaps(match, sentence_chains):
                if "subgoal" not in self.said:
                    self.goals.append(len(self.events))
                self.emit("subgoal", *match.span(), str(number))

        for match in cues.BACKWARD.finditer(self.sentence):
            if cues.number(match) in (None, self.target):
                self.emit("backward", *match.span())

    def reach(self, made: Sequence[Expression], start: int) -> None:
        """Mark the earlier subgoals that are among the values `made` at `start` in the sentence."""
        values = {str(value(part)) for part in made}
        for index in self.goals.copy():
            goal = self.events[index]
            if goal.detail in values and goal.end <= self.start + start:
                self.events[index] = goal._replace(detail=f"{goal.detail} made")
                self.goals.remove(index)

    def deny(self, match: re.Match[str]) -> None:
        """Take in words that say no, unless they are about another number than the target."""
        if cues.number(match) in (None, self.target):
            self.judge("no", *match.span())

    def affirm(self, match: re.Match[str]) -> None:
        """Take in words that say yes to the target, or to a result that is the target."""
        before = self.sentence[max(0, match.start() - 25) : match.start()]
        if cues.number(match) not in (None, self.target) or cues.NEGATED.search(before + match[0]):
            return
        is_wish_or_question = before.endswith("to ") or self.sentence.rstrip().endswith("?")
        if is_wish_or_question:
            return

        if self.work and (
            cues.EXPLICIT.search(match[0]) or self.work.stated == self.target or self.work.hits
        ):
            self.judge("yes", *match.span())

    def judge(self, verdict: str, left: int, right: int) -> None:
        """Take in a verdict on the latest work, unless the text has said it before."""
        work, tried = self.work, self.tried
        is_unfinished = tried and tried.hits and tried.stated is None and not tried.judged
        if is_unfinished and work and not work.legal and work.stated == self.target:
            work = tried  # the attempt was worked out in a way that is not followed here
        if work is None or not work.grounded or self.age > PATIENCE or work.judged == verdict:
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
        """Take in words that give up the current work; once, until new work begins."""
        is_check = cues.CHECK.search(self.sentence) and self.work and self.work.taken(self.target)
        is_vague = cues.VAGUE.match(match[0]) and not self.missed
        has_begun = self.work is not None and self.work.grounded
        if has_begun and not self.turned and not is_check and not is_vague:
            self.emit("backtrack", *match.span(), "said")
            self.turned = True
            self.missed = False

    def reject(self, match: re.Match[str]) -> None:
        """Take in words that reject a result for another reason than its value."""
        work = self.work
        rejects = work is not None and work.grounded and self.age <= 1 and not self.turned
        self.missed = self.missed or rejects


def _before_answer(thinking: str) -> str:
    """The text up to an `<answer>` that begins a line and is never closed.

    Inside a line, the tag is only mentioned: "I have to put it into <answer> tags."
    """
    closed = thinking.rfind("</answer>")
    opened = _OPEN_ANSWER.search(thinking, max(0, closed))
    return thinking[: opened.start()] if opened else thinking


def _overlaps(match: re.Match[str], sentence_chains: Sequence[Chain]) -> bool:
    """Whether a cue overlaps with some arithmetic of the sentence."""
    return any(chain.start < match.end() and match.start() < chain.end for chain in sentence_chains)
