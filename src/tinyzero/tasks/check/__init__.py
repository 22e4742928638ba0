"""Is a task fit to train on? A grader that can be fooled, or that fails, spoils a run.

`check_task` tries what a model will try, and reports what failed, on which input, and what to
change. The task runs in a worker process with limits, which is watched for side effects: files,
processes, networks, and running the model's text.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from statistics import median
from typing import Any

from tinyzero.errors import UserError
from tinyzero.registry import suggest
from tinyzero.tasks.base import Task
from tinyzero.tasks.check.attacking import DEFAULT, STEP_ANSWERS, AttackRun, Solved, is_prompt
from tinyzero.tasks.check.attacks import ALLOWABLE
from tinyzero.tasks.check.findings import Findings, show
from tinyzero.tasks.check.functions import RewardFunction
from tinyzero.tasks.check.sandbox import MAX_WAIT, Answer, Sandbox
from tinyzero.tasks.guarded import GuardedTask
from tinyzero.tasks.prompts import TEMPLATES
from tinyzero.types import SPLITS, Problem, Reward, Split

__all__ = ["ALLOWABLE", "Check", "RewardFunction", "check_task", "examine", "variants"]

MAX_SECONDS = 1.0  # for one reward, which should take milliseconds
TIMED = 3  # rewards that are timed first: the attacks take thousands

Drawn = dict[tuple[Split, int], Problem]
"""The drawn problems by split and index."""


@dataclass
class Check:
    """The result of a check. The task passed if `failures` is empty."""

    failures: list[str] = field(default_factory=list)
    """One line per kind of finding: the input, what happened, and what to change."""
    allowed: list[str] = field(default_factory=list)
    """The names of findings that are allowed."""
    notes: list[str] = field(default_factory=list)
    """What could not be checked, and what is no fault but good to know."""
    attacks: int = 0
    """How many texts were graded."""
    problems: int = 0
    """How many problems were attacked."""
    drawn: int = 0
    """How many problems were drawn."""
    solved: int = 0
    """How many of these have an own solution that gets full marks."""
    reward_seconds: float = 0.0
    """The median time of a reward, by the clock."""

    def summary(self) -> str:
        """How much was tried, in one line.

        >>> Check(attacks=3546, problems=15, reward_seconds=0.0214).summary()
        '3,546 attacks on 15 problems, 21 ms per reward'
        """
        milliseconds = 1000 * self.reward_seconds
        shown = f"{milliseconds:.0f}" if milliseconds >= 10 else f"{milliseconds:.2g}"
        return f"{self.attacks:,} attacks on {self.problems} problems, {shown} ms per reward"


def check_task(
    task: Task, problems: int = 200, *, allow: Iterable[str] = (), seconds: float = MAX_SECONDS
) -> list[str]:
    """What is wrong with `task`: one line per finding. The list is empty if the task passes.

    Each line names an input that shows the finding, and the fix. `problems` problems of each split
    are tried, and one reward may take `seconds`. `allow` names findings that are intended, in
    addition to the task's own `allowed_attacks`.

    Raises UserError if `problems` is below 1, or `allow` has an unknown name.

    Example: `check_task(load_task("countdown"), allow=["junk around the answer"])`.
    """
    return examine(task, problems, allow=allow, seconds=seconds).failures


def examine(
    task: Task,
    problems: int = 200,
    *,
    allow: Iterable[str] = (),
    seconds: float = MAX_SECONDS,
    wait: float = MAX_WAIT,
) -> Check:
    """Like `check_task`, but returns notes and counts too. Calls except rewards may take `wait` s.

    Example: `examine(load_task("my_task.py:MyTask")).notes`.
    """
    if problems < 1:
        raise UserError(f"problems is {problems}: try at least 1 problem of each split")
    allowed = _allowed_names(task, allow)

    with Sandbox(task, seconds, wait) as sandbox:
        drawn, failures = _draw(sandbox, problems)
        findings = Findings(len(drawn), "problems")
        _check_repeatable(sandbox, drawn, findings)
        _check_splits(drawn, findings)
        _check_prompts(sandbox, drawn, findings)
        reward_times = _time_rewards(sandbox, drawn)
        if reward_times and min(reward_times) > seconds:
            lines = [*failures, *findings.lines(), _too_slow(median(reward_times))]
            return Check(lines, drawn=len(drawn), reward_seconds=median(reward_times))

        solved, notes = _solve(sandbox, drawn, findings)

        attack_run = AttackRun(sandbox, drawn, solved, allowed)
        attack_run.run()

    return Check(
        failures=[*failures, *findings.lines(), *attack_run.failures()],
        allowed=attack_run.allowed_findings(),
        notes=[*notes, *attack_run.notes()],
        attacks=attack_run.attacks,
        problems=len(attack_run.subjects),
        drawn=len(drawn),
        solved=len(solved),
        reward_seconds=attack_run.reward_seconds(),
    )


def _allowed_names(task: Any, allow: Iterable[str]) -> set[str]:
    """The findings that are allowed. Raises UserError if one of them cannot be."""
    owner = task.owner if isinstance(task, GuardedTask) else task
    names = {*getattr(owner, "allowed_attacks", ()), *allow}
    for name in sorted(names - set(ALLOWABLE)):
        raise UserError(f"{name!r} cannot be allowed{suggest(name, ALLOWABLE)}")
    return names


def _draw(sandbox: Sandbox, problems: int) -> tuple[Drawn, list[str]]:
    """The problems, and the failures. A split in which a problem fails is drawn no further."""
    drawn: Drawn = {}
    findings = Findings(len(SPLITS), "splits")
    for split in SPLITS:
        size = sandbox.ask("size", split).value
        count = problems if size is None else min(problems, size)
        for index in range(count):
            answer = sandbox.ask("problem", split, index)
            if not _is_sound_problem(answer, split, index, findings):
                break
            drawn[split, index] = answer.value
    return drawn, findings.lines()


def _is_sound_problem(answer: Answer, split: Split, index: int, findings: Findings) -> bool:
    """Whether this is a problem that a run can use; if not, why is added to the findings."""
    call = f"problem({split!r}, {index})"
    problem = answer.value
    if not isinstance(problem, Problem):
        line = f"{call} {answer.outcome()} instead of a Problem"
        findings.add("not a problem", split, line, "return a Problem for every split and index")
        return False

    if not isinstance(problem.id, str) or not isinstance(problem.key, str):
        line = f"{call} gives the id {show(problem.id)} and the key {show(problem.key)}"
        findings.add("names", split, line, "both must be text")
        return False

    try:
        json.dumps(dict(problem.fields))
    except Exception as error:
        line = f"fields of {call} cannot be written as JSON: {error}"
        findings.add("fields", split, line, "use a dict of text, numbers, lists and dicts")
        return False

    if problem.split != split:
        line = f"{call} says that its split is {problem.split!r}"
        findings.add("split", split, line, "give the Problem the split that was asked for")
        return False
    return True


def _check_repeatable(sandbox: Sandbox, drawn: Drawn, findings: Findings) -> None:
    """Draw every problem again, in reverse order, which reveals a hidden random generator."""
    for split, index in reversed(drawn):
        first = drawn[split, index]
        again = sandbox.ask("problem", split, index)
        if again.value != first:
            line = (
                f"problem({split!r}, {index}) was {show(first)} and, asked again, {again.outcome()}"
            )
            fix = 'draw with random.Random(f"{split}:{index}") and nothing else'
            findings.add("not repeatable", f"{split}:{index}", line, fix)
        if again.died:
            break


def _check_splits(drawn: Drawn, findings: Findings) -> None:
    """No key and no id may be in two splits."""
    for name in ("key", "id"):
        first_split: dict[str, Split] = {}
        for problem in drawn.values():
            value = getattr(problem, name)
            split = first_split.setdefault(value, problem.split)
            if split != problem.split:
                line = f"{name} {show(value)} is in the splits {split} and {problem.split}"
                fix = "let the key choose the split: tinyzero.tasks.splits.split_by_key"
                findings.add(f"shared {name}", value, line, fix)


def _check_prompts(sandbox: Sandbox, drawn: Drawn, findings: Findings) -> None:
    """Some template must give a prompt, and an unknown one must raise UserError."""
    for problem in drawn.values():
        answers = {name: sandbox.ask("prompt", problem, name) for name in TEMPLATES}
        if not any(is_prompt(answer.value) for answer in answers.values()):
            outcome = answers[TEMPLATES[0]].outcome()
            line = f"prompt of problem {problem.id!r} {outcome} instead of text or messages"
            fix = "return a prompt in at least one template"
            findings.add("no prompt", problem.id, f"{line}, in any template", fix)

        for template, answer in answers.items():
            if not is_prompt(answer.value) and not answer.refused:
                subject = f"prompt of problem {problem.id!r} in template {template!r}"
                fix = "raise UserError for a template that the task does not have"
                kind = ("prompt", answer.error.partition(":")[0])
                findings.add(kind, problem.id, f"{subject} {answer.outcome()}", fix)

        if any(answer.died for answer in answers.values()):
            break


def _time_rewards(sandbox: Sandbox, drawn: Drawn) -> list[float]:
    """Seconds by the clock of the first few rewards, of own solutions if there are any.

    The first reward is repeated, because it may load something. If it never returns, it is the only
    one.
    """
    times: list[float] = []
    for problem in islice(drawn.values(), TIMED):
        solution = sandbox.ask("solution", problem).value
        text = solution if isinstance(solution, str) else DEFAULT.around("7")
        if not times:
            first = sandbox.ask("practise", problem, text)
            if first.died:
                return [first.elapsed]
        times.append(sandbox.grade(problem, text).elapsed)
    return times


def _too_slow(seconds: float) -> str:
    """The finding about a reward that is too slow to be attacked, and to train on."""
    return (
        f"reward takes {1000 * seconds:,.0f} ms per call, so no attack was tried: one step of the "
        f"laptop recipe calls it {STEP_ANSWERS} times, which takes {STEP_ANSWERS * seconds:,.0f} s "
        "of one worker's time; make it faster, then run the check again"
    )


def _solve(
    sandbox: Sandbox, drawn: Drawn, findings: Findings
) -> tuple[Mapping[str, Solved], list[str]]:
    """The task's own solutions that are right, by problem id, and notes on what is not proven."""
    solved: dict[str, Solved] = {}
    unknown = 0
    for problem in drawn.values():
        solution = sandbox.ask("solution", problem)
        if solution.unknown:
            unknown += 1
            continue
        if not isinstance(solution.value, str):
            line = f"solution of problem {problem.id!r} {solution.outcome()} instead of text"
            fix = "return a right completion, or raise NoSolution"
            findings.add(("solution", solution.error.partition(":")[0]), problem.id, line, fix)
            if solution.died:
                break
            continue

        sandbox.ask("practise", problem, solution.value)  # what loads on the first call, loads here
        answer = sandbox.grade(problem, solution.value)
        if isinstance(answer.value, Reward) and answer.value.right is True:
            solved[problem.id] = Solved(solution.value, answer.value)
            continue

        subject = f"own solution {show(solution.value)} of problem {problem.id!r}"
        line = f"{subject} {answer.outcome()} instead of Reward(1.0)"
        fix = "the reward of a right completion must have right=True"
        findings.add(("unpaid", answer.error.partition(":")[0]), problem.id, line, fix)
        if answer.died:
            break

    notes = []
    if unknown:
        notes.append(
            f"{unknown} of {len(drawn)} problems have no known solution, so nothing shows that "
            "their right answers are paid"
        )
    return solved, notes
