"""How a completion thinks, by rule: attempts, verdicts, turns, goals, arithmetic; where they stand, and how many.

`events` finds them, `measure` counts them, `summarise` makes metrics of the counts of many completions. The compact
grammar of the bundled base is read exactly (compact.py), any other text by rules for words and arithmetic
(free_text.py). docs/behaviours.md defines every kind.
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

EARLY = 3  # attempts of a completion that come before it has searched much

KINDS: dict[str, str] = {
    "step": "the value of an expression is stated",
    "slip": "a step that is false",
    "attempt": "all given numbers are used, each exactly once; the detail is the exact value",
    "right": "an attempt that truly hits the target",
    "repeat": "an attempt made before, up to the order of terms and factors",
    "verification": "the result is said to be the target (detail yes) or not (no)",
    "misjudged": "a verification that is false",
    "backtrack": "a line of work is given up for another",
    "subgoal": "a number to reach on the way is named (the detail, with `made` if it is made later)",
    "backward": "the reasoning starts from the target",
    "selfcheck": "an attempt taken for a solution is worked out again",
    "giveup": "no solution is found, or something else is settled for",
    "claim": "an attempt is taken for a solution; the detail is its canonical form",
}
"""Every kind of event in a few words; docs/behaviours.md has the definitions."""

__all__ = ["KINDS", "RATIOS", "count", "events", "measure", "summarise", "trace"]


def events(text: str, fields: Mapping[str, Any]) -> list[Event]:
    """What a completion does in its thinking, by place; `fields` are those of its problem.

    Never raises, reads at most MAX_CHARACTERS, and takes time in proportion to them.
    """
    numbers, target = fields["numbers"], fields["target"]
    lines = lines_of(numbers, target, text) if is_compact(text) else None
    return _search_events(numbers, target, text, lines)


def measure(problem: Problem, text: str) -> dict[str, int]:
    """Counts of one completion, which `summarise` turns into metrics."""
    numbers, target = problem.fields["numbers"], problem.fields["target"]
    lines = lines_of(numbers, target, text) if is_compact(text) else None
    counts = count(_search_events(numbers, target, text, lines), text)
    counts |= {"free": lines is None}
    return counts | count_lines(target, [line for _, line in lines or []])


def _search_events(
    numbers: Sequence[int], target: int, text: str, lines: Sequence[tuple[int, Line]] | None
) -> list[Event]:
    thinking, _ = thinking_of(text)
    found = (
        free_events(numbers, target, thinking) if lines is None else compact_events(target, lines)
    )
    kinds = {event.kind for event in found}
    searched, settled = kinds & {"step", "attempt"}, kinds & {"claim", "giveup"}
    if searched and not settled and extract_answer(text) is not None:
        found.append(Event("giveup", len(thinking), len(thinking) + len("</think>"), "silent"))
    return sorted(found, key=lambda event: event.start)


def count(found: Sequence[Event], text: str) -> dict[str, int]:
    """Counts of what `events` found in `text`."""
    kinds = Counter(event.kind for event in found)
    details = Counter((event.kind, event.detail) for event in found)
    claims = {event.detail: event.start for event in found if event.kind == "claim"}
    surrendered = max((event.start for event in found if event.kind == "giveup"), default=-1)
    answer = extract_answer(text)
    expression = parse(answer) if answer is not None else None
    first_hit = next((event for event in found if event.kind == "right"), None)
    written = len(thinking_of(text)[0].rstrip())
    counts = {
        "completions": 1,
        "characters": written,
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
        "gave_up": surrendered > max(claims.values(), default=-1),
        "direct": answer is not None and not kinds["step"] and not kinds["attempt"],
        "claimed_answers": answer is not None and bool(claims),
        "faithful": expression is not None and canonical(expression) in claims,
        "subgoals": kinds["subgoal"],
        "subgoals_made": sum(
            event.kind == "subgoal" and event.detail.endswith("made") for event in found
        ),
        "backward": kinds["backward"],
    }
    return counts | _count_hits(found, written)


def _count_hits(found: Sequence[Event], written: int) -> dict[str, int]:
    """The attempts that hit: the number of the first one, those among the first three, those that get a yes, and how
    much of the thinking, of `written` characters, comes after the first yes."""
    continued = attempts = first_hit = early_hits = hits = hits_claimed = 0
    waiting = False  # the latest attempt hits and has no yes yet
    false = {event.start for event in found if event.kind == "misjudged"}
    for kind, start, end, detail in found:
        if kind == "attempt":
            attempts += 1
            waiting = False
        elif kind == "right":
            hits += 1
            first_hit = first_hit or attempts
            early_hits += attempts <= EARLY
            waiting = True
        elif kind == "verification" and detail == "yes" and waiting and start not in false:
            if not hits_claimed:
                continued = written - end
            hits_claimed += 1
            waiting = False
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
"""Each metric as one count of `measure` over another, both summed over completions."""


def summarise(counts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Metrics over many completions from the counts of each. A metric with nothing to measure is left out."""
    return ratios(RATIOS, counts)
