"""`tinyzero survey`: which tasks, datasets and levels a model can learn from, before training.

A group of answers teaches something only if their rewards differ. So the survey samples dev
problems of every row (a task of a mixture, a dataset, a level), 16 answers each, and estimates for
each row in how many groups of a step right and wrong answers will meet.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from tinyzero.errors import UserError
from tinyzero.evaluate import interval, is_right, pass_at_k
from tinyzero.grading import extract_answer
from tinyzero.rollouts import Player, Tally
from tinyzero.tasks.base import NoSolution, Task
from tinyzero.tasks.guarded import GuardedTask
from tinyzero.tasks.mixture import PartOptions
from tinyzero.tools.probe import (
    FEWEST,
    GOOD,
    LEAST,
    TOO_EASY,
    TimeUp,
    expected_mixed,
    time_limit,
    unequal_share,
)
from tinyzero.types import Group, Problem, SamplingParams

SAMPLES = 16  # answers per problem
MAJORITIES = 3  # of the most frequent right answers, how many are tried on every problem
LONGEST_ANSWER = 30  # characters of an answer in the table
SEARCHED = 50  # indices per problem wanted that are searched for datasets and levels

Progress = Callable[[int, int, float], None]


@dataclass
class Row:
    """One line of the survey: a task, perhaps a dataset of it, perhaps one of its levels."""

    task: str
    dataset: str
    level: str
    options: Mapping[str, Any]
    """The options of the task that draw only these problems, if a level has such options."""
    problems: list[Problem]
    groups: list[Group] = field(default_factory=list)
    """The answers to the first of the problems, in order."""
    seconds: float = 0.0


class Figures(NamedTuple):
    """What the answers to the problems of one row are like."""

    problems: int
    pass_1: float
    pass_1_interval: tuple[float, float]
    pass_16: float
    pass_16_interval: tuple[float, float]
    signal: float
    """Expected share of groups, of the recipe's size, in which rewards differ."""
    majority: float | None
    """Score of always giving the same answer, the best one; None if no solution is known."""
    majority_answer: str
    tokens: float
    truncated: float
    seconds: float
    """Seconds per problem, for all of its answers."""


def rows_of(task: GuardedTask, levels: Sequence[int], count: int) -> list[Row]:
    """The rows of a survey, each with up to `count` distinct dev problems.

    There is a row for each task of a mixture, and each of its `levels` (all of them if none are
    named). The labels `dataset` and `level` of `describe` divide these further.

    Raises UserError if no task has one of the `levels`, or a row has no problem.
    """
    tasks = {name: part.task for name, part in task.mixture.items()} or {"": task}
    known = {level for one in tasks.values() for level in one.levels}
    if missing := [level for level in levels if level not in known]:
        shown = ", ".join(map(str, sorted(known))) or "none"
        raise UserError(f"--levels {missing[0]}: the levels of {task.name} are {shown}")

    rows: list[Row] = []
    for name, one in tasks.items():
        chosen: list[int | None] = [lv for lv in one.levels if lv in levels or not levels]
        for level in chosen or [None]:
            drawing = one if level is None else one.at(level)
            options = {k: v for k, v in drawing.given.items() if one.given.get(k) != v}
            for (dataset, labelled), drawn in _labelled_problems(drawing, name, count).items():
                shown_level = labelled if level is None else str(level)
                rows.append(Row(name or task.name, dataset, shown_level, options, drawn))
    return rows


def _labelled_problems(task: Task, name: str, count: int) -> dict[tuple[str, str], list[Problem]]:
    """Up to `count` distinct dev problems for each pair of labels (dataset, level).

    A label that the task does not have is "". The search ends when each pair has enough problems,
    and no new pair has come for a while.
    """
    by_labels: dict[tuple[str, str], dict[str, Problem]] = {}
    size, last_new = task.size("dev"), 0

    for index in range(SEARCHED * count if size is None else size):
        problem = task.problem("dev", index)
        labels = task.describe(problem)
        key = (str(labels.get("dataset", "")), str(labels.get("level", "")))
        if key not in by_labels:
            by_labels[key], last_new = {}, index
        if len(by_labels[key]) < count:
            by_labels[key].setdefault(problem.id, problem)

        is_whole = all(len(drawn) == count for drawn in by_labels.values())
        is_single = key == ("", "")
        if is_whole and (is_single or index - last_new > 20 + 10 * len(by_labels)):
            break

    if not by_labels:
        raise UserError("the split dev has no problems: give a larger data set")
    return {
        key: [replace(problem, task=name) if name else problem for problem in drawn.values()]
        for key, drawn in sorted(by_labels.items())
    }


