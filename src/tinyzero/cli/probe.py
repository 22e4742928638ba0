"""`tinyzero probe`: whether training can start from a model on a task."""

from __future__ import annotations

import argparse
import shlex
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from tinyzero import config as configs
from tinyzero.cli.arguments import amount
from tinyzero.cli.opening import (
    length_arguments,
    model_options,
    open_player,
    settings_of,
    source_arguments,
)
from tinyzero.run.console import clock_text

EXAMPLES = """\
  tinyzero probe tiny
  tinyzero probe FOLDER --task sums --model.prompt instruct --max-tokens 16
  tinyzero probe FOLDER --recipe qwen2.5-0.5b --minutes 5"""


def add(verb: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command and its arguments."""
    parser = verb(
        "probe",
        run,
        "try a model on a task: can training start there, and with which settings",
        options=model_options,
        examples=EXAMPLES,
        usage="MODEL",
    )
    source_arguments(parser)
    length_arguments(parser)
    parser.add_argument(
        "--minutes",
        type=amount,
        default=2.0,
        metavar="NUMBER",
        help="time for sampling; more time gives narrower intervals (default: 2)",
    )


def run(given: argparse.Namespace, overrides: dict[str, Any]) -> int:
    """Sample, and print the table, the verdict and the command to train with."""
    from tinyzero.tools import probe

    given.temperature, given.top_p, given.top_k = None, 1.0, 0  # the probe has its own
    config, model = settings_of(given, overrides)
    group_size = config.rollout.samples

    with open_player(given, config, model) as (player, params):
        params = replace(params, max_tokens=given.max_tokens or config.rollout.max_tokens)
        print(
            f"probing {given.model} on {config.task.name}, dev problems:\n"
            f"  {probe.SAMPLES} answers of up to {params.max_tokens} tokens each, at three "
            "temperatures",
            flush=True,
        )
        problems, sampled, tally = probe.sample_in_time(
            player, params, 60 * given.minutes, _show_progress
        )
        starts = probe.starts_of(player, problems, sampled, group_size)
        difficulty = player.task.difficulty

    best = probe.best_of(starts, config.rollout.temperature)
    print("\n".join(["", *probe.table(starts, group_size), ""]))
    if tally.failed or tally.ungraded:
        print(
            f"the grader failed on {tally.failed} answers and could not grade {tally.ungraded};\n"
            f"  the first error: {tally.first_error}"
        )
    for line in probe.verdict(best, len(problems), group_size, params.max_tokens, difficulty):
        print(textwrap.fill(line, width=80, subsequent_indent="  ", break_long_words=False))

    groups = sampled[starts.index(best)].groups
    settings: dict[str, Any] = {
        "rollout.temperature": best.temperature,
        "rollout.max_tokens": params.max_tokens,
        "rollout.samples": probe.samples_for(groups, group_size),
    }
    print(f"\n  {train_command(given, config, model, overrides | settings)}")
    return 0


def _show_progress(problems: int, seconds: float) -> None:
    plural = "" if problems == 1 else "s"
    print(f"  {problems} problem{plural} in {clock_text(seconds)}", flush=True)


def train_command(
    given: argparse.Namespace, config: configs.Config, model: str, options: Mapping[str, Any]
) -> str:
    """The command line that trains `model` with `options`, quoted for the shell.

    What the recipe says anyway is left out.
    """
    from tinyzero.run.opening import locate

    recipe = given.recipe or locate(given.model)[0] or configs.recipe_for_model(model)
    usual = configs.flat(configs.resolve(configs.read_recipe(recipe), {}).model_dump())
    wanted = {"model.name": model, "model.prompt": config.model.prompt, **options}
    if given.task:
        wanted["task.name"] = given.task

    words = ["tinyzero", "train", recipe]
    for key, value in wanted.items():
        if usual.get(key) != value:
            text = value if isinstance(value, str) else configs.literal(value)
            words += ["--task" if key == "task.name" else f"--{key}", text]
    return shlex.join(words)
