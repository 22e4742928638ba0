"""The templates that the tasks of this package pose a problem in; `--model.prompt` chooses one.

| template         | for                                  | form                                   |
|------------------|--------------------------------------|----------------------------------------|
| `compact`        | the tiny bases that ship             | as few tokens as possible              |
| `chat`           | a base of `tinyzero pretrain --chat` | the same question as chat messages     |
| `base`           | base models                          | R1-Zero's text, as in the original     |
| `instruct`       | instruct models                      | the same text as chat messages         |
| `instruct-short` | instruct models below 1 billion      | a short chat with worked examples      |

Each of them opens the answer with `<think>`, but `instruct-short` asks for the answer alone.
Models with 100 million weights cannot follow the long text of `instruct`.
"""

from __future__ import annotations

from collections.abc import Sequence

from tinyzero.errors import UserError
from tinyzero.types import Prompt

TEMPLATES = ("compact", "chat", "base", "instruct", "instruct-short")

# The next three texts are the original TinyZero's, with its mistakes, to make results comparable.
_BASE_INTRO = (
    "A conversation between User and Assistant. "
    "The user asks a question, and the Assistant solves it. "
    "The assistant first thinks about the reasoning process in the mind "
    "and then provides the user with the answer.\n"
)
_INSTRUCT_SYSTEM = (
    "You are a helpful assistant. You first thinks about the reasoning process in the mind "
    "and then provides the user with the answer."
)
_OPENING = "Let me solve this step by step.\n<think>"


def require_template(template: str) -> None:
    """Raise UserError if there is no such template."""
    if template not in TEMPLATES:
        raise UserError(f"unknown prompt template {template!r}: use one of {', '.join(TEMPLATES)}")


def posed(short: str, question: str, template: str) -> Prompt:
    """The prompt under one of TEMPLATES: with `short` for the tiny bases, else with `question`.

    Raises UserError if there is no such template.

    Example: `posed("47*36", "What is 47 times 36?", "compact")` is `"47*36\\n<think>\\n"`.
    """
    if template in ("compact", "chat"):
        return _short_prompt(short, template)
    return wrap(question, template)


def wrap(question: str, template: str) -> Prompt:
    """`question` in the original TinyZero's words for base or instruct models, up to `<think>`.

    Raises UserError if there is no such template, or if it has other words.
    """
    if template == "base":
        return f"{_BASE_INTRO}User: {question}\nAssistant: {_OPENING}"
    if template == "instruct":
        return [
            {"role": "system", "content": _INSTRUCT_SYSTEM},
            {"role": "user", "content": question},
            {"role": "assistant", "content": _OPENING},
        ]
    require_template(template)
    known = ", ".join(name for name in TEMPLATES if name != template)
    raise UserError(f"this task has no template {template!r}: use one of {known}")


def worked_examples(examples: Sequence[tuple[str, str]], question: str) -> Prompt:
    """A chat in which the assistant has answered some questions, and is asked another one.

    `examples` are pairs of a question and its answer. Small models follow examples in earlier turns
    far better than one in the question. The empty system message takes the place of the long one
    that many chat templates would add.

    Example: `worked_examples([("Use 8 and 2 to make 10.", "8 + 2")], "Use 3 and 8 to make 24.")`.
    """
    turns = [("system", "")]
    for asked, answer in examples:
        turns += [("user", asked), ("assistant", answer)]
    turns.append(("user", question))
    return [{"role": role, "content": content} for role, content in turns]


def _short_prompt(question: str, template: str) -> Prompt:
    if template == "compact":
        return f"{question}\n<think>\n"
    return [{"role": "user", "content": question}, {"role": "assistant", "content": "<think>"}]