def sample_in_time(
    player: Player,
    rows: Sequence[Row],
    params: SamplingParams,
    seconds: float,
    progress: Progress | None = None,
) -> Tally:
    """Sample `SAMPLES` answers to the problems of each row, until all are done or the time is used.

    Every round takes twice as many problems of each row as the one before, so that all rows have
    some answers early. `progress(done, total, seconds)` is called after each part of a round.

    Raises UserError if not a single problem was answered.
    """
    fitting = {id(row): [p for p in row.problems if player.fits(p, params)] for row in rows}
    for row in rows:
        row.problems = fitting[id(row)]
    total = sum(len(row.problems) for row in rows)
    started, tally, size = time.perf_counter(), Tally(), 1

    with suppress(TimeUp), time_limit(seconds):
        while any(len(row.groups) < len(row.problems) for row in rows):
            for number, row in enumerate(rows):
                before, done = time.perf_counter(), len(row.groups)
                chosen = row.problems[done : done + size]
                if not chosen:
                    continue
                first_group = done + sum(len(other.problems) for other in rows[:number])
                row.groups += player.play(chosen, params, first_group, tally)
                row.seconds += time.perf_counter() - before
                if progress:
                    answered = sum(len(other.groups) for other in rows)
                    progress(answered, total, time.perf_counter() - started)
            size *= 2

    if not any(row.groups for row in rows):
        raise UserError(
            f"no problem was answered in {seconds:.0f} s: lower --max-tokens, or give more "
            "--minutes"
        )
    return tally


def figures_of(player: Player, row: Row, group_size: int) -> Figures | None:
    """The figures of a row, or None if no problem of it was answered."""
    problems, groups = row.problems[: len(row.groups)], row.groups
    if not groups:
        return None

    right = [sum(map(is_right, group)) for group in groups]
    keys = [problem.key for problem in problems]
    once = [pass_at_k(count, SAMPLES, 1) for count in right]
    often = [pass_at_k(count, SAMPLES, SAMPLES) for count in right]

    rollouts = [rollout for group in groups for rollout in group]
    if any(rollout.reward.right is None for rollout in rollouts):
        signal = unequal_share(groups)
    else:
        signal = expected_mixed(right, SAMPLES, group_size)
    majority, answer = _majority(player, problems)

    return Figures(
        problems=len(groups),
        pass_1=_mean(once),
        pass_1_interval=interval(once, keys),
        pass_16=_mean(often),
        pass_16_interval=interval(often, keys),
        signal=signal,
        majority=majority,
        majority_answer=answer,
        tokens=_mean([rollout.completion.length for rollout in rollouts]),
        truncated=_mean([rollout.completion.finish_reason == "length" for rollout in rollouts]),
        seconds=row.seconds / len(groups),
    )


def _majority(player: Player, problems: Sequence[Problem]) -> tuple[float | None, str]:
    """The score of giving the same answer to all problems, and that answer.

    The answers that are tried are the most frequent ones of the problems' own solutions.
    """
    solutions: Counter[str] = Counter()
    for problem in problems:
        with suppress(NoSolution):
            solution = player.task.solution(problem)
            if isinstance(solution, str):  # and not one text per turn
                solutions[solution] += 1
    if not solutions:
        return None, ""

    scored = []
    for text, _ in solutions.most_common(MAJORITIES):
        verdicts = [player.judge(problem, text) for problem in problems]
        right = [bool(verdict.reward and verdict.reward.right) for verdict in verdicts]
        scored.append((_mean(right), text))
    score, text = max(scored, key=lambda pair: pair[0])
    return score, (extract_answer(text) or text).strip()


