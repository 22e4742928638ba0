"""The words a problem is posed in. Text lives here and at the edges only; between rooms travel token ids.

`compact`  the tiny bundled bases: as few tokens as can be
`chat`     the same in chat messages, for a tiny base that was taught to answer (`tinyzero pretrain --chat true`)
`base`     the R1-Zero text of TinyZero's Countdown, for base models
`instruct` chat messages, for the tokenizer's own chat template; the answer is opened at <think>
"""

from __future__ import annotations

from collections.abc import Sequence

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


def countdown(numbers: Sequence[int], target: int, template: str) -> Prompt:
    """Countdown's question; under "base" and "instruct" it is TinyZero's text, without the space that it has before the
    question in the latter."""
    if template in ("compact", "chat"):
        return _short(f"{target} from {' '.join(map(str, numbers))}", template)
    question = (
        f"Using the numbers {list(numbers)}, create an equation that equals {target}. You can use basic arithmetic "
        "operations (+, -, *, /) and each number can only be used once. Show your work in <think> </think> tags. "
        "And return the final answer in <answer> </answer> tags, for example <answer> (1 + 2) / 3 </answer>."
    )
    return _wrap(question, template)


def multiplication(a: int, b: int, template: str) -> Prompt:
    """Multiplication's question; under "base" and "instruct" it is put as Countdown's is, which is not TinyZero's text:
    that one ends with "= Assistant: Ok let me think about it."."""
    if template in ("compact", "chat"):
        return _short(f"{a}*{b}", template)
    question = (
        f"Give me the answer of the following equation: {a} * {b}. Show your work in <think> </think> tags. "
        "And return the final answer in <answer> </answer> tags, for example <answer> 42 </answer>."
    )
    return _wrap(question, template)


def _short(question: str, template: str) -> Prompt:
    if template == "compact":
        return f"{question}\n<think>\n"
    return [{"role": "user", "content": question}, {"role": "assistant", "content": "<think>"}]


def _wrap(question: str, template: str) -> Prompt:
    if template == "base":
        return f"{_BASE_INTRO}User: {question}\nAssistant: {_OPENING}"
    if template == "instruct":
        return [
            {"role": "system", "content": _INSTRUCT_SYSTEM},
            {"role": "user", "content": question},
            {"role": "assistant", "content": _OPENING},
        ]
    raise UserError(f"unknown prompt template {template!r}: use one of {', '.join(TEMPLATES)}")
