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

from tinyzero.behaviours.chains import Chain, chains, fold, is_true
from tinyzero.behaviours.events import Event
from tinyzero.behaviours.expressions import Expression, Number, canonical, leaves, value

PATIENCE = 2  # sentences without arithmetic after which a verdict is on nothing in particular

ONCE = ("backtrack", "subgoal", "backward", "selfcheck", "giveup")
"""Kinds that are counted once a sentence; the others are exact, given the words."""

_SENTENCE = re.compile(r"(?:[^\n.;!?]|[.;!?]+(?![.;!?\s]|$)){1,500}[.;!?]*\n?|[.;!?\n]")


def _cue(*words: str, signs: str = "(?!)") -> re.Pattern[str]:
    """A pattern of phrases, which begin where a word does, and of signs, which stand anywhere."""
    return re.compile(rf"\b(?:{'|'.join(words)})|{signs}")


_N = r"\\?[\[($*]{0,2}\s{0,2}(?<!\d)(\d{1,9})(?!\d|\.\d)"  # a number that the code compares with the target
_AIM = (
    r"(?:(?:the|our|my|its) (?:[a-z]+ )?(?:target|goal|requirements?)"
    r"|(?:the|our) (?:desired|required|wanted|requested) \w+|the (?:number|value|result) (?:\w+ )?(?:we|i|asked|that)\b"
    r"|what (?:we|i|the puzzle|was) \w+)"
)
_NOT = r"(?:not|cannot|[a-z]{2,6}n't)"
_COMPARED = "short|more|less|fewer|above|below|over|under|larger|smaller|bigger|greater|higher|lower|away|off|high|low"
_MUCH = "one|two|three|four|five|six|seven|eight|nine|ten|much|even|still|far|way|well|slightly|just|a bit|a little"

