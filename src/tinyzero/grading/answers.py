"""Finding the answer in what a model wrote."""

from __future__ import annotations

MAX_ANSWER = 1000  # characters between the tags that `extract_answer` looks for


SPACES = " \t\r\n"


def extract_answer(text: str) -> str | None:
    """The text of the last complete `<answer>...</answer>` after the last `</think>`, without spaces around it.

    None if there is no `</think>`, no complete answer after it, or more than MAX_ANSWER characters in it.
    """
    return find_answer(text, "<answer>", "</answer>", after="</think>", longest=MAX_ANSWER)


def find_answer(
    text: str, start: str, end: str, after: str | None = None, longest: int | None = None
) -> str | None:
    """What stands between the last `start` that an `end` follows, and that `end`, without spaces around it.

    Only the text behind the last `after` is looked at, if that is given. None if there is no such
    answer, or if it has more than `longest` characters. It takes time in proportion to the text.
    Examples: `find_answer(text, "\\\\boxed{", "}")`, `find_answer(text, "####", "\\n")`,
    `find_answer(text, "```python\\n", "```", after="</think>")`.
    """
    if after is not None:
        _, found, text = text.rpartition(after)
        if not found:
            return None
    begin = text.rfind(start, 0, max(text.rfind(end), 0))
    if begin < 0:
        return None
    begin += len(start)
    stop = text.find(end, begin)
    if longest is not None and stop - begin > longest:
        return None
    return text[begin:stop].strip(SPACES)
