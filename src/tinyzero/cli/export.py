"""`tinyzero export`: write a trained model as others load it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tinyzero import config as configs
from tinyzero.cli.arguments import trust_argument
from tinyzero.config import trust
from tinyzero.errors import UserError
from tinyzero.run.opening import locate

EXAMPLES = """\
  tinyzero export runs/laptop-grpo-0 my-model
  tinyzero export runs/laptop-grpo-0 my-model --push me/my-model"""


def add(verb: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command and its arguments."""
    parser = verb(
        "export",
        run,
        "write a model as a folder for transformers, vLLM and the hub, with a model card",
        examples=EXAMPLES,
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a run, a folder with a Hugging Face model, a hub id, or a bundled base",
    )
    parser.add_argument("out", metavar="DIR", help="the new folder")
    parser.add_argument(
        "--push",
        metavar="NAME",
        help="also publish it on the Hugging Face hub, in a new repository of this name",
    )
    parser.add_argument(
        "--private", action="store_true", help="with --push: only you can see the repository"
    )
    trust_argument(parser)


def run(given: argparse.Namespace, overrides: dict[str, Any]) -> int:
    """Write the folder, and publish it if that was asked for."""
    from tinyzero.tools.export import check_hub, export, push

    if given.private and not given.push:
        raise UserError("--private is for the repository on the hub: add --push NAME")
    if given.push:
        check_hub(given.push)

    recipe, model = locate(given.model)
    if recipe and not given.trust:
        trust.require(configs.resolve(configs.read_recipe(recipe), {}), recipe, ("task",))

    out = Path(given.out)
    export(model, recipe, out, given.push or out.name)
    print(f"wrote {out}: its card is {out / 'README.md'}")
    if given.push:
        print(f"pushed to {push(out, given.push, given.private)}")
    return 0
