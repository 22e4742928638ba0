"""`tinyzero train`: train a model by rewards alone."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tinyzero import config as configs
from tinyzero.cli.arguments import overrides_of, recipe_arguments, trust_argument
from tinyzero.errors import UserError
from tinyzero.run.summary import closing_lines


def add(verb: Callable[..., argparse.ArgumentParser]) -> None:
    """The command and its arguments."""
    parser = verb("train", run, "train a model by rewards alone", epilog=_options_help())
    recipe_arguments(parser)
    parser.add_argument(
        "--resume", metavar="DIR", help="go on with this run from its newest whole checkpoint"
    )
    trust_argument(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help="print the resolved configuration and stop"
    )


def run(given: argparse.Namespace, rest: list[str]) -> int:
    overrides = overrides_of(given, rest)
    if given.trust and not (given.resume or (given.recipe or "").endswith(".toml")):
        raise UserError("--trust goes with --resume, or with a recipe that lies in a folder")
    if given.resume:
        folder = Path(given.resume)
        if extra := given.recipe or given.profile:
            raise UserError(f"--resume {folder} has its own recipe: leave out {extra!r}")
        config = configs.resumed(folder, overrides, None, given.trust, "--trust")
    else:
        name = given.recipe or configs.DEFAULT_RECIPE
        configs.require_recipe(name, overrides, given.trust)
        config = configs.resolve(configs.read_recipe(name), overrides, given.profile)
        folder = Path(
            config.run.dir or f"runs/{configs.run_name(name, config, given.task, given.profile)}"
        )
    if given.dry_run:
        from tinyzero.run.check import check

        print(configs.to_toml(check(config, overrides, here=False).config), end="")
        return 0
    from tinyzero.train import train

    command = configs.Command(given.command, overrides)
    train(config, folder, bool(given.resume), given.started, command)
    for line in closing_lines(folder, time.perf_counter() - given.started):
        print(line)
    return 0


def _options_help() -> str:
    """Every option of a recipe with its default and one line."""
    lines = ["options, written --section.option value:"]
    short = {full: name for name, full in configs.SHORT.items()}
    default = configs.Config()
    for key in configs.option_keys():
        value: Any = default
        field: Any = None
        for part in key.split("."):
            field = type(value).model_fields[part]
            value = getattr(value, part)
        lines.append(f"  --{short.get(key, key):<24} {field.description} (default: {value!r})")
    return "\n".join(
        [
            *lines,
            "and the task's and the algorithm's own, as --task.max_number 25 or --algorithm.kl 0.001",
        ]
    )
