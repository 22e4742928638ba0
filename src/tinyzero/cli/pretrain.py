"""`tinyzero pretrain`: make a base model."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tinyzero import config as configs
from tinyzero.cli.arguments import MOST_PROCESSES, up_to
from tinyzero.registry import validate
from tinyzero.tasks import corpora


def add(verb: Callable[..., argparse.ArgumentParser]) -> None:
    """The command and its arguments."""
    parser = verb(
        "pretrain",
        run,
        "make a base model such as the bundled ones, from a seed or from another",
    )
    parser.add_argument(
        "--out",
        default="runs/base",
        metavar="DIR",
        help="folder to work in; resumes what is there (default: runs/base)",
    )
    parser.add_argument(
        "--task",
        default=corpora.names()[0],
        choices=corpora.names(),
        help=f"the task the base is made for (default: {corpora.names()[0]})",
    )
    parser.add_argument(
        "--threads", type=up_to(MOST_PROCESSES), default=2, help="CPU threads (default: 2)"
    )
    parser.set_defaults(options="any")


def run(given: argparse.Namespace, rest: list[str]) -> int:
    values: dict[str, Any] = {"task": given.task}
    for key, value in configs.parse_overrides(rest).items():
        configs.place(values, key, value)
    import torch

    from tinyzero.tools.pretrain.base import PretrainOptions, pretrain

    options = validate(PretrainOptions, values, "pretrain")
    torch.set_num_threads(given.threads)
    path = pretrain(options, Path(given.out), lambda text: print(text, flush=True))
    print(f"the base is in {path}")
    return 0
