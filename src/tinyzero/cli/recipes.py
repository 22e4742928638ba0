"""`tinyzero recipes`: the bundled recipes, and the schema of a recipe file."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tinyzero import config as configs

EXAMPLES = """\
  tinyzero recipes
  tinyzero train qwen2.5-0.5b --dry-run     every option of one recipe
  tinyzero recipes --schema > recipe.schema.json

Write `#:schema recipe.schema.json` into the first line of a recipe of your own,
and editors that know TOML schemas (taplo, VS Code) check and complete it."""


def add(verb: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command and its arguments."""
    parser = verb(
        "recipes", run, "list the bundled recipes, which train a model", examples=EXAMPLES
    )
    parser.add_argument(
        "--schema", action="store_true", help="print the JSON Schema of a recipe file instead"
    )


def run(given: argparse.Namespace, overrides: dict[str, Any]) -> int:
    """Print the recipes or the schema."""
    if given.schema:
        print(json.dumps(configs.recipe_schema(), indent=2))
        return 0

    for name in configs.recipes():
        recipe = configs.read_recipe(name)
        config = configs.resolve(recipe, {})
        needs = "a CPU" if config.model.device == "cpu" else "a GPU"
        if memory := configs.profiles(recipe):
            needs += f"; choose one of its sizes with --profile: {', '.join(memory)}"
        print(f"{name}\n    {_headline(configs.RECIPES / f'{name}.toml')}")
        print(f"    trains {config.model.name} on {config.task.name} with {config.algorithm.name}")
        print(f"    needs {needs}")
    print("\nTrain with one of them: tinyzero train NAME")
    return 0


def _headline(path: Path) -> str:
    """The first line of a recipe's file, a comment that says what the recipe is for."""
    return path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
