"""`tinyzero train`: train a model by reinforcement learning."""

from __future__ import annotations

import argparse
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tinyzero import config as configs
from tinyzero.cli.arguments import (
    asked_of,
    chosen_config,
    recipe_arguments,
    resumed_config,
    run_options,
    trust_argument,
)
from tinyzero.errors import UserError, brief
from tinyzero.run.console import say
from tinyzero.run.summary import closing_lines

EXAMPLES = """\
  tinyzero train                              the tiny model, in minutes
  tinyzero train laptop --algorithm ppo --steps 20
  tinyzero train qwen2.5-0.5b --profile 24gb  a pretrained model on a GPU
  tinyzero train --task my_task.py:MyTask     your own task
  tinyzero train --algorithm ppo --help       the options of PPO and Countdown
  tinyzero train --dry-run > mine.toml        a recipe of your own to edit
  tinyzero train --resume runs/laptop-grpo-0  continue a run that was stopped

When a GPU is used, config.toml also says which sampler `auto` turned out to be."""


def add(verb: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command and its arguments."""
    parser = verb(
        "train",
        run,
        "train a model by reinforcement learning on a task",
        options=run_options,
        examples=EXAMPLES,
    )
    recipe_arguments(parser)
    parser.add_argument(
        "--resume",
        metavar="DIR",
        help="continue the run in this folder from its newest complete checkpoint",
    )
    trust_argument(parser)
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print the config.toml that the run would write, with the meaning and origin of "
        "every option, and stop",
    )


def run(given: argparse.Namespace, overrides: dict[str, Any]) -> int:
    """Train, or print what would be trained."""
    is_from_folder = given.resume or (given.recipe or "").endswith(".toml")
    if given.trust and not is_from_folder:
        raise UserError("--trust goes with --resume, or with a recipe that is a file in a folder")
    if given.dry_run:
        print(_dry_run(given, overrides), end="")
        return 0

    if given.resume:
        folder = Path(given.resume)
        config = resumed_config(given, overrides)
    else:
        config = chosen_config(given, overrides)
        name = given.recipe or configs.DEFAULT_RECIPE
        default = f"runs/{configs.run_name(name, config, given.task, given.profile)}"
        folder = Path(config.run.dir or default)

    from tinyzero.train import train

    recipe = given.recipe or configs.DEFAULT_RECIPE
    note = None
    if not given.resume:
        note = configs.adapter_note(configs.read_recipe(recipe), overrides, given.profile)
    command = configs.Command(given.command, overrides, recipe, note)
    train(config, folder, bool(given.resume), given.started, command)
    for line in closing_lines(folder, time.perf_counter() - given.started):
        say(line)
    for line in _alarm_lines(folder):
        say(line)
    return 0


def _alarm_lines(folder: Path) -> list[str]:
    """The alarms that the report of the run in `folder` shows. A failure here hides no result."""
    from tinyzero.tools.report.alarms import find_alarms
    from tinyzero.tools.report.read import Recorded

    try:
        run = Recorded(folder)
        run.update()
        alarms = find_alarms({**run.steps, **run.samples.columns})
    except Exception as error:  # records may hold anything
        return ["", f"the alarms of the report could not be found: {brief(error)}"]

    lines: list[str] = []
    for alarm in alarms:
        text = f"alarm: {alarm.title}. {alarm.advice}"
        lines += ["", *textwrap.wrap(text, width=80, subsequent_indent="  ")]
    return lines


def _dry_run(given: argparse.Namespace, overrides: dict[str, Any]) -> str:
    """The text of the config.toml that the run would write."""
    from tinyzero.run.check import check

    if given.resume:
        config = resumed_config(given, overrides)
        asked = configs.read_asked_tables(Path(given.resume))
    else:
        config = chosen_config(given, overrides)
        asked = asked_of(config, given, overrides)
    return configs.documented_toml(check(config, overrides, here=False).config, asked)
