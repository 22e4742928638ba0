"""`tinyzero sample`: write completions to a file."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from tinyzero.cli.arguments import positive
from tinyzero.cli.opening import model_arguments, open_player, settings_of
from tinyzero.errors import UserError
from tinyzero.rollouts import Tally
from tinyzero.run import records
from tinyzero.types import SPLITS


def add(verb: Callable[..., argparse.ArgumentParser]) -> None:
    """The command and its arguments."""
    parser = verb("sample", run, "write completions with their rewards to a JSONL file")
    model_arguments(parser)
    parser.add_argument(
        "--n", type=positive, default=16, help="completions, one a problem (default: 16)"
    )
    parser.add_argument("--split", choices=SPLITS, default="dev", help="(default: dev)")
    parser.add_argument("--out", required=True, metavar="FILE", help="the JSONL file to write")


def run(given: argparse.Namespace, rest: list[str]) -> int:
    out = Path(given.out)
    if out.exists():
        raise UserError(f"{out} exists: name another file with --out")
    if not out.parent.is_dir():
        raise UserError(f"{out.parent} is no folder: make it, or name another file with --out")
    with open_player(given, *settings_of(given, rest)) as (player, params):
        problems = [player.task.problem(given.split, i) for i in range(given.n)]
        tally = Tally()
        rollouts = [r for group in player.play(problems, params, 0, tally) for r in group]
    if tally.failed or tally.ungraded:
        print(
            f"the grader failed on {tally.failed} answers and could not grade {tally.ungraded}, "
            f"first: {tally.first_error}"
        )
    from tinyzero.train import rollout_record

    for rollout in rollouts:
        prompt = player.task.prompt(rollout.problem, player.template)
        records.append(out, rollout_record(0, given.split, rollout, prompt))
    print(f"wrote {len(rollouts)} completions to {out}")
    return 0
