"""What can be found in a completion, and where."""

from __future__ import annotations

MAX_CHARACTERS = 100_000  # of a completion; what follows is not read

KINDS: dict[str, str] = {
    "step": "the value of an expression is stated",
    "slip": "a step that is false",
    "attempt": "all given numbers are used, each exactly once; the detail is the exact value",
    "right": "an attempt that truly hits the target",
    "repeat": "an attempt made before, up to the order of terms and factors",
    "verification": "the result is said to be the target (detail yes) or not (no)",
    "misjudged": "a verification that is false",
    "backtrack": "a line of work is given up for another",
    "subgoal": "a number to reach on the way is named (the detail, with `made` where it is made later)",
    "backward": "the reasoning starts from the target",
    "selfcheck": "an attempt taken for a solution is worked out again",
    "giveup": "no solution is found, or something else is settled for",
    "claim": "an attempt is taken for a solution; the detail is its canonical form",
}
"""Every kind of event in a few words; docs/behaviours.md has the definitions."""


def thinking_of(text: str) -> tuple[str, bool]:
    """What stands before the last `</think>`, and whether there is one: else all of it, perhaps cut short."""
    thinking, closed, _ = text[:MAX_CHARACTERS].rpartition("</think>")
    return (thinking, True) if closed else (text[:MAX_CHARACTERS], False)
