"""`tinyzero sample`: write completions to a file."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tinyzero.cli.arguments import MOST_PROBLEMS, up_to
from tinyzero.cli.opening import model_arguments, model_options, open_player, settings_of
from tinyzero.rollouts import Tally
from tinyzero.run import outputs, records
from tinyzero.types import SPLITS

FIX = "name another file with --out"
EXAMPLES = """\
  tinyzero sample runs/laptop-grpo-0 --n 100 --out samples.jsonl
  tinyzero sample tiny --temperature 0 --split test --out greedy.jsonl"""


def add(verb: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command and its arguments."""
    parser = verb(
        "sample",
        run,
        "write a model's completions and their rewards to a JSONL file",
        options=model_options,
        examples=EXAMPLES,
        usage="MODEL --out FILE",
    )
    model_arguments(parser)
    parser.add_argument(
        "--n",
        type=up_to(MOST_PROBLEMS),
        default=16,
        metavar="N",
        help="problems, with one completion per problem (default: 16)",
    )
    parser.add_argument(
        "--split", choices=SPLITS, default="dev", help="which problems (default: dev)"
    )
    parser.add_argument("--out", required=True, metavar="FILE", help="the JSONL file to write")


def run(given: argparse.Namespace, overrides: dict[str, Any]) -> int:
    """Sample completions and write them with their rewards."""
    out = Path(given.out)
    outputs.require_folder(out, FIX)
    outputs.refuse_others(out, fix=FIX)

    with open_player(given, *settings_of(given, overrides)) as (player, params):
        problems = [player.task.problem(given.split, index) for index in range(given.n)]
        tally = Tally()
        groups = player.play(problems, params, 0, tally)
        rollouts = [rollout for group in groups for rollout in group]

    from tinyzero.run.progress import rollout_record

    if tally.failed or tally.ungraded:
        print(
            f"the grader failed on {tally.failed} answers and could not grade {tally.ungraded}; "
            f"the first error: {tally.first_error}"
        )
    with outputs.whole(out, fix=FIX) as temporary:
        for rollout in rollouts:
            prompt = player.task.prompt(rollout.problem, player.template)
            records.append(temporary, rollout_record(0, given.split, rollout, prompt))
    print(f"wrote {len(rollouts)} completions to {out}")
    return 0
