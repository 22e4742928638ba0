"""`tinyzero survey`: which tasks, datasets and levels a model can learn from."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tinyzero.cli.arguments import MOST_PROBLEMS, amount, up_to
from tinyzero.cli.opening import (
    length_arguments,
    model_options,
    open_player,
    settings_of,
    source_arguments,
)
from tinyzero.cli.probe import train_command
from tinyzero.run import outputs
from tinyzero.run.console import clock_text
from tinyzero.tasks import load_task

FIX = "name another file with --json"
EXAMPLES = """\
  tinyzero survey tiny --task.min_count 2 --task.max_count 5
  tinyzero survey FOLDER --task countdown --levels 2,3 --model.prompt instruct
  tinyzero survey tiny --task mixture \\
      --task.of '[{name="countdown"}, {name="multiplication"}]'"""


def add(verb: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command and its arguments."""
    parser = verb(
        "survey",
        run,
        "find out which tasks, datasets and levels a model can learn from",
        options=model_options,
        examples=EXAMPLES,
        usage="MODEL",
    )
    source_arguments(parser)
    length_arguments(parser)
    parser.add_argument(
        "--levels",
        type=_levels,
        default=[],
        metavar="N,N",
        help="only these levels of the task (default: all)",
    )
    parser.add_argument(
        "--problems",
        type=up_to(MOST_PROBLEMS),
        default=32,
        metavar="N",
        help="distinct dev problems per row, with 16 answers each (default: 32)",
    )
    parser.add_argument(
        "--minutes",
        type=amount,
        default=10.0,
        metavar="NUMBER",
        help="most time for sampling; rows then have fewer problems (default: 10)",
    )
    parser.add_argument("--json", metavar="FILE", help="also write every figure to this file")


def run(given: argparse.Namespace, overrides: dict[str, Any]) -> int:
    """Sample, and print the table, what to train on and the command for it."""
    from tinyzero.tools import survey

    if given.json:
        outputs.require_folder(Path(given.json), FIX)
        outputs.refuse_others(Path(given.json), outputs.is_figures, FIX)

    given.temperature, given.top_p, given.top_k = None, 1.0, 0  # the recipe's, as in training
    config, model = settings_of(given, overrides)
    task = load_task(config.task.name, config.task.options)
    rows = survey.rows_of(task, given.levels, given.problems)  # mistakes come before the model

    with open_player(given, config, model) as (player, params):
        params = replace(
            params,
            n=survey.SAMPLES,
            temperature=config.rollout.temperature,
            max_tokens=given.max_tokens or config.rollout.max_tokens,
        )
        problems = sum(len(row.problems) for row in rows)
        print(
            f"surveying {given.model} on {config.task.name}: {len(rows)} rows, {problems} dev "
            f"problems,\n  {params.n} answers of up to {params.max_tokens} tokens each at "
            f"temperature {params.temperature:g}",
            flush=True,
        )
        seconds = 60 * given.minutes
        tally = survey.sample_in_time(player, rows, params, seconds, _progress(seconds))
        group_size = config.rollout.samples
        figures = [survey.figures_of(player, row, group_size) for row in rows]

    print("\n".join(["", *survey.table(rows, figures), ""]))
    print(
        f"signal: share of groups of {group_size} in which rewards will differ; majority: the "
        "score\n  of always giving the same answer; s: seconds per problem"
    )
    if tally.failed or tally.ungraded:
        print(
            f"the grader failed on {tally.failed} answers and could not grade {tally.ungraded};\n"
            f"  the first error: {tally.first_error}"
        )

    chosen = survey.recommended(rows, figures)
    if chosen:
        print("\ntrain on the rows that say so, those with most signal first:")
        options = {**overrides, **survey.options_for(task, chosen)}
        options["rollout.max_tokens"] = params.max_tokens
        print(f"\n  {train_command(given, config, model, options)}")
    else:
        print("\nno row has enough signal to train on: use easier problems, or a larger model")

    if given.json:
        report = {
            "model": given.model,
            "task": config.task.name,
            "samples": params.n,
            "group_size": group_size,
            "temperature": params.temperature,
            "max_tokens": params.max_tokens,
            "rows": survey.report(rows, figures),
        }
        with outputs.whole(Path(given.json), outputs.is_figures, FIX) as temporary:
            temporary.write_text(json.dumps(report, indent=2) + "\n")
    return 0


def _progress(limit: float) -> Callable[[int, int, float], None]:
    """What shows the progress: a line whenever the answered problems have grown by an eighth."""
    shown = 0.0

    def show(done: int, total: int, seconds: float) -> None:
        nonlocal shown
        if done < total and done / total < shown + 1 / 8:
            return
        shown = done / total
        left = min(seconds / done * (total - done), max(0.0, limit - seconds))
        print(
            f"  {done} of {total} problems in {clock_text(seconds)}, left {clock_text(left)}",
            flush=True,
        )

    return show


def _levels(text: str) -> list[int]:
    """Levels with commas between them, such as 2,3,4."""
    try:
        return [int(level) for level in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of levels: write 2,3") from None
