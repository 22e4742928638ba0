"""Checks before a run's model is loaded: folder, problems, grader, prompt lengths."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from tinyzero.config import MEANT, Config
from tinyzero.curriculum import Curriculum
from tinyzero.errors import UserError, short_path, typed_path
from tinyzero.evaluate import distinct_problems
from tinyzero.grading import Grader
from tinyzero.rollouts import judge
from tinyzero.streams import Streams
from tinyzero.tasks.base import NoSolution, Task
from tinyzero.types import Problem, Split

SOLVED_PROBLEMS = 8  # problems whose own solutions are graded

Note = Callable[[str], None]


def require_new_folder(folder: Path) -> None:
    """Raise UserError if a new run cannot be written to `folder`. The folder is not made yet."""
    try:
        if folder.is_dir() and any(folder.iterdir()):
            raise UserError(
                f"{short_path(folder)} exists: {_what_to_do(folder)} another with --run.dir"
            )
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        with tempfile.TemporaryDirectory(prefix=".tmp-", dir=existing):
            pass
    except OSError as error:
        raise UserError(
            f"cannot write {short_path(folder)}: {error.strerror}; "
            "name another folder with --run.dir"
        ) from None


def require_sampler(name: str) -> None:
    """Raise UserError if the sampler called `name` needs vLLM and it is not installed."""
    if name == "vllm" and find_spec("vllm") is None:
        raise UserError(
            "sampler.name is vllm, which is not installed: pip install 'tinyzero[vllm]', "
            "or use --sampler.name torch"
        )


def draw_problems(config: Config, task: Task, note: Note) -> list[Problem]:
    """The first problems of the run: those of two steps, and all of its evaluations.

    A finite split that has too few problems is used in full, with a note. Raises UserError if
    another split has too few, the task cannot draw a problem, or its fields cannot be written as
    JSON.
    """
    problems = [task.problem("train", index) for index in range(2 * config.rollout.prompts)]
    problems += _first_of_each_level(config, task)

    wanted: dict[str, tuple[Split, int]] = {
        "eval.test_problems": ("test", config.eval.test_problems),
        "eval.problems": ("dev", config.eval.dev_problems),
    }
    for option, (split, count) in wanted.items():
        if count:
            problems += _evaluation_problems(option, task, split, count, note)

    try:
        json.dumps([dict(problem.fields) for problem in problems])  # rollouts are written with them
    except (TypeError, ValueError) as error:
        raise UserError(f"fields of a problem cannot be written as JSON: {error}") from None
    return problems


def _first_of_each_level(config: Config, task: Task) -> list[Problem]:
    """A problem of each level that the curriculum can reach."""
    streams = Streams(task, Curriculum(**config.curriculum.model_dump()))
    return [
        streams.problem(name, level, 0)
        for name, one in streams.tasks.items()
        if streams.has_levels(name)
        for level in one.levels
    ]


def _evaluation_problems(
    option: str, task: Task, split: Split, count: int, note: Note
) -> list[Problem]:
    try:
        problems = distinct_problems(task, split, count)
    except UserError as error:
        raise UserError(f"{option} is {count}: {error}") from None

    if len(problems) < count:
        note(
            f"{option} is {count}: split {split!r} has {len(problems)} distinct problems, "
            "so all of them are used"
        )
    return problems


def check_grading(task: Task, grader: Grader, problems: Sequence[Problem], note: Note) -> None:
    """Grade the task's own solutions of the first problems.

    Raises UserError if the grader raises or hangs on one; notes if one counts as wrong.
    """
    for problem in problems[:SOLVED_PROBLEMS]:
        try:
            solution = task.solution(problem)
        except NoSolution:
            continue

        verdict = judge(grader, problem, solution)
        if verdict.reward is None or verdict.reward.failure:
            raise UserError(
                f"the grader fails on the task's own solution of problem {problem.id!r}: "
                f"{verdict.error}"
            )
        if verdict.reward.right is False:
            note(
                f"the task's own solution of problem {problem.id!r} counts as wrong: "
                "try the task with `tinyzero check-task`"
            )
            return


def check_lengths(config: Config, lengths: Sequence[int], context: int, note: Note) -> None:
    """Check that prompts of `lengths` tokens, and full answers, fit into the model's context.

    Raises UserError if none fits, or if one does not and rollout.too_long is "error". If only some
    fit, it notes how many will be skipped.
    """
    limits = {"rollout": config.rollout.max_tokens}
    evaluates = config.eval.test_problems or config.eval.dev_problems
    if evaluates and config.eval_tokens != config.rollout.max_tokens:
        limits["eval"] = config.eval_tokens

    for section, limit in limits.items():
        too_long = [length for length in lengths if length + limit > context]
        if not too_long:
            continue
        if len(too_long) == len(lengths) or config.rollout.too_long == "error":
            longest = max(too_long)
            room = context - longest
            fix = f"lower it to {room} or less"
            if room < 1:
                fix = "use shorter prompts, or a model with a longer context"
            raise UserError(
                f"{section}.max_tokens {limit} and a prompt of {longest} tokens exceed the model's "
                f"context of {context}: {fix}"
            )
        note(
            f"{len(too_long)} of the first {len(lengths)} prompts do not fit into the model's "
            f"context of {context} tokens with {section}.max_tokens {limit}: "
            "such problems are skipped"
        )


def _what_to_do(folder: Path) -> str:
    if (folder / MEANT).is_file():
        return f"resume that run with `tinyzero train --resume {typed_path(folder)}`, or name"
    return "it is not a run, so name"
