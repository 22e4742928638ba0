"""`tinyzero eval`: score a model."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tinyzero.cli.arguments import MOST_PROBLEMS, MOST_SAMPLES, up_to
from tinyzero.cli.opening import model_arguments, open_player, settings_of
from tinyzero.evaluate import EVAL_SEED, caution, evaluate, shortfall
from tinyzero.run import outputs
from tinyzero.types import SPLITS

FIX = "name another file with --json"


def add(verb: Callable[..., argparse.ArgumentParser]) -> None:
    """The command and its arguments."""
    parser = verb("eval", run, "score a model: pass@1, pass@k and greedy, with 95 %% intervals")
    model_arguments(parser, seed=EVAL_SEED)
    parser.add_argument(
        "--n", type=up_to(MOST_PROBLEMS), default=256, help="distinct problems (default: 256)"
    )
    parser.add_argument(
        "--k", type=up_to(MOST_SAMPLES), default=1, help="completions a problem (default: 1)"
    )
    parser.add_argument("--split", choices=SPLITS, default="test", help="(default: test)")
    parser.add_argument("--json", metavar="FILE", help="write every figure here too")


def run(given: argparse.Namespace, rest: list[str]) -> int:
    if given.json:
        outputs.require_folder(Path(given.json), FIX)
        outputs.refuse_others(Path(given.json), outputs.is_figures, FIX)
    with open_player(given, *settings_of(given, rest)) as (player, params):
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
        f"{given.model}: {result.metrics['n']} {given.split} problems, {given.k} completions each "
        f"at temperature {params.temperature:g}"
    )
    if told := shortfall(given.n, result.metrics):
        print(f"  {told}")
    for key, value in figures.items():
        if f"{key}/low" in figures:
            print(
                f"  {key:<28} {value:.3f}  [{figures[f'{key}/low']:.3f}, {figures[f'{key}/high']:.3f}]"
            )
        elif (
            isinstance(value, float)
            and not key.endswith(("/low", "/high"))
            and key != "temperature"
        ):
            print(f"  {key:<28} {value:.3f}")
    if said := caution(result.metrics):
        print(f"  {said}")
    if given.json:
        with outputs.whole(Path(given.json), outputs.is_figures, FIX) as temporary:
            temporary.write_text(json.dumps(figures, indent=2) + "\n")
    return 0
