"""The command that repeats a run, from its configuration alone."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tinyzero import config as configs
from tinyzero.algorithms import load_algorithm
from tinyzero.errors import UserError

LONG = 200  # characters of a command, beyond which nobody reads it


def command(config: configs.Config, folder: Path) -> str:
    """The shortest `tinyzero train` that has this configuration: a bundled recipe's, or with the run's config.toml."""
    commands = []
    short = {full: name for name, full in configs.SHORT.items()}
    for recipe in configs.recipes():
        with suppress(UserError):  # a recipe may not go together with what another one asks for
            values = configs.read_recipe(recipe)
            asked = configs.unsettled(config, configs.resolve(values, {}))
            overrides = changes(values, asked)
            if (
                ":" not in asked.algorithm.name
            ):  # a folder's configuration is data: no code of it runs
                configs.refuse_idle(
                    overrides, asked, load_algorithm(asked.algorithm.name, asked.algorithm.options)
                )
            if configs.resolve(values, overrides) == asked:
                flags = [
                    f"--{short.get(key, key)} {typed(value)}" for key, value in overrides.items()
                ]
                commands.append(" ".join(["tinyzero train", recipe, *flags]))
    best = min(commands, key=len, default="")
    return (
        best
        if 0 < len(best) <= LONG
        else f"tinyzero train {shlex.quote(str(folder / 'config.toml'))}"
    )


def changes(recipe: Mapping[str, Any], config: configs.Config) -> dict[str, Any]:
    """The overrides that make `config` of `recipe`."""
    wanted, plain = config.model_dump(), configs.resolve(recipe, {}).model_dump()
    found: dict[str, Any] = {}
    for section in ("task", "algorithm"):  # another name replaces the recipe's whole table
        if (name := wanted[section]["name"]) != plain[section]["name"]:
            found[f"{section}.name"] = name
    had = configs.flat(configs.resolve(recipe, found).model_dump())
    return found | {
        key: value
        for key, value in configs.flat(wanted).items()
        if key not in had or had[key] != value
    }


def typed(value: Any) -> str:
    """A value as it is typed on a command line."""
    return shlex.quote(value if isinstance(value, str) else json.dumps(value))
