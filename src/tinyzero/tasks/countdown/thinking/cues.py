"""The words that show what a free text does; free_text.py draws the conclusions.

If a pattern contains a number, the number is a group, and the reader compares it with the target.
"""

from __future__ import annotations

import re


def cue(*words: str, signs: str = "(?!)") -> re.Pattern[str]:
    """A pattern that matches one of the phrases `words`, which begin a word, or one of `signs`."""
    return re.compile(rf"\b(?:{'|'.join(words)})|{signs}")


def number(match: re.Match[str]) -> int | None:
    """The number that a cue names, or None."""
    return next((int(group) for group in match.groups() if group), None)


_N = r"\\?[\[($*]{0,2}\s{0,2}(?<!\d)(\d{1,9})(?!\d|\.\d)"
_NOT = r"(?:not|cannot|[a-z]{2,6}n't)"
_AIM = (
    r"(?:(?:the|our|my|its) (?:[a-z]+ )?(?:target|goal|requirements?|conditions?)"
    r"|(?:the|our) (?:desired|required|wanted|requested) \w+|the (?:number|value"
    r"|result) (?:\w+ )?(?:we|i|asked|that)\b"
    r"|what (?:we|i|the puzzle|was) \w+)"
)
_MORE = (
    "short|more|less|fewer|above|below|over|under|larger|smaller|bigger|greater|higher|lower|away|off"
    "|high|low"
)
_MUCH = (
    "one|two|three|four|five|six|seven|eight|nine|ten|much|even|still|far|way|well|slightly|just"
    "|a bit|a little"
)
_CLOSE = r"(?:still |just |pretty )?(?:close|almost|nearly|near|over|under)\b(?! to \d)"

_UNEQUAL = rf"(?:≠|!=|\\neq?\b)\s*(?:{_N}(?!\s*[-+*/]\s*\d)|(?:the |our )?target\b)"

_ASIDE = r"(?:because|as|since|if|use|using|add|subtract|multiply|divide)\b"
"""Words after which a number is not what the work is compared with."""

NO = cue(
    rf"{_NOT}(?: (?!{_ASIDE})\w+){{0,4}}? {_N}",
    r"(?:than|need|want|exceeds|below|above|over|under|beyond|short of|from|nothing like|near"
    r"|close to)(?: still)?"
    rf" {_N}",
    rf"{_NOT}(?: \w+){{0,2}} (?:work|help\w*|match|fit|right|correct|enough|valid|quite|equal"
    rf"|satisf\w+|suffice"
    r"|solution|answer|useful|it\b|there\b|close\b|near\b|good\b|the (?:target|one|goal|desired)"
    r"|our target"
    r"|what (?:we|i)\b)",
    r"too (?:high|low|big|small|large|much|little|many|few|far)\b|not (?:yet )?done\b",
    r"(?:wrong|incorrect|fail(?:s|ed)|useless|nope|no good|no luck|dead end|way off|nowhere near"
    r"|negative)\b",
    r"(?:overshoots?|undershoots?|falls? short|exceeds?|off by|miss(?:es|ing))\b",
    rf"(?:\d+|{_MUCH}) ?\w* (?:{_MORE})\b(?=\W*$|\s*[,.;!)]| (?:than )?(?:i|we|the|our|need\w*)\b)",
    rf"(?:{_MORE}) than (?:i|we|the|our|what|it|needed|required|desired|wanted)\b",
    r"(?:twice|half|double|above|below|from|near|close to) (?:the|our) target\b",
    rf"(?:but|so|is|very) {_CLOSE}",
    r"no(?=\s*(?:[.,!)|;]|$|wait))",
    signs=rf"[,(:-] ?{_CLOSE}|[<>] ?{_N}|{_UNEQUAL}|[✗✘❌]|(?<=\d) x\s*$",
)
"""The result is not the target."""

