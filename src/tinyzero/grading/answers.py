"""Finding the answer in what a model wrote."""

from __future__ import annotations

MAX_ANSWER = 1000  # characters between the tags that `extract_answer` looks for

SPACES = " \t\r\n"


def extract_answer(text: str) -> str | None:
    r"""The text of the last complete `<answer>...</answer>` after the last `</think>`, stripped.

    None if there is no `</think>`, if no complete answer follows it, or if the answer has more than
    MAX_ANSWER characters.

    >>> extract_answer("3*5=15\n</think>\n<answer> 15 </answer>")
    '15'
    >>> extract_answer("</think><answer>7</answer> no, <answer>8</answer>")
    '8'
    >>> extract_answer("<answer>15</answer>") is None  # the thinking did not end
    True
    """
    return find_answer(text, "<answer>", "</answer>", after="</think>", longest=MAX_ANSWER)


def find_answer(
    text: str, start: str, end: str, after: str | None = None, longest: int | None = None
) -> str | None:
    r"""The text between `start` and `end`, stripped; the last such pair if there are several.

    If `after` is given, only the text that follows its last occurrence is searched. None if there
    is no such pair, or if the answer has more than `longest` characters. The time is proportional
    to the length of the text, whatever it contains.

    >>> find_answer(r"so it is \boxed{42}.", r"\boxed{", "}")
    '42'
    >>> find_answer("3*5=15\n#### 15\n", "####", "\n")
    '15'
    >>> find_answer("draft ```1``` </think> ```2```", "```", "```", after="</think>")
    '2'
    >>> find_answer("no box", r"\boxed{", "}") is None
    True
    """
    if after is not None:
        _, separator, text = text.rpartition(after)
        if not separator:
            return None

    begin = text.rfind(start, 0, max(text.rfind(end), 0))
    if begin < 0:
        return None
    begin += len(start)

    stop = text.find(end, begin)
    if longest is not None and stop - begin > longest:
        return None
    return text[begin:stop].strip(SPACES)
