"""The synthetic texts that the tiny bases are pretrained on. No torch.

A task has a corpus if its folder has a module `corpus`, which defines `CORPUS = Corpus(...)`. All
corpora share the vocabulary below: single characters, and a few words.
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
    """The text that a base for one task is pretrained on, and what the model card says about it."""

    options: type[BaseModel]
    """The options of the corpus, as a pydantic model."""
    document: Callable[[random.Random, Any], tuple[str, str]]
    """Draws a document from the options: a prompt, which has no loss, and the rest up to END."""
    knows: str
    """What the base has read about, as its model card says: "it knows ..."."""
    note: str = ""
    """What else the model card says about the problems in the corpus."""
    measured_by: str = "`tinyzero eval`"
    """The command that measures what the base can do before any reinforcement learning."""


def names() -> list[str]:
    """The names of the tasks that have a corpus; no corpus is imported."""
    return [name for name in REGISTRY.names() if _has_corpus(name)]


def _has_corpus(task_name: str) -> bool:
    """Whether the task is a folder, rather than a single file, and has a module `corpus`."""
    package = REGISTRY.reference(task_name).partition(":")[0]
    spec = find_spec(package)
    is_folder = spec is not None and spec.submodule_search_locations is not None
    return is_folder and find_spec(_module_name(task_name)) is not None


def find(name: str) -> Corpus:
    """The corpus of the task called `name`, which is one of `names()`."""
    corpus: Corpus = importlib.import_module(_module_name(name)).CORPUS
    return corpus


def _module_name(task_name: str) -> str:
    package = REGISTRY.reference(task_name).partition(":")[0]
    return f"{package}.corpus"


def as_chat(prompt: str, text: str) -> tuple[str, str]:
    """A document with its prompt as the messages of a chat, in the form of CHAT_TEMPLATE.

    A drill, which has no prompt, stays as it is.

    >>> as_chat("47*36\\n<think>\\n", "</think>")
    ('user: 47*36\\nassistant: <think>', '\\n</think>')
    """
    question, thinking, _ = prompt.partition("\n<think>\n")
    if not thinking:
        return prompt, text
    return f"user: {question}\nassistant: <think>", f"\n{text}"
