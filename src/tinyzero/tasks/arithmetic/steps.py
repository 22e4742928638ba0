"""The compact grammar of the bundled bases: steps `A op B=C` joined by commas, some to a line."""

from __future__ import annotations

import re

from tinyzero.tasks.arithmetic.thinking import thinking_of

STEP = re.compile(r"(-?[0-9]{1,9})([-+*/])(-?[0-9]{1,9})=(-?[0-9]{1,9})(?![0-9])")
LINE = re.compile(rf"{STEP.pattern}(?:,{STEP.pattern})*")
CUT = re.compile(rf"{STEP.pattern}[-+*/=,0-9]*")


def is_compact(text: str, line: re.Pattern[str] = LINE, cut: re.Pattern[str] = CUT) -> bool:
    """Whether a completion is written in the grammar.

    At least half of the lines of its thinking must match `line` from end to end, blank ones left out.
    The last line of thinking that was cut short need only match `cut`.
    """
    thinking, closed = thinking_of(text)
    lines = [one for one in thinking.split("\n") if one.strip()]
    fits = [line.fullmatch(one) for one in lines]
    if lines and not closed:
        fits[-1] = cut.fullmatch(lines[-1])
    return 2 * sum(fit is not None for fit in fits) >= len(lines)