_NO = _cue(
    rf"{_NOT}(?: \w+){{0,4}}? {_N}",
    rf"(?:than|need|want|exceeds|below|above|over|under|beyond|short of|from|nothing like|near)(?: still)? {_N}",
    r"too (?:high|low|big|small|large|much|little|many|few|far)\b",
    rf"{_NOT}(?: \w+){{0,2}} (?:work|help\w*|match|fit|right|correct|enough|valid|it\b|there\b|close\b|near\b|good\b|quite"
    r"|equal|satisf\w+|suffice|solution|answer|useful|the (?:target|one|goal|desired)|our target|what (?:we|i)\b)",
    r"(?:wrong|incorrect|fail(?:s|ed)|useless|nope|no good|no luck|dead end|way off|nowhere near|negative)\b",
    r"(?:overshoots?|undershoots?|falls? short|exceeds?|off by|miss(?:es|ing))\b|not (?:yet )?done\b",
    rf"(?:\d+|{_MUCH}) ?\w* (?:{_COMPARED})\b(?=\W*$|\s*[,.;!)]| (?:than )?(?:i|we|the|our|need\w*)\b)",
    rf"(?:{_COMPARED}) than (?:i|we|the|our|what|it|needed|required|desired|wanted)\b",
    r"(?:twice|half|double|above|below|from|near|close to) (?:the|our) target\b",
    r"(?:but|so|is|very) (?:still |just |pretty )?(?:close|almost|nearly|near|over|under)\b",
    r"no(?=\s*(?:[.,!)|;]|$|wait))",
    signs=rf"[,(:-] ?(?:still |just |pretty )?(?:close|almost|nearly|near|over|under)\b|[<>] ?{_N}|≠|!=|\\neq?\b|[✗✘❌]|(?<=\d) x$",
)
_SURELY = (
    r"(?: (?:exactly|precisely|indeed|truly|really|now|already|in fact|also|equal|to|the|our|target|number|value|of|result))*"
)
_YES = _cue(
    rf"(?<!target )(?<!goal )(?:is|are at|be|equals?|equal|reach(?:ed)?|hits?|got|arrived? at|obtain(?:ed)?|it's|that's)"
    rf"{_SURELY} {_N}",
    r"(?:is|are|equals?|match\w*|reach\w*|hit\w*|gives?|got|meets?|met|obtain\w*|satisf\w+|leads?|arrived?|at|equal to|on"
    rf"|achiev\w+|fits?|that's|it's)\b(?: (?!{_MUCH}|twice|half|double|not|than|from|near|close|off|too)[\w']+){{0,3}}? {_AIM}",
    rf"(?:{_AIM}|target|goal)(?: \w+)?(?: {_N})? (?:is |was |are |has been |have been )?(?:now )?"
    r"(?:reached|hit|met|achieved|obtained|satisfied)",
    rf"(?:so|thus|hence|and|then) {_N} is (?:reached|obtained|met)\b",
    r"(?:as|is) (?:desired|required|wanted|needed|(?:we|i) (?:want|need)\w*)\b|right on target\b|equals target\b|solves\b",
    r"(?:we(?:'ve| have)? (?:found|did it|have it)|i(?:'ve| have)? found|we(?: are|'re) (?:there|done))\b",
    r"(?:work(?:s|ed)?|it does|does it|checks out|holds|valid|good|fine|excellent|nice|aha)\b|ok\W*$",
    r"(?:correct|right|perfect|bingo|success|great|yes|yep|hooray|wonderful|done|solved|got it|found it|eureka)\b",
    r"(?:that's|that is|this is|there) (?:it|we go|it is)\b",
    signs=rf"^\W*(?:(?:and|so|yes|ah|ok|right|finally|then|thus|the result|now|oh)\b,? ?)*{_N}(?:\W*$|,| it is\b"
    r"| is (?:indeed |exactly |in fact )?(?:our|the|what|right|correct|reached|obtained)\b| = (?:the )?target)"
    r"|[✓✔✅]|==? target\b|, exactly\b",
)
_NEGATED = re.compile(r"\b(?:not|no|never|cannot)\b|n't\b")
_EXPLICIT = re.compile(r"\d|target|goal|desired|required|wanted|needed|what|number|answer|we have found|found it")
_TURN = _cue(
    r"(?:wait|hold on|hmm,? no|oh no|actually|alternatively|instead|otherwise|again|start(?:ing)? over|mov(?:e|ing) on)\b",
    r"(?:second thought|differently|oops|one more try|something else|different|scratch that|seems off|made a mistake|forgot)\b",
    r"another (?:\w+ )?(?:combination|way|approach|option|idea|possibility|try|thought|attempt|order|method)",
    r"(?:next|new) (?:option|idea|try|attempt|approach)\b|other (?:combination|way|option|order)s?\b",
    r"(?:go|going|get)\b.{0,30}\bback\b|back to\b|re(?:consider|visit|think)\b|re-?(?:compute|calculate|do)\b",
    r"(?:what|how) (?:about|else|if)\b",
    signs=r"^\W*or\b",
)
_CHECK = _cue("check", "double-?check", "verif", "confirm", "make sure", "to be sure", "recalculat", "substitut", "plug")
_REJECTED = _cue(
    r"(?:whole|integer|fraction|unused|left over|leftover|leaves?|twice|already used|used up|not used|is used|must be used)\b",
    r"only (?:be used )?once\b|have to use\b|(?:cannot|can't) use\b|without using\b",
)
_COUNTED = r"(?! (?:more )?(?:numbers|operations|operators|steps|times))"
_SUBGOAL = _cue(
    rf"(?:need|want|i'd like|would like|require|aim|i'm after|goal)s?\b[^.=\d]{{0,40}}?{_N}{_COUNTED}",
    rf"(?:to|can|could|should|must|have to|let's|let us|if i|and)(?: \w+){{0,4}}? (?:get|make|reach|form|find|produce"
    rf"|build|create|give|yield|have|come to|obtain|look for)(?: an?| the| to)? {_N}{_COUNTED}",
    rf"(?:getting|making|reaching|finding|looking for)(?: an?| the)? {_N}|{_N} (?:should|would)\b|(?:so|an?) {_N} is what\b",
    rf"(?:must|should|has to|have to|needs? to) (?:be|equal|sum to|multiply to)(?: an?)? {_N}",
)
_BACKWARD = _cue(
    r"work(?:ing)? back|start(?:ing)? (?:from|at|with) the (?:end|target|result)",
    rf"(?:factor|multiple|divisor)s? of {_N}|{_N} is (?:an? (?:factor|multiple|divisor)|divisible)\b"
    rf"|{_N} can be (?:made|written|split)\b",
    rf"(?:to|for)(?: (?:get|make|reach|obtain|have|form))? {_N}.{{0,60}}\b(?:need (?!to use|to find|to combine)"
    r"|have to (?!use)|must (?!use)|(?:could|might|can) (?:use|take))[^.\d]{0,25}\d",
)
_HYPOTHESIS = _cue("need", "want", "could", "can", "would", "might", "may", r"if\b", "should", "have to", "let", r"i'd\b")
_SURRENDER = _cue(
    r"(?:give|gave|giving) (?:up|in)\b|(?:impossible|not possible|unsolvable|stuck)\b|r[ua]n(?:ning)? out of\b",
    r"no (?:\w+ ){0,2}(?:solution|way|combination|expression|equation)\b",
    r"[a-z]{2,6}n't (?:think|believe|see)(?: \w+){0,3} (?:solution|way|possible|how)\b",
    r"(?:can(?:not|'t| not)|could(?: not|n't)|unable to|not able to|failed to|haven't|didn't)(?: \w+){0,2}"
    rf" (?:find|found|get|reach|solve|do|make|see|be (?:solved|done|made|reached))\b(?: to)?(?: {_N})?",
    r"(?:(?:best|all) i can|best guess|(?:closest|nearest)(?: one)?|stop here|leave it|settle for)\b",
    r"i(?:'ll| will) (?:just )?(?:guess|go with)\b",
)