_SURELY = (
    r"(?: (?:exactly|precisely|indeed|truly|really|now|already|in fact|also|equal|to|the|our"
    r"|target|number|value|of"
    r"|result))*"
)
YES = cue(
    r"(?<!target )(?<!goal )(?:is|are at|be|equals?|equal|reach(?:ed)?|hits?|got|arrived? at"
    r"|obtain(?:ed)?|it's|that's)"
    rf"{_SURELY} {_N}",
    r"(?:is|are|equals?|match\w*|reach\w*|hit\w*|gives?|got|meets?|met|obtain\w*|satisf\w+"
    r"|leads?|arrived?|at|equal to"
    r"|on|achiev\w+|fits?|that's|it's)\b"
    rf"(?: (?!{_MUCH}|twice|half|double|not|than|from|near|close|off|too)[\w']+){{0,3}}? {_AIM}",
    rf"(?:{_AIM}|target|goal)(?: \w+)?(?: {_N})? (?:is |was |are |has been |have been )?(?:now )?"
    r"(?:reached|hit|met|achieved|obtained|satisfied)",
    rf"(?:so|thus|hence|and|then) {_N} is (?:reached|obtained|met)\b",
    r"(?:as|is) (?:desired|required|wanted|needed|(?:we|i) (?:want|need)\w*)\b|(?:right on"
    r"|equals) target\b|solves\b",
    r"(?:we(?:'ve| have)? (?:found|did it|have it)|i(?:'ve| have)? found|we(?: are|'re) (?:there"
    r"|done))\b",
    r"(?:work(?:s|ed)?|it does|does it|checks out|holds|valid|good|fine|excellent|nice|aha)\b"
    r"|ok\W*$",
    r"(?:correct|right|perfect|bingo|success|great|yes|yep|hooray|wonderful|done|solved|got it"
    r"|found it|eureka)\b",
    r"(?:that's|that is|this is|there) (?:it|we go|it is)\b",
    signs=rf"^\W*(?:(?:and|so|yes|ah|ok|right|finally|then|thus|the result|now"
    rf"|oh)\b,? ?)*{_N}(?:\W*$|,| it is\b"
    r"| is (?:indeed |exactly |in fact )?(?:our|the|what|right|correct|reached|obtained)\b"
    r"| = (?:the )?target)"
    r"|[✓✔✅]|==? target\b|, exactly\b",
)
"""The result is the target."""

QUOTED = cue(
    r"asked to\b|(?:goal|task|challenge|question|puzzle|problem) (?:is|was|says|asks)\b",
    r"(?:create|find|make|form|write|build|come up with|arrive at) (?:an?|the) (?:\w+ ){0,2}"
    r"(?:equation|expression|combination)s?\b",
    r"final equation with\b",
)
"""What follows repeats the question, up to the next arithmetic."""

NEGATED = re.compile(r"\b(?:not|no|never|cannot)\b|n't\b")
EXPLICIT = re.compile(
    r"\d|target|goal|desired|required|wanted|needed|what|number|answer|we have found|found it"
)
"""A yes that mentions the target; any other yes may be about a result on the way."""

TURN = cue(
    r"(?:wait|hold on|hmm,? no|oh no|oops|actually|alternatively|instead|otherwise|again|forgot"
    r"|different(?:ly)?)\b",
    r"(?:start(?:ing)? over|mov(?:e|ing) on|second thought|something else|scratch that|seems off"
    r"|made a mistake)\b",
    r"(?:another|one more) (?:\w+ )?(?:combination|way|approach|option|idea|possibility|try"
    r"|thought|attempt|order"
    r"|method|path|route|set|strategy|pair|expression|equation|operation|sequence)",
    r"(?:next|new) (?:option|idea|try|attempt|approach)\b|other (?:combination|way|option"
    r"|order)s?\b",
    r"(?:go|going|get)\b.{0,30}\bback\b|back to\b|re(?:consider|visit|think)\b|re-?(?:compute"
    r"|calculate|do)\b",
    r"(?:what|how) (?:about|else|if)\b|(?:perhaps|maybe)\b",
    signs=r"^\W*or\b",
)
"""The current line of work is given up."""
VAGUE = re.compile("perhaps|maybe")
"""Words that give up a line of work only if something has failed before."""

