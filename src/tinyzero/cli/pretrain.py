"""`tinyzero pretrain`: make a base model."""

from __future__ import annotations

import argparse
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tinyzero import config as configs
from tinyzero.cli.arguments import threads_argument
from tinyzero.registry import validate
from tinyzero.tasks import corpora

EXAMPLES = """\
  tinyzero pretrain --task countdown --out runs/base
  tinyzero pretrain --model.layers 6 --model.width 192 --seed 1"""


def add(verb: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command and its arguments."""
    parser = verb(
        "pretrain",
        run,
        "make a small base model like the bundled ones, from scratch or from another",
        options=_options,
        examples=EXAMPLES,
        usage="",
    )
    parser.add_argument(
        "--out",
        default="runs/base",
        metavar="DIR",
        help="folder to work in; continues if it was stopped there before (default: runs/base)",
    )
    parser.add_argument(
        "--task",
        default=corpora.names()[0],
        choices=corpora.names(),
        help=f"the task that the base is made for (default: {corpora.names()[0]})",
    )
    threads_argument(parser)


def _options(given: Namespace | None, overrides: Mapping[str, Any]) -> list[configs.Option]:
    """Everything that makes the base, and the options of its corpus."""
    from tinyzero.tools.pretrain.base import PretrainOptions

    corpus = corpora.find(given.task if given else corpora.names()[0]).options
    asked = {"command": {"options": list(overrides)}}
    return [
        *configs.options_of(PretrainOptions, "", overrides, asked),
        *configs.options_of(corpus, "corpus.", {}, asked),
    ]


def run(given: Namespace, overrides: dict[str, Any]) -> int:
    """Make the base."""
    values: dict[str, Any] = {"task": given.task}
    for key, value in overrides.items():
        configs.set_option(values, key, value)

    import torch

    from tinyzero.tools.pretrain.base import PretrainOptions, pretrain

    options = validate(PretrainOptions, values, "pretrain")
    torch.set_num_threads(given.threads)
    path = pretrain(options, Path(given.out), lambda text: print(text, flush=True))
    print(f"the base is in {path}")
    return 0
