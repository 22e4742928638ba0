"""Finding the answer in what a model wrote."""

from __future__ import annotations

import re
from typing import Literal

AnswerStyle = Literal["tags", "boxed", "hashes", "last-number", "code"]
"""How an answer is written; see `final_answer`."""

MAX_ANSWER = 1000  # characters between the tags that `extract_answer` looks for

SPACES = " \t\r\n"

NUMBER = re.compile(r"(?<![\w.,/])[-\u2212]?\$?[0-9][0-9,]*+(?:\.[0-9]++)?(?:/[0-9]++)?%?(?!\w)")


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


def final_answer(text: str, style: AnswerStyle, longest: int = MAX_ANSWER) -> str | None:
    r"""The last answer in a completion, in one of five styles; None without one.

    | style         | the answer is                                             |
    |---------------|-----------------------------------------------------------|
    | `tags`        | between `<answer>` and `</answer>`                        |
    | `boxed`       | in LaTeX's `\boxed{}`, with balanced braces               |
    | `hashes`      | what follows `####`, up to the end of the line            |
    | `last-number` | the last number, such as -1,200.50, 3/4 or 25%            |
    | `code`        | the last block between three backquotes                   |

    Only what follows the last `</think>` is searched, or the whole text without one. An answer
    of more than `longest` characters does not count. The time is proportional to the length of the
    text.

    >>> final_answer(r"so \boxed{\frac{1}{2}}.", "boxed")
    '\\frac{1}{2}'
    >>> final_answer("6*7=42\n#### 42", "hashes"), final_answer("It costs $1,200.", "last-number")
    ('42', '1,200')
    """
    text = text.rpartition("</think>")[2]
    if style == "tags":
        return find_answer(text, "<answer>", "</answer>", longest=longest)
    if style == "boxed":
        return _last_boxed(text, longest)
    if style == "hashes":
        return find_answer(f"{text}\n", "####", "\n", longest=longest)
    if style == "code":
        return _last_code(text, longest)
    return _last_number(text)


def as_completion(answer: str, style: AnswerStyle) -> str:
    """A completion that gives `answer` in a style, after the end of the thinking.

    >>> as_completion("42", "hashes")
    '</think>\\n#### 42'
    """
    wrapped = {
        "tags": f"<answer>{answer}</answer>",
        "boxed": f"\\boxed{{{answer}}}",
        "hashes": f"#### {answer}",
        "code": f"```\n{answer}\n```",
        "last-number": answer,
    }
    return f"</think>\n{wrapped[style]}"


def _last_boxed(text: str, longest: int) -> str | None:
    """The content of the last box whose braces are balanced. A brace after a backslash is text."""
    opening = "\\boxed{"
    begin = text.rfind(opening)
    if begin < 0:
        return None

    begin += len(opening)
    depth = 1
    is_escaped = False
    for position in range(begin, min(len(text), begin + longest + 1)):
        character = text[position]
        if is_escaped or character == "\\":
            is_escaped = not is_escaped
        elif character in "{}":
            depth += 1 if character == "{" else -1
        if not depth:
            return text[begin:position].strip(SPACES)
    return None


def _last_code(text: str, longest: int) -> str | None:
    """The last closed block of code, without the name of its language."""
    pieces = text.split("```")
    if len(pieces) < 3:
        return None
    block = pieces[-2] if len(pieces) % 2 else pieces[-3]
    first_line, newline, rest = block.partition("\n")
    is_language = newline and re.fullmatch(r"[\w+#.-]{0,30}\s*", first_line)
    code = (rest if is_language else block).strip(SPACES)
    return code if len(code) <= longest else None


def _last_number(text: str) -> str | None:
    """The last number in the text. Only its end is read, so that no text takes long."""
    numbers = NUMBER.findall(text[-MAX_ANSWER:])
    return numbers[-1].replace("$", "").rstrip(",") if numbers else None