REJECTED = cue(
    r"(?:whole|integer|fraction|unused|left over|leftover|leaves?|twice|used up|(?:already|not"
    r"|is|must be) used)\b",
    r"only (?:be used )?once\b|have to use\b|(?:cannot|can't) use\b|without using\b",
)
"""The result is rejected for another reason than its value."""

CHECK = cue(
    "check",
    "double-?check",
    "verif",
    "confirm",
    "make sure",
    "to be sure",
    "recalculat",
    "substitut",
    "plug",
)

_COUNTED = (
    r"(?! (?:more )?(?:numbers|operations|operators|steps|times|cycles|digits|integers|terms|ways"
    r"|equations|pairs))(?!, ?\d+[\],])"
)
"""Not followed by what is counted, nor by the rest of a list."""
SUBGOAL = cue(
    rf"(?:need|want|i'd like|would like|require|aim|i'm after"
    rf"|goal)s?\b(?:(?!\b(?:from|value)\b)[^.=\d]){{0,40}}?{_N}{_COUNTED}",
    r"(?:to|can|could|should|must|have to|let's|let us|if i|and)(?: \w+){0,4}? (?:get|make|reach"
    r"|form|find|produce"
    rf"|build|create|give|yield|have|come to|obtain|look for)(?: an?| the| to)? {_N}{_COUNTED}",
    rf"(?:getting|making|reaching|finding|looking for)(?: an?| the)? {_N}|{_N} (?:should|would)\b",
    r"(?<!answer )(?:must|should|has to|have to|needs? to) (?:be|equal|sum to|multiply to)"
    rf"(?: an?)? {_N}",
    rf"(?:so|an?) {_N} is what\b",
)
"""A number should be reached."""

BACKWARD = cue(
    r"work(?:ing)? back|start(?:ing)? (?:from|at|with) the (?:end|target|result)",
    rf"(?:factor|multiple|divisor)s? of {_N}|{_N} is (?:an? (?:factor|multiple|divisor)"
    rf"|divisible)\b",
    rf"{_N} can be (?:made|written|split)\b",
    rf"(?:to|for)(?: (?:get|make|reach|obtain|have|form))? {_N}.{{0,60}}\b(?:need (?!to use"
    rf"|to find|to combine)"
    r"|have to (?!use)|must (?!use)|(?:could|might|can) (?:use|take))[^.\d]{0,25}\d",
)
"""The reasoning starts from a number, the target."""
HYPOTHESIS = cue(
    "need",
    "want",
    "could",
    "can",
    "would",
    "might",
    "may",
    r"if\b",
    "should",
    "have to",
    "let",
    r"i'd\b",
)
"""The sentence supposes its arithmetic, and does not do it."""

SURRENDER = cue(
    r"(?:give|gave|giving) (?:up|in)\b|(?:impossible|not possible|unsolvable|stuck)\b"
    r"|r[ua]n(?:ning)? out of (?:\w+ ){0,2}(?:options|ideas|combinations|ways|possibilities"
    r"|numbers|things|time|choices|tries|attempts)\b|answer is (?:no|none)\b",
    r"no (?:\w+ ){0,2}(?:solution|way|combination|expression|equation)\b",
    r"[a-z]{2,6}n't (?:think|believe|see)(?: \w+){0,3} (?:solution|way|possible|how)\b",
    r"(?:can(?:not|'t| not)|could(?: not|n't)|unable to|not able to|failed to|haven't"
    r"|didn't)(?: \w+){0,2}"
    rf" (?:find|found|get|reach|solve|do|make|see|be (?:solved|done|made"
    rf"|reached))\b(?: to)?(?: {_N})?",
    r"(?:(?:best|all) i can|best guess|(?:closest|nearest)(?: one)?|stop here|leave it"
    r"|settle for)\b",
    r"i(?:'ll| will) (?:just )?(?:guess|go with)\b",
)
"""No solution is found, or something else is accepted instead."""
