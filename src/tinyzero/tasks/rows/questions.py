"""The prompts of the task rows: the row's own chat messages, or its question in a template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tinyzero.grading.answers import AnswerStyle
from tinyzero.tasks.prompts import posed, require_template
from tinyzero.types import Prompt

INSTRUCTIONS: Mapping[AnswerStyle, str] = {
    "tags": "Give the final answer alone in <answer> </answer> tags.",
    "boxed": "Give the final answer alone in \\boxed{}.",
    "hashes": "Give the final answer alone after #### in the last line.",
    "last-number": "End with the final answer, which is a number.",
    "code": "Give the final answer alone in a block of code between three backquotes.",
}
A_LETTER = "The answer is the letter of the right choice."
THINKING = "Show your work in <think> </think> tags."


def question_text(question: str, choices: Sequence[str]) -> str:
    """The question, with one line per choice if there are any.

    >>> print(question_text("Which is red?", ["sky", "blood"]))
    Which is red?
    A. sky
    B. blood
    """
    lines = [f"{chr(ord('A') + index)}. {choice}" for index, choice in enumerate(choices)]
    return "\n".join([question, *lines])


def instruction(style: AnswerStyle, check: str) -> str:
    """The sentences that say how to answer in this style.

    >>> instruction("boxed", "choice")
    'The answer is the letter of the right choice. Give the final answer alone in \\\\boxed{}.'
    """
    return f"{A_LETTER} {INSTRUCTIONS[style]}" if check == "choice" else INSTRUCTIONS[style]


def prompt(question: str, template: str, how: str, thinking: bool) -> Prompt:
    """The question in a template, followed by `how` to answer. Raises UserError for an unknown one.

    The long templates ask for thoughts too if `thinking` is True. The short templates pose the
    question alone, and `instruct-short` does not ask for thoughts.
    """
    require_template(template)
    if template == "instruct-short":
        asked = f"{question} {how}".strip()
        return [{"role": "system", "content": ""}, {"role": "user", "content": asked}]

    words = [question, THINKING if thinking else "", how]
    return posed(question, " ".join(word for word in words if word), template)
