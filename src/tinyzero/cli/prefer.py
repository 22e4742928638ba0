"""`tinyzero prefer`: train a reward model from pairs of answers."""

from __future__ import annotations

import argparse
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from tinyzero import config as configs
from tinyzero.cli.arguments import threads_argument
from tinyzero.errors import Interrupted
from tinyzero.registry import validate
from tinyzero.run.console import say
from tinyzero.tools.prefer.options import PreferOptions

EXAMPLES = """\
  tinyzero prefer pairs.jsonl --model tiny --out runs/taste
  tinyzero train --task scored-by-model --task.model runs/taste"""


def add(verb: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command and its arguments."""
    parser = verb(
        "prefer",
        run,
        "train a reward model from pairs of a chosen and a rejected answer",
        options=_options,
        examples=EXAMPLES,
        usage="PAIRS.jsonl --model MODEL --out DIR",
    )
    parser.add_argument(
        "pairs", metavar="PAIRS.jsonl", help="rows with chosen and rejected, and perhaps prompt"
    )
    parser.add_argument(
        "--model", required=True, metavar="MODEL", help="a bundled base, a folder, or a hub id"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="the new folder")
    threads_argument(parser)


def _options(given: Namespace | None, overrides: Mapping[str, Any]) -> list[configs.Option]:
    """How the model is trained."""
    asked = {"command": {"options": list(overrides)}}
    return list(configs.options_of(PreferOptions, "", overrides, asked))


def run(given: Namespace, overrides: dict[str, Any]) -> int:
    """Train the model and say where it is."""
    import torch

    from tinyzero.tools.prefer.training import prefer

    options = validate(PreferOptions, dict(overrides), "")
    torch.set_num_threads(given.threads)
    show = partial(say, stream=sys.stderr)
    try:
        prefer(Path(given.pairs), given.model, Path(given.out), options, show)
    except Interrupted:
        show("stopped: nothing was saved")
        raise
    print(f"the reward model is in {given.out}: use it with --task scored-by-model")
    return 0
