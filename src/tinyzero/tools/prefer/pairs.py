"""Pairs of answers, one chosen and one rejected, from a JSONL file in TRL's layout."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tinyzero.errors import UserError, short_path
from tinyzero.tasks.files import numbered_lines, read_json
from tinyzero.tasks.questions import is_conversation
from tinyzero.tasks.splits import split_by_key
from tinyzero.types import Prompt


class Pair(NamedTuple):
    """Two answers to one prompt, and by how much the chosen one should be ahead."""

    prompt: Prompt
    chosen: str
    rejected: str
    margin: float = 0.0

    @property
    def key(self) -> str:
        """What decides about the split: the prompt, or the chosen text if there is no prompt."""
        return json.dumps(self.prompt or self.chosen)


def read_pairs(path: Path, note: Callable[[str], None]) -> list[Pair]:
    """The pairs in a JSONL file. `note` is told how many have two equal answers and are left out.

    A row has `chosen` and `rejected`, perhaps `prompt` and `margin`. Without a prompt it is what
    both answers begin with. Raises UserError, naming the line, if a row is something else.
    """
    pairs, equal = [], 0
    for number, line in numbered_lines(path):
        try:
            pair = as_pair(read_json(line))
        except ValueError as error:
            raise UserError(f"{short_path(path)}, line {number}: {error}") from None
        if pair.chosen == pair.rejected:
            equal += 1
        else:
            pairs.append(pair)

    if equal:
        note(f"{equal} pairs have two equal answers and are left out")
    if not pairs:
        raise UserError(f"{short_path(path)} has no pairs: give rows with `chosen` and `rejected`")
    return pairs


def as_pair(row: Any) -> Pair:
    """The pair in a row. Raises ValueError if it holds no pair.

    >>> as_pair({"prompt": "2+2=", "chosen": "4", "rejected": "5"})
    Pair(prompt='2+2=', chosen='4', rejected='5', margin=0.0)
    >>> as_pair({"chosen": "Sky? It is blue", "rejected": "Sky? It is green"}).prompt
    'Sky? It is '
    """
    if not isinstance(row, Mapping):
        raise ValueError("it is not a JSON object")
    for column in ("chosen", "rejected"):
        if not is_conversation(row.get(column)):
            raise ValueError(f"`{column}` is {row.get(column)!r:.60}: give a text or messages")
    chosen, rejected, prompt = row["chosen"], row["rejected"], row.get("prompt")
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise ValueError("`chosen` and `rejected` differ: make both texts, or both messages")
    if prompt not in (None, "") and not is_conversation(prompt):
        raise ValueError(f"`prompt` is {prompt!r:.60}: give a text or messages")

    margin = row.get("margin")
    margin = 0.0 if margin is None else margin
    is_number = isinstance(margin, int | float) and not isinstance(margin, bool)
    if not is_number or not math.isfinite(margin):
        raise ValueError(f"`margin` is {margin!r:.60}: give a number, or leave it out")

    if isinstance(chosen, str):
        asked, first, second = _split_texts(prompt, chosen, rejected)
    else:
        asked, first, second = _split_messages(prompt, chosen, rejected)
    return Pair(asked, first, second, float(margin))


def held_out(pairs: Sequence[Pair]) -> tuple[list[Pair], list[Pair]]:
    """The pairs to train on, and a fifth to test with. Pairs of one prompt stay together."""
    training = [pair for pair in pairs if split_by_key(pair.key) == "train"]
    testing = [pair for pair in pairs if split_by_key(pair.key) != "train"]
    return training, testing


def _split_texts(prompt: Any, chosen: str, rejected: str) -> tuple[Prompt, str, str]:
    """The prompt and both answers; without a prompt it is what both begin with, whole words."""
    if prompt:
        return prompt, chosen, rejected
    letters = zip(chosen, rejected, strict=False)
    shared = next(
        (i for i, (a, b) in enumerate(letters) if a != b), min(len(chosen), len(rejected))
    )
    cut = max(chosen.rfind(" ", 0, shared), chosen.rfind("\n", 0, shared)) + 1
    return chosen[:cut], chosen[cut:], rejected[cut:]


def _split_messages(
    prompt: Any, chosen: list[dict[str, str]], rejected: list[dict[str, str]]
) -> tuple[Prompt, str, str]:
    """The same for chat messages: both answers must end with one message of the assistant."""
    shared = 0
    while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
        shared += 1
    for answer in (chosen, rejected):
        if len(answer) != shared + 1 or answer[-1]["role"] != "assistant":
            raise ValueError(
                "the two answers must differ in their last message only, which is the assistant's"
            )

    asked = [{"role": "user", "content": prompt}] if isinstance(prompt, str) and prompt else prompt
    before = [*(asked or []), *chosen[:shared]]
    return before, chosen[-1]["content"], rejected[-1]["content"]
