"""The compact grammar of the tiny bases: a line is steps `A op B=C`, joined by commas."""

from __future__ import annotations

import re

from tinyzero.tasks.arithmetic.thinking import thinking_of

STEP = re.compile(r"(-?[0-9]{1,9})([-+*/])(-?[0-9]{1,9})=(-?[0-9]{1,9})(?![0-9])")
LINE = re.compile(rf"{STEP.pattern}(?:,{STEP.pattern})*")
CUT = re.compile(rf"{STEP.pattern}[-+*/=,0-9]*")


def is_compact(text: str, line: re.Pattern[str] = LINE, cut: re.Pattern[str] = CUT) -> bool:
    """Whether a completion is written in the grammar.

    At least half of the lines of its thinking must match `line` completely; blank lines do not
    count. If the thinking was cut short, its last line only has to match `cut`.

    >>> is_compact("12-3=9,9*5=45"), is_compact("Let me try 12 - 3 first.")
    (True, False)
    """
    thinking, closed = thinking_of(text)
    lines = [text_line for text_line in thinking.split("\n") if text_line.strip()]
    matches = [line.fullmatch(text_line) for text_line in lines]
    if lines and not closed:
        matches[-1] = cut.fullmatch(lines[-1])

    matching = sum(match is not None for match in matches)
    return 2 * matching >= len(lines)
