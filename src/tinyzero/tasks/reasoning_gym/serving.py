"""The process that holds the package reasoning_gym: it makes problems and grades answers.

The package imports matplotlib and a thousand other modules, and some of its datasets depend on the
order of a set, so it runs here, in a process with a fixed PYTHONHASHSEED. While an answer is graded
nothing but computing is allowed.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import signal
import socket
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any, NamedTuple

import numpy
from reasoning_gym import factory

from tinyzero.errors import UserError, brief
from tinyzero.grading import worker
from tinyzero.registry import suggest
from tinyzero.tasks.reasoning_gym.catalogue import FIRST_SEED, GIVEN, REUSED
from tinyzero.tasks.splits import split_by_key

MAX_DRAWS = 400  # a split has a tenth of the problems, so 400 draws miss it once in 10^18 times
MEMORY = 4.0  # GB
REFUSED = ("compile", "exec", "open", "os.", "shutil.", "subprocess.", "socket.", "ctypes.")


class Source(NamedTuple):
    """Which dataset makes a problem: its name, its level (None: by default), its configuration."""

    dataset: str
    level: int | None
    config: str
    """Values of its configuration, as JSON."""


class Guard:
    """Refuses files, processes, networks and running text while `is_on`.

    Python calls an audit hook before each of these, and a hook cannot be removed.
    """

    def __init__(self) -> None:
        self.is_on = False
        sys.addaudithook(self._hear)

    def _hear(self, event: str, _: tuple[Any, ...]) -> None:
        if self.is_on and event.startswith(REFUSED):
            raise PermissionError(f"a scorer may not use {event}")


def main(descriptor: int) -> None:
    """Answer requests until the connection closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the run, which closes this process
    connection = socket.socket(fileno=descriptor)
    connection.set_inheritable(False)
    worker.silence()  # some datasets print
    worker.limit_memory(MEMORY)
    guard = Guard()

    with tempfile.TemporaryDirectory(prefix="tinyzero-") as folder:  # some datasets write files
        os.chdir(folder)
        worker.send(connection, b'"ready"')
        with suppress(EOFError, OSError):
            while True:
                request = worker.receive(connection)
                worker.send(connection, json.dumps(_reply(request, guard)).encode())


def _reply(request: Mapping[str, Any], guard: Guard) -> Mapping[str, Any]:
    """The answer to one request, or the error."""
    source = Source(*request["source"])
    try:
        if "answer" in request:
            return {"score": score(source, request["seed"], request["answer"], guard)}
        return draw(source, request["data_seed"], request["split"], request["index"])
    except UserError as error:
        return {"error": str(error)}
    except Exception as error:
        return {"error": f"{_name(source)} cannot make a problem: {brief(error)}"}


def draw(source: Source, data_seed: int, split: str, index: int) -> Mapping[str, Any]:
    """The problem at `index` of `split`: the first of a series of random ones that is in `split`.

    The text of the question decides the split. Raises UserError if none of MAX_DRAWS is in it.
    """
    for attempt in range(MAX_DRAWS):
        seed = seed_of(f"{data_seed}:{source.dataset}:{split}:{index}:{attempt}")
        entry = entry_of(source, seed)
        key = hashlib.sha256(entry["question"].encode()).hexdigest()
        if split_by_key(key) == split:
            given = {name: entry["metadata"][name] for name in GIVEN.get(source.dataset, ())}
            _require_own_answer_right(source, seed, entry)
            return {
                "question": entry["question"],
                "answer": entry["answer"],
                "given": given,
                "seed": seed,
                "key": key,
            }

    raise UserError(
        f"{_name(source)} has no problem of split {split!r} in {MAX_DRAWS} draws: "
        "choose a configuration with more problems"
    )


def seed_of(text: str) -> int:
    """The seed that a text stands for: 31 bits of its hash.

    >>> seed_of("0:gcd:train:0:0") == seed_of("0:gcd:train:0:1")
    False
    """
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def score(source: Source, seed: int, answer: str, guard: Guard) -> float:
    """What the package's own scorer gives `answer`: from 0 to 1, and 0 if it raises or is refused.

    Only a finite score counts. Python compares nothing with nan, so it would pass for full marks.
    """
    entry = entry_of(source, seed)
    dataset = dataset_of(source, seed)
    guard.is_on = True
    try:
        value = float(dataset.score_answer(answer, entry))
    except Exception:
        return 0.0
    finally:
        guard.is_on = False
    return value if math.isfinite(value) and 0 <= value <= 1 else 0.0


@lru_cache(maxsize=512)
def entry_of(source: Source, seed: int) -> dict[str, Any]:
    """The entry of the package that `seed` makes. It depends on nothing that happened before.

    A few datasets draw from the global generators, so these are seeded too.
    """
    random.seed(seed)
    numpy.random.seed(seed)
    index = seed if source.dataset in REUSED else 0
    entry: dict[str, Any] = dataset_of(source, seed)[index]
    return entry


def dataset_of(source: Source, seed: int) -> Any:
    """A dataset of the package that has one problem, or all of them if it takes long to make."""
    return _dataset(source, FIRST_SEED if source.dataset in REUSED else seed)


@lru_cache(maxsize=64)
def _dataset(source: Source, seed: int) -> Any:
    values = {**_settings_of_level(source), **json.loads(source.config)}
    known = _fields(source.dataset)
    for name in values:
        if name not in known:
            raise UserError(
                f"unknown key task.config.{name} of dataset {source.dataset}{suggest(name, known)}"
            )

    try:
        return factory.create_dataset(source.dataset, seed=seed, size=1, **values)
    except (AssertionError, ValueError, TypeError) as error:
        raise UserError(f"{_name(source)} rejects its configuration: {brief(error)}") from error


@lru_cache(maxsize=64)
def _settings_of_level(source: Source) -> dict[str, Any]:
    """The configuration of a level, without seed and size. A level above the last is the last."""
    if source.level is None:
        return {}
    curriculum = factory.create_curriculum(source.dataset)
    curriculum.set_global_level(source.level)
    settings = vars(curriculum.generate_configuration({"seed": 0, "size": 1}))
    return {name: settings[name] for name in _fields(source.dataset)}


def _fields(dataset: str) -> list[str]:
    """The settings of a dataset that a user may choose."""
    _, config = factory.DATASETS[dataset]
    return [name for name in config.__dataclass_fields__ if name not in ("seed", "size")]


def _require_own_answer_right(source: Source, seed: int, entry: Mapping[str, Any]) -> None:
    """Raise UserError unless the package's scorer accepts its own answer.

    This also loads whatever a scorer loads on its first call, before the guard is on.
    """
    answer = entry["answer"]
    if answer is None:
        return
    if dataset_of(source, seed).score_answer(answer.strip(), entry) < 1:
        raise UserError(f"{_name(source)} rejects its own answer {answer!r:.80}")


def _name(source: Source) -> str:
    """The dataset as messages name it."""
    level = "" if source.level is None else f" at level {source.level}"
    return f"dataset {source.dataset}{level}"
