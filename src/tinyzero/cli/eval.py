"""`tinyzero eval`: score a model."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tinyzero.cli.arguments import MOST_PROBLEMS, MOST_SAMPLES, up_to
from tinyzero.cli.opening import model_arguments, model_options, open_player, settings_of
from tinyzero.errors import UserError
from tinyzero.evaluate import EVAL_SEED, caution, distinct_problems, evaluate, shortfall
from tinyzero.run import outputs
from tinyzero.tasks import load_task
from tinyzero.types import SPLITS

FIX = "name another file with --json"
EXAMPLES = """\
  tinyzero eval runs/laptop-grpo-0
  tinyzero eval runs/laptop-grpo-0 --k 8              pass@1 to pass@8
  tinyzero eval tiny --task countdown --task.max_number 50
  tinyzero eval FOLDER --recipe qwen2.5-0.5b          a model without a recipe"""


def add(verb: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command and its arguments."""
    parser = verb(
        "eval",
        run,
        "score a model: pass@1, pass@k and greedy, with 95 %% intervals",
        options=model_options,
        examples=EXAMPLES,
        usage="MODEL",
    )
    model_arguments(parser, seed=EVAL_SEED)
    parser.add_argument(
        "--n",
        type=up_to(MOST_PROBLEMS),
        default=256,
        metavar="N",
        help="distinct problems (default: 256)",
    )
    parser.add_argument(
        "--k",
        type=up_to(MOST_SAMPLES),
        default=1,
        metavar="N",
        help="completions per problem (default: 1)",
    )
    parser.add_argument(
        "--split", choices=SPLITS, default="test", help="which problems (default: test)"
    )
    parser.add_argument("--json", metavar="FILE", help="also write every figure to this file")


def run(given: argparse.Namespace, overrides: dict[str, Any]) -> int:
    """Score the model and print the figures."""
    if given.temperature == 0 and given.k > 1:
        raise UserError(
            f"--k {given.k} at --temperature 0 gives the same completion {given.k} times: "
            "leave out --k, or raise the temperature"
        )
    if given.json:
        outputs.require_folder(Path(given.json), FIX)
        outputs.refuse_others(Path(given.json), outputs.is_figures, FIX)

    config, model = settings_of(given, overrides)
    task = load_task(config.task.name, config.task.options)
    distinct_problems(task, given.split, given.n)  # too few is found before the model is loaded

    with open_player(given, config, model) as (player, params):
        params = replace(params, n=given.k)
        result = evaluate(
            player,
            split=given.split,
            problems=given.n,
            params=params,
            greedy=params.temperature > 0,
            seed=given.seed,
        )

    figures = {"model": given.model, **result.metrics}
    print(
        f"{given.model}: {result.metrics['n']} {given.split} problems, "
        f"{given.k} completion{'s' * (given.k > 1)} each at temperature {params.temperature:g}"
    )
    if missing := shortfall(given.n, result.metrics):
        print(f"  {missing}")
    for line in _lines(figures):
        print(line)
    if warning := caution(result.metrics):
        print(f"  {warning}")

    if given.json:
        with outputs.whole(Path(given.json), outputs.is_figures, FIX) as temporary:
            temporary.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


def _lines(figures: Mapping[str, Any]) -> list[str]:
    """A line per figure, with its interval if it has one."""
    lines = []
    for key, value in figures.items():
        if not isinstance(value, float) or key == "temperature" or key.endswith(("/low", "/high")):
            continue
        line = f"  {key:<28} {value:.3f}"
        if f"{key}/low" in figures:
            line += f"  [{figures[f'{key}/low']:.3f}, {figures[f'{key}/high']:.3f}]"
        lines.append(line)
    return lines