def advice(figures: Figures | None) -> str:
    """What to do with a row, in a few words."""
    if figures is None:
        return "not reached"
    if figures.problems < FEWEST:
        return "too few to tell"

    is_constant = figures.majority is not None and figures.pass_1_interval[1] <= figures.majority
    if figures.signal >= GOOD:
        return "one answer wins" if is_constant else "train"
    if figures.pass_1 >= TOO_EASY:
        return "too easy"
    return "slow start" if figures.signal >= LEAST else "too hard"


def table(rows: Sequence[Row], all_figures: Sequence[Figures | None]) -> list[str]:
    """One line per row, under a heading. Columns that say nothing are left out."""
    headings = ["task", "dataset", "level", "n", "pass@1", f"pass@{SAMPLES}", "signal"]
    headings += ["majority", "tokens", "cut", "s", "advice"]
    lines = [headings, *map(_cells, rows, all_figures)]

    columns = [list(column) for column in zip(*lines, strict=True)]
    shown = [column for column in columns if any(column[1:])]
    widths = [max(map(len, column)) for column in shown]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in zip(*shown, strict=True)
    ]


def _cells(row: Row, figures: Figures | None) -> list[str]:
    names = [row.task, row.dataset, row.level]
    if figures is None:
        return [*names, "0", *[""] * 7, advice(figures)]
    majority = "" if figures.majority is None else f"{figures.majority:.2f}"
    return [
        *names,
        str(figures.problems),
        _with_interval(figures.pass_1, figures.pass_1_interval),
        _with_interval(figures.pass_16, figures.pass_16_interval),
        f"{figures.signal:.0%}",
        majority,
        f"{figures.tokens:.0f}",
        f"{figures.truncated:.0%}",
        f"{figures.seconds:.1f}",
        advice(figures),
    ]


def _with_interval(value: float, ends: tuple[float, float]) -> str:
    return f"{value:.2f} [{ends[0]:.2f}, {ends[1]:.2f}]"


def recommended(rows: Sequence[Row], all_figures: Sequence[Figures | None]) -> list[Row]:
    """The rows to train on: those with most signal first. Empty if none has enough."""
    pairs = [
        (figures.signal, row)
        for row, figures in zip(rows, all_figures, strict=True)
        if figures is not None and advice(figures) == "train"
    ]
    return [row for _, row in sorted(pairs, key=lambda pair: -pair[0])]


def options_for(task: GuardedTask, chosen: Sequence[Row]) -> dict[str, Any]:
    """The options that train on the `chosen` rows and nothing else, as far as options can say it.

    For a mixture these are its tasks, for datasets their names, and for levels the first row's. If
    several levels were chosen, a curriculum takes the place of one level.
    """
    names = list(dict.fromkeys(row.task for row in chosen))
    if task.mixture:
        kept = [part for part in task.given["of"] if _label(part) in names]
        return {} if len(kept) == len(task.mixture) else {"task.of": kept}

    options: dict[str, Any] = {}
    datasets = list(dict.fromkeys(row.dataset for row in chosen if row.dataset))
    if datasets and "datasets" in task.given and datasets != list(task.given["datasets"]):
        options["task.datasets"] = datasets

    chosen_levels = list(dict.fromkeys(row.level for row in chosen))
    if len(chosen_levels) > 1 and task.levels:
        return options | {"curriculum.rule": "threshold"}
    return options | {f"task.{name}": value for name, value in chosen[0].options.items()}


def report(rows: Sequence[Row], all_figures: Sequence[Figures | None]) -> list[dict[str, Any]]:
    """The rows for a JSON file, one object each."""
    entries = []
    for row, figures in zip(rows, all_figures, strict=True):
        entry: dict[str, Any] = {"task": row.task, "dataset": row.dataset, "level": row.level}
        entry |= {} if figures is None else figures._asdict()
        entries.append(entry | {"options": dict(row.options), "advice": advice(figures)})
    return entries


def _label(part: Mapping[str, Any]) -> str:
    """The label of a task in the options of a mixture."""
    return PartOptions(**part).called


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers) if numbers else 0.0