@dataclass
class Work:
    """Something worked out: a full attempt, or a result on the way to one."""

    start: int
    end: int
    form: str | None  # canonical, over the given numbers; None where an operand comes from nowhere
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
    silent = [work for work in reader.attempts.values() if not work.judged and work.taken(target)]
    return reader.events + [Event("claim", work.start, work.end, work.form or "") for work in silent]


class _Reader:
    """What is known after the sentences read so far."""

    def __init__(self, numbers: Sequence[int], target: int) -> None:
        self.given, self.target = Counter[Number](numbers), target
        self.events: list[Event] = []
        self.known: dict[Number, tuple[Expression, int]] = {}  # results: what they are made of, and when
        self.attempts: dict[str, Work] = {}
        self.work: Work | None = None  # the latest
        self.open: Expression | None = None  # proposed, and its value not yet stated
        self.last: Number | None = None  # the latest result
        self.missed = False  # the line of work led nowhere
        self.turned = False  # it is said that it is given up
        self.checking = False
        self.age = 0  # sentences since the latest arithmetic
        self.clock = 0  # chains so far

    def read(self, sentence: str, start: int) -> None:
        """One sentence, which stands at `start`."""
        self.start = start + len(sentence) - len(sentence.lstrip())
        self.sentence = sentence = sentence.lstrip()
        self.said = set[str]()
        found = list(chains(sentence, self.last))
        checks = _CHECK.search(sentence) is not None
        self.checking = checks or (self.checking and self.age > 0)
        cues: list[tuple[int, Callable[[Any], None], Any]] = [(chain.start, self.compute, chain) for chain in found]
        for pattern, act in ((_NO, self.deny), (_YES, self.affirm), (_TURN, self.turn), (_REJECTED, self.reject)):
            for match in pattern.finditer(sentence):
                if act in (self.turn, self.reject) or not _within(match, found):
                    cues.append((match.start(), act, match))
        self.age += any(character.isalpha() for character in sentence)
        self.aim(found)
        for _, act, what in sorted(cues, key=lambda cue: cue[0]):
            act(what)
        if not any(work.judged == "yes" for work in self.attempts.values()):
            for match in _SURRENDER.finditer(sentence):
                if _number(match) in (None, self.target):
                    self.emit("giveup", *match.span())

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
        steps = chain.steps()
        for left, right in steps:
            self.emit("step", *span)
            if not is_true(left, right):
                self.emit("slip", *span)
        if not any(isinstance(part, tuple) for part in parts):
            return
        self.clock += 1
        self.age = 0
        if self.is_backward(parts):
            self.emit("backward", *span)
            return
        self.open = None
        for expressions, stated in chain.groups():
            self.work_out(expressions, stated, span)

    def work_out(self, expressions: list[Expression], stated: Number | None, span: tuple[int, int]) -> None:
        """Expressions of one value, stated perhaps, of which the first that can be is traced back."""
        traced = [derived for expression in expressions if (derived := self.derive(expression))]
        derived = next((one for one in traced if one.full), traced[0] if traced else None)
        if self.missed and not self.turned and not (derived and self.last in derived.results):
            self.emit("backtrack", *span, "silent")
        self.missed = self.turned = False
        if stated is None:
            self.open = expressions[0]
        work = Work(self.start + span[0], self.start + span[1], None, stated, self.clock)
        if derived:
            work.form = canonical(derived.expression)
            if derived.full:
                self.attempt(work, derived, anew=len(expressions) > 1)
                work = self.attempts[work.form]
                self.missed = work.stated is not None and work.stated != self.target
        self.work = work
        if stated is not None:
            self.last = stated
            if derived:
                self.known[stated] = (derived.expression, self.clock)

    def attempt(self, work: Work, derived: Derived, anew: bool) -> None:
        """A full attempt: a new one, an old one again, or the solution checked. `anew`: worked out, not quoted."""
        assert work.form is not None
        span = (work.start - self.start, work.end - self.start)
        old = self.attempts.get(work.form)
        if old and old.taken(self.target):
            if anew or self.checking or any(self.known[result][1] > old.clock for result in derived.results):
                self.emit("selfcheck", *span)
            return
        if old and old.stated is None and not old.judged:  # it was proposed, and this goes on with it
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
        for results in ({self.last}, set[Number](), self.known):
            left, used = self.given.copy(), list[Number]()
            traced = self.trace(expression, results, left, used)
            if traced is not None:
                full = not +left
                best = Derived(traced, full, used) if full or best is None else best
                if full:
                    break
        return best

    def trace(
        self, expression: Expression, results: Container[Number | None], left: Counter[Number], used: list[Number]
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
        supposed = parts[0] == target or _HYPOTHESIS.search(self.sentence) is not None
        if target in parts:
            return supposed and any(n not in self.given and n not in self.known for n in operands)
        return False

    def aim(self, found: Sequence[Chain]) -> None:
        """Numbers that the sentence sets out to reach, and words for reasoning from the target."""
        for match in _SUBGOAL.finditer(self.sentence):
            number = _number(match)
            if number != self.target and number not in self.given and not _within(match, found):
                self.emit("subgoal", *match.span(), str(number))
        for match in _BACKWARD.finditer(self.sentence):
            if _number(match) in (None, self.target):
                self.emit("backward", *match.span())

    def deny(self, match: re.Match[str]) -> None:
        """Words that say no."""
        if _number(match) in (None, self.target):
            self.judge("no", *match.span())

    def affirm(self, match: re.Match[str]) -> None:
        """Words that say yes: of the target, or else of a result that is stated to be the target."""
        before = self.sentence[max(0, match.start() - 25) : match.end()]
        if _number(match) not in (None, self.target) or _NEGATED.search(before) or self.sentence.rstrip().endswith("?"):
            return
        if self.work and (_EXPLICIT.search(match[0]) or self.work.stated == self.target or self.work.hits):
            self.judge("yes", *match.span())

    def judge(self, verdict: str, left: int, right: int) -> None:
        """A verdict on the latest work, unless it was said before."""
        work = self.work
        if work is None or self.age > PATIENCE or work.judged == verdict:
            return
        work.judged = verdict
        self.emit("verification", left, right, verdict)
        if (verdict == "yes") != work.hits:
            self.emit("misjudged", left, right, verdict)
        if verdict == "yes":
            self.emit("claim", left, right, work.form or "")
        self.missed = verdict == "no" and not self.turned

    def turn(self, match: re.Match[str]) -> None:
        """Words that leave what was worked on, once until something is worked out again."""
        checks = _CHECK.search(self.sentence) and self.work and self.work.taken(self.target)
        if self.work and not self.turned and not checks:
            self.emit("backtrack", *match.span(), "said")
            self.turned, self.missed = True, False

    def reject(self, match: re.Match[str]) -> None:
        """Words that say that a result is of no use for another reason than its value."""
        self.missed = self.missed or (self.work is not None and self.age <= 1 and not self.turned)


def _within(match: re.Match[str], found: Sequence[Chain]) -> bool:
    return any(chain.start < match.end() and match.start() < chain.end for chain in found)


def _number(match: re.Match[str]) -> int | None:
    """The number that a cue names, if it names one."""
    return next((int(group) for group in match.groups() if group), None)
