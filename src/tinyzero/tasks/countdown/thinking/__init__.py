"""How a completion thinks, found by rules: attempts, verdicts, backtracks, goals and arithmetic.

`events` finds them in the text, `measure` counts them, and `summarise` makes metrics of the counts
of many completions. The compact grammar of the tiny bases is read exactly (compact.py), and any
other text by rules for words and arithmetic (free_text.py). docs/behaviours.md defines each kind.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tinyzero.grading.answers import extract_answer
from tinyzero.tasks.arithmetic.expressions import canonical, parse
from tinyzero.tasks.arithmetic.thinking import ratios, thinking_of
from tinyzero.tasks.base import Event
from tinyzero.tasks.countdown.thinking.compact import (
    Line,
    compact_events,
    count_lines,
    is_compact,
    lines_of,
    trace,
)
from tinyzero.tasks.countdown.thinking.free_text import free_events
from tinyzero.types import Problem

EARLY = 3  # the first attempts of a completion, made before it has searched much

KINDS: dict[str, str] = {
    "step": "the value of an expression is stated",
    "slip": "a step that is false",
    "attempt": "each given number is used exactly once; the detail is the exact value",
    "right": "an attempt that equals the target",
    "repeat": "an attempt made before, perhaps with its terms or factors reordered",
    "verification": "a result is said to be the target (detail yes) or not (detail no)",
    "misjudged": "a verification that is false",
    "backtrack": "one line of work is given up for another",
    "subgoal": "a number to reach on the way; the detail names it, with `made` if it is made later",
    "backward": "the reasoning starts from the target",
    "selfcheck": "an attempt accepted as the solution is worked out again",
    "giveup": "no solution is found, or something else is accepted instead",
    "claim": "an attempt is accepted as the solution; the detail is its canonical form",
}
"""Each kind of event in a few words; docs/behaviours.md has the definitions."""

__all__ = ["KINDS", "RATIOS", "count", "events", "measure", "summarise", "trace"]


def events(text: str, fields: Mapping[str, Any]) -> list[Event]:
    """What a completion does in its thinking, in the order of the text.

    `fields` are those of the problem. Never raises, reads at most MAX_CHARACTERS, and takes time in
    proportion to the length.

    >>> found = events("12-3=9,9*5=45 vs 24 no", {"numbers": [3, 5, 12], "target": 24})
    >>> [event.kind for event in found]
    ['step', 'attempt', 'step', 'verification']
    >>> found[-1]
    Event(kind='verification', start=13, end=22, detail='no')
    """
    numbers, target = fields["numbers"], fields["target"]
    lines = lines_of(numbers, target, text) if is_compact(text) else None
    return _search_events(numbers, target, text, lines)


def measure(problem: Problem, text: str) -> dict[str, int]:
    """Counts that describe one completion; `summarise` turns them into metrics."""
    numbers, target = problem.fields["numbers"], problem.fields["target"]
    lines = lines_of(numbers, target, text) if is_compact(text) else None
    counts = count(_search_events(numbers, target, text, lines), text)
    counts |= {"free": lines is None}
    return counts | count_lines(target, [line for _, line in lines or []])


def _search_events(
    numbers: Sequence[int], target: int, text: str, lines: Sequence[tuple[int, Line]] | None
) -> list[Event]:
    """The events of a text, from its `lines` if it is compact, and else from its words."""
    thinking, _ = thinking_of(text)
    events_found = (
        free_events(numbers, target, thinking) if lines is None else compact_events(target, lines)
    )

    # A search that accepted nothing, and answers all the same, has given up silently.
    kinds = {event.kind for event in events_found}
    has_searched = kinds & {"step", "attempt"}
    has_settled = kinds & {"claim", "giveup"}
    if has_searched and not has_settled and extract_answer(text) is not None:
        end = len(thinking) + len("</think>")
        events_found.append(Event("giveup", len(thinking), end, "silent"))
    return sorted(events_found, key=lambda event: event.start)


def count(events_found: Sequence[Event], text: str) -> dict[str, int]:
    """Counts of the events that `events` found in `text`, by name."""
    kinds = Counter(event.kind for event in events_found)
    details = Counter((event.kind, event.detail) for event in events_found)
    claims = {event.detail: event.start for event in events_found if event.kind == "claim"}
    last_claim = max(claims.values(), default=-1)
    give_ups = (event.start for event in events_found if event.kind == "giveup")
    last_give_up = max(give_ups, default=-1)
    first_hit = next((event for event in events_found if event.kind == "right"), None)

    answer = extract_answer(text)
    expression = parse(answer) if answer is not None else None
    characters = len(thinking_of(text)[0].rstrip())

    counts = {
        "completions": 1,
        "characters": characters,
        "attempts": kinds["attempt"],
        "distinct_attempts": kinds["attempt"] - kinds["repeat"],
        "repeats": kinds["repeat"],
        "steps": kinds["step"],
        "steps_right": kinds["step"] - kinds["slip"],
        "verdicts": kinds["verification"],
        "misjudged": kinds["misjudged"],
        "claims": details["verification", "yes"],
        "claims_true": details["verification", "yes"] - details["misjudged", "yes"],
        "backtracks": kinds["backtrack"],
        "backtracks_said": details["backtrack", "said"],
        "backtracks_silent": kinds["backtrack"] - details["backtrack", "said"],
        "checked": kinds["selfcheck"] > 0,
        "found": first_hit is not None,
        "first_hit_characters": first_hit.end if first_hit else 0,
        "gave_up": last_give_up > last_claim,
        "direct": answer is not None and not kinds["step"] and not kinds["attempt"],
        "claimed_answers": answer is not None and bool(claims),
        "faithful": expression is not None and canonical(expression) in claims,
        "subgoals": kinds["subgoal"],
        "subgoals_made": sum(
            event.kind == "subgoal" and event.detail.endswith("made") for event in events_found
        ),
        "backward": kinds["backward"],
    }
    return counts | _count_hits(events_found, characters)


def _count_hits(events_found: Sequence[Event], characters: int) -> dict[str, int]:
    """Counts of the attempts that hit the target, out of a thinking of `characters` characters.

    They are the number of the first hit, the hits among the first three attempts, the hits that get
    a yes, and the characters that follow the first yes.
    """
    continued = attempts = first_hit = early_hits = hits = hits_claimed = 0
    awaits_yes = False  # the latest attempt hits, and has no yes yet
    misjudged = {event.start for event in events_found if event.kind == "misjudged"}

    for kind, start, end, detail in events_found:
        if kind == "attempt":
            attempts += 1
            awaits_yes = False
        elif kind == "right":
            hits += 1
            first_hit = first_hit or attempts
            early_hits += attempts <= EARLY
            awaits_yes = True
        elif kind == "verification" and detail == "yes" and awaits_yes and start not in misjudged:
            if not hits_claimed:
                continued = characters - end
            hits_claimed += 1
            awaits_yes = False

    return {
        "first_hit": first_hit,
        "early_attempts": min(attempts, EARLY),
        "early_hits": early_hits,
        "hits": hits,
        "hits_claimed": hits_claimed,
        "succeeded": hits_claimed > 0,
        "continued_characters": continued,
    }


RATIOS: dict[str, tuple[str, str]] = {
    "behaviour/attempts": ("attempts", "completions"),
    "behaviour/distinct_attempts": ("distinct_attempts", "completions"),
    "behaviour/repeat_rate": ("repeats", "attempts"),
    "behaviour/legal_rate": ("legal", "lines"),
    "behaviour/arithmetic_accuracy": ("steps_right", "steps"),
    "behaviour/verifications": ("verdicts", "completions"),
    "behaviour/verification_precision": ("claims_true", "claims"),
    "behaviour/verification_recall": ("hits_claimed", "hits"),
    "behaviour/misjudged": ("misjudged", "verdicts"),
    "behaviour/verdict_rate": ("judged", "lines"),
    "behaviour/target_restated": ("targets_right", "judged"),
    "behaviour/recognition_recall": ("equal_claimed", "equal"),
    "behaviour/false_claim_rate": ("unequal_claimed", "unequal"),
    "behaviour/backtracks": ("backtracks", "completions"),
    "behaviour/backtracks_said": ("backtracks_said", "completions"),
    "behaviour/backtracks_silent": ("backtracks_silent", "completions"),
    "behaviour/subgoals": ("subgoals", "free"),
    "behaviour/subgoals_made": ("subgoals_made", "subgoals"),
    "behaviour/backward": ("backward", "free"),
    "behaviour/self_checked": ("checked", "completions"),
    "behaviour/found_rate": ("found", "completions"),
    "behaviour/first_hit": ("first_hit", "found"),
    "behaviour/first_hit_characters": ("first_hit_characters", "found"),
    "behaviour/characters_per_attempt": ("characters", "attempts"),
    "behaviour/continued_characters": ("continued_characters", "succeeded"),
    "behaviour/early_hit_rate": ("early_hits", "early_attempts"),
    "behaviour/gave_up": ("gave_up", "completions"),
    "behaviour/direct": ("direct", "completions"),
    "behaviour/faithful": ("faithful", "claimed_answers"),
}
"""Each metric is one count of `measure` divided by another, both summed over completions."""


def summarise(counts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Metrics over many completions, from the counts of each of them.

    A metric without anything to measure is left out.
    """
    return ratios(RATIOS, counts)
