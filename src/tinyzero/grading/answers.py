"""Finding the answer in what a model wrote."""

from __future__ import annotations

MAX_ANSWER = 1000  # characters between the tags


SPACES = " \t\r\n"


def extract_answer(text: str) -> str | None:
    """The text of the last complete `<answer>...</answer>` after the last `</think>`, without spaces around it.

    None where there is no `</think>`, no complete answer after it, or more than MAX_ANSWER characters in it.
    """
    _, thought, spoken = text.rpartition("</think>")
    start = spoken.rfind("<answer>", 0, max(spoken.rfind("</answer>"), 0))
    if not thought or start < 0:
        return None
    start += len("<answer>")
    end = spoken.find("</answer>", start)
    return spoken[start:end].strip(SPACES) if end - start <= MAX_ANSWER else None
