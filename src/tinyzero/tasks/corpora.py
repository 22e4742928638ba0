"""The synthetic texts that bases are pretrained on: a task has one if its folder has a module `corpus`.

That module ends with `CORPUS = Corpus(...)`. All of them share the vocabulary below. No torch.
"""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, NamedTuple

from pydantic import BaseModel

from tinyzero.tasks import REGISTRY

CHARACTERS = "\n " + "".join(map(chr, range(33, 127)))
WORDS = ("<think>", "</think>", "<answer>", "</answer>", " from ", " vs ", " no\n", " yes\n")
END = "<|endoftext|>"
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}"
    "{% if not loop.last or add_generation_prompt %}{{ '\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)


class Corpus(NamedTuple):
    """What a base for one task is pretrained on."""

    options: type[BaseModel]
    document: Callable[[random.Random, Any], tuple[str, str]]
    """One document from the options: a prompt, without loss, and what follows it, up to END."""
    knows: str
    """What the base has read of, as its card says it."""
    note: str = ""
    """What else its card says of the problems that the corpus poses."""
    measured_by: str = "`tinyzero eval`"
    """The command that measures what the base can do before any reinforcement learning."""


def names() -> list[str]:
    """The bundled tasks that have a corpus, without importing it."""
    return [name for name in REGISTRY.names() if find_spec(_module(name))]


def find(name: str) -> Corpus:
    """The corpus of the task called `name`, one of `names()`."""
    corpus: Corpus = importlib.import_module(_module(name)).CORPUS
    return corpus


def _module(name: str) -> str:
    package = REGISTRY.reference(name).partition(":")[0]
    return f"{package}.corpus"


def as_chat(prompt: str, text: str) -> tuple[str, str]:
    """A document with its prompt as the messages of a chat, as CHAT_TEMPLATE writes them; drills are as they were."""
    question, thinking, _ = prompt.partition("\n<think>\n")
    return (f"user: {question}\nassistant: <think>", f"\n{text}") if thinking else (prompt, text)
