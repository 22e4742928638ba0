"""`tinyzero sample`: write completions to a file."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from tinyzero.cli.arguments import MOST_PROBLEMS, up_to
from tinyzero.cli.opening import model_arguments, open_player, settings_of
from tinyzero.rollouts import Tally
from tinyzero.run import outputs, records
from tinyzero.types import SPLITS

FIX = "name another file with --out"


def add(verb: Callable[..., argparse.ArgumentParser]) -> None:
    """The command and its arguments."""
    parser = verb("sample", run, "write completions with their rewards to a JSONL file")
    model_arguments(parser)
    parser.add_argument(
        "--n",
        type=up_to(MOST_PROBLEMS),
        default=16,
        help="completions, one a problem (default: 16)",
    )
    parser.add_argument("--split", choices=SPLITS, default="dev", help="(default: dev)")
    parser.add_argument("--out", required=True, metavar="FILE", help="the JSONL file to write")


def run(given: argparse.Namespace, rest: list[str]) -> int:
    out = Path(given.out)
    outputs.require_folder(out, FIX)
    outputs.refuse_others(out, fix=FIX)
    with open_player(given, *settings_of(given, rest)) as (player, params):
        problems = [player.task.problem(given.split, i) for i in range(given.n)]
        tally = Tally()
        rollouts = [r for group in player.play(problems, params, 0, tally) for r in group]
    from tinyzero.run.progress import rollout_record

    if tally.failed or tally.ungraded:
        print(
            f"the grader failed on {tally.failed} answers and could not grade {tally.ungraded}, "
            f"first: {tally.first_error}"
        )
    with outputs.whole(out, fix=FIX) as temporary:
        for rollout in rollouts:
            prompt = player.task.prompt(rollout.problem, player.template)
            records.append(temporary, rollout_record(0, given.split, rollout, prompt))
    print(f"wrote {len(rollouts)} completions to {out}")
    return 0
