"""The forms a problem is posed in; each task has its own words for the question.

`compact`  the tiny bundled bases: as few tokens as can be
`chat`     the same in chat messages, for a tiny base that was taught to answer (`tinyzero pretrain --chat true`)
`base`     the R1-Zero text of TinyZero's Countdown, for base models
`instruct` chat messages, for the tokenizer's own chat template; the answer is opened at <think>
"""

from __future__ import annotations

from tinyzero.errors import UserError
from tinyzero.types import Prompt

TEMPLATES = ("compact", "chat", "base", "instruct")

_BASE_INTRO = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. "
    "The assistant first thinks about the reasoning process in the mind and then provides the user with the answer.\n"
)
_INSTRUCT_SYSTEM = (
    "You are a helpful assistant. You first thinks about the reasoning process in the mind "
    "and then provides the user with the answer."
)
_OPENING = "Let me solve this step by step.\n<think>"


def posed(short: str, question: str, template: str) -> Prompt:
    """A prompt under one of TEMPLATES: `short` for the tiny bases, and `question` for all others.

    Raises UserError on an unknown template.
    """
    return _short(short, template) if template in ("compact", "chat") else wrap(question, template)


def wrap(question: str, template: str) -> Prompt:
    """`question` as TinyZero puts it to a base or an instruct model, opened at `<think>`."""
    if template == "base":
        return f"{_BASE_INTRO}User: {question}\nAssistant: {_OPENING}"
    if template == "instruct":
        return [
            {"role": "system", "content": _INSTRUCT_SYSTEM},
            {"role": "user", "content": question},
            {"role": "assistant", "content": _OPENING},
        ]
    raise UserError(f"unknown prompt template {template!r}: use one of {', '.join(TEMPLATES)}")


def _short(question: str, template: str) -> Prompt:
    if template == "compact":
        return f"{question}\n<think>\n"
    return [{"role": "user", "content": question}, {"role": "assistant", "content": "<think>"}]
