"""Is this task fit to train on? A grader that can be fooled, or that fails, spoils a run.

`check_task` tries what a model will try, and says what failed on which input. Everything of the task
runs in a worker process with limits, watched for what it does to files, processes and networks.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

from tinyzero.errors import UserError
from tinyzero.registry import suggest
from tinyzero.tasks.base import Task
from tinyzero.tasks.check import attacks
from tinyzero.tasks.check.attacks import ALLOWABLE, Attack, Known
from tinyzero.tasks.check.functions import RewardFunction
from tinyzero.tasks.check.hook import Act
from tinyzero.tasks.check.room import MAX_WAIT, Answer, Room, show
from tinyzero.tasks.check.wrapping import USUAL, Wrapping, same, unwrap
from tinyzero.tasks.guarded import GuardedTask
from tinyzero.tasks.prompts import TEMPLATES
from tinyzero.types import SPLITS, Problem, Prompt, Reward, Split

__all__ = ["ALLOWABLE", "Check", "RewardFunction", "check_task", "examine"]

SHOWN = 3  # failures of one kind; the rest are mostly the same
TRIED = 15  # problems that see the attacks, of all splits together
MAX_SECONDS = 1.0  # for one reward; a sound one takes milliseconds
OTHERS = 8  # other problems whose answers serve as wrong ones
DEFAULT = USUAL[0]  # if no solution shows how answers are wrapped

Drawn = dict[tuple[Split, int], Problem]
Finding = tuple[str, str]
"""The kind of a finding, and the name that its lines are grouped by."""


@dataclass
class Check:
    """What a check found. `failures` is empty if the task passed."""

    failures: list[str] = field(default_factory=list)
    allowed: list[str] = field(default_factory=list)
    """What was paid or done, and is allowed."""
    notes: list[str] = field(default_factory=list)
    """What could not be checked."""
    attacks: int = 0
    problems: int = 0

    def summary(self) -> str:
        """How much was tried, in one line."""
        return f"{self.attacks:,} attacks on {self.problems} problems"


def check_task(
    task: Task, problems: int = 200, *, allow: Iterable[str] = (), seconds: float = MAX_SECONDS
) -> list[str]:
    """What is wrong with `task`, one line per finding with an input that shows it; empty if it passes.

    Tries `problems` problems of each split. One reward may take `seconds`. `allow` adds to the task's
    own `allowed_attacks`. Raises UserError if `problems` is below 1, or `allow` has an unknown name.
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
    """As `check_task`, with everything it found. What is no reward may take `wait` seconds."""
    if problems < 1:
        raise UserError(f"{problems} problems show nothing of a task: try at least 1")
    allowed = _allowed(task, allow)
    with Room(task, seconds, wait) as room:
        drawn, failures = _draw(room, problems)
        for check in (_same_again, _disjoint, _prompts):
            failures += islice(check(room, drawn), SHOWN)
        solved, unsolved, notes = _solve(room, drawn)
        siege = _Siege(room, drawn, solved, allowed)
        siege.run()
    return Check(
        failures=[*failures, *unsolved, *siege.failures()],
        allowed=siege.permitted(),
        notes=[*notes, *siege.notes],
        attacks=siege.attacks,
        problems=len(siege.subjects),
    )


def _allowed(task: Any, allow: Iterable[str]) -> set[str]:
    """The attacks that may be paid. Raises UserError on a name that is none of them."""
    owner = task.owner if isinstance(task, GuardedTask) else task
    names = {*getattr(owner, "allowed_attacks", ()), *allow}
    for name in sorted(names - set(ALLOWABLE)):
        raise UserError(f"{name!r} cannot be allowed{suggest(name, ALLOWABLE)}")
    return names


def _draw(room: Room, problems: int) -> tuple[Drawn, list[str]]:
    """The problems by split and index, and what went wrong: nothing more is drawn of a split that failed."""
    drawn: Drawn = {}
    failures = []
    for split in SPLITS:
        size = room.ask("size", split).value
        for index in range(problems if size is None else min(problems, size)):
            answer = room.ask("problem", split, index)
            if failure := _not_a_problem(answer, split, index):
                failures.append(failure)
                break
            drawn[split, index] = answer.value
    return drawn, failures


def _not_a_problem(answer: Answer, split: Split, index: int) -> str:
    """What is wrong with a drawn problem, or nothing."""
    problem = answer.value
    if not (
        isinstance(problem, Problem)
        and isinstance(problem.id, str)
        and isinstance(problem.key, str)
    ):
        return f"problem({split!r}, {index}) {answer.said()} instead of a Problem with id and key"
    try:
        json.dumps(dict(problem.fields))
    except Exception as error:
        return f"fields of problem({split!r}, {index}) cannot be written as JSON: {error}"
    if problem.split != split:
        return f"problem({split!r}, {index}) says that its split is {problem.split!r}"
    return ""


def _same_again(room: Room, drawn: Drawn) -> Iterator[str]:
    for split, index in reversed(drawn):  # another order finds a hidden stream of random numbers
        again = room.ask("problem", split, index)
        if again.value != drawn[split, index]:
            first = show(drawn[split, index])
            yield f"problem({split!r}, {index}) was {first} and, asked again, {again.said()}"


def _disjoint(room: Room, drawn: Drawn) -> Iterator[str]:
    for name in ("key", "id"):
        first: dict[str, Split] = {}
        for problem in drawn.values():
            value = getattr(problem, name)
            if first.setdefault(value, problem.split) != problem.split:
                yield f"{name} {show(value)} is in the splits {first[value]} and {problem.split}"


def _prompts(room: Room, drawn: Drawn) -> Iterator[str]:
    for problem in drawn.values():
        answers = [room.ask("prompt", problem, template) for template in TEMPLATES]
        if not any(_is_prompt(answer.value) for answer in answers):
            said = answers[0].said()
            yield f"prompt of problem {problem.id!r} {said} instead of text or messages, in any template"
        for template, answer in zip(TEMPLATES, answers, strict=True):
            if not _is_prompt(answer.value) and not answer.refused:
                said = answer.said()
                yield f"prompt of problem {problem.id!r} in template {template!r} {said}: raise UserError"


class Solved(NamedTuple):
    """A problem's own solution, and what it earns."""

    text: str
    reward: Reward


def _solve(room: Room, drawn: Drawn) -> tuple[dict[str, Solved], list[str], list[str]]:
    """The solutions that are right, by problem id; failures; and what is left unproven."""
    solved: dict[str, Solved] = {}
    failures: list[str] = []
    unknown = 0
    for problem in drawn.values():
        solution = room.ask("solution", problem)
        if solution.unknown:
            unknown += 1
            continue
        if not isinstance(solution.value, str):
            failures.append(f"solution of problem {problem.id!r} {solution.said()} instead of text")
        else:
            room.ask("practise", problem, solution.value)  # what loads on first use, loads here
            answer = room.grade(problem, solution.value)
            if isinstance(answer.value, Reward) and answer.value.right is True:
                solved[problem.id] = Solved(solution.value, answer.value)
            else:
                failures.append(
                    f"own solution {show(solution.value)} of problem {problem.id!r} "
                    f"{answer.said()} instead of Reward(1.0)"
                )
        if len(failures) >= SHOWN:
            break
    notes = [f"{unknown} problems have no known solution: that one is paid is unproven"]
    return solved, failures, notes if unknown else []


class _Siege:
    """The attacks on a few problems of each split, and what they found."""

    def __init__(
        self, room: Room, drawn: Drawn, solved: Mapping[str, Solved], allowed: set[str]
    ) -> None:
        self.room, self.solved, self.allowed = room, solved, allowed
        each = TRIED // max(len({split for split, _ in drawn}), 1)
        self.subjects = [problem for (_, index), problem in drawn.items() if index < each]
        self.attacks = 0
        self.died = 0
        self.notes: list[str] = []
        self._lines: dict[Finding, str] = {}
        self._proven: set[str] = set()  # acts that were seen with the model's text in them
        self._where: dict[Finding, set[str]] = {}

        ids = list(solved)
        self.own = DEFAULT
        self.apart: dict[str, Wrapping] = {}
        answers: list[str] = []
        if ids:
            self.own, apart, answers = unwrap([solved[one].text for one in ids])
            self.apart = dict(zip(ids, apart, strict=True))
        self.answers = dict(zip(ids, answers, strict=True))

    def run(self) -> None:
        """Try everything."""
        self._practise()
        accepted = [w for w in USUAL if w != self.own and self._accepts(w)]
        if self._accepts(self.own):
            self.apart = {}  # what is special to each problem is not needed
        for number, problem in enumerate(self.subjects):
            known = self._known(problem)
            own = self.apart.get(problem.id, self.own)
            also = accepted[:2] if number else [w for w in USUAL if w != own]
            for attack in (*attacks.attacks(known, own, also), *self._nonsense(problem)):
                self._try(problem, attack)
                if self.died >= SHOWN:
                    self.notes.append(f"gave up after {SHOWN} rewards that never came")
                    return
        self._convention()
        for problem in self.subjects[:1]:
            for attack in attacks.huge(self.own):
                if self.died < SHOWN:
                    self._try(problem, attack)

    def failures(self) -> list[str]:
        """One line per finding that is not allowed."""
        return [self._line(found) for found in self._lines if found[1] not in self.allowed]

    def permitted(self) -> list[str]:
        """The names of what was found and is allowed."""
        return sorted({name for _, name in self._lines if name in self.allowed})

    def _practise(self) -> None:
        """Let the reward load what it needs, on right and wrong answers, before it is watched."""
        known = [problem for problem in self.subjects if problem.id in self.solved][:3]
        texts = [self.solved[problem.id].text for problem in known]
        self.room.warm_up(
            (problem, text) for problem in known for text in (*texts, DEFAULT.around("7"), "hello")
        )

    def _convention(self) -> None:
        """Say which of two whole answers counts. It must be one: any of many is an attack of its own."""
        for problem in self.subjects[:1]:
            own = self.apart.get(problem.id, self.own)
            for attack in attacks.conventions(self._known(problem), own):
                if self._is_paid(problem, self.room.grade(problem, attack.text).value):
                    self.notes.append(f"pays {attack.name}: {show(attack.text)}")

    def _accepts(self, wrapping: Wrapping) -> bool:
        """Whether right answers are paid in this wrapping."""
        known = [problem for problem in self.subjects if problem.id in self.answers][:SHOWN]
        return bool(known) and all(
            self._is_paid(
                problem,
                self.room.grade(problem, wrapping.around(self.answers[problem.id])).value,
            )
            for problem in known
        )

    def _is_paid(self, problem: Problem, reward: Any) -> bool:
        if not isinstance(reward, Reward):
            return False
        full = self.solved[problem.id].reward.value if problem.id in self.solved else 1.0
        return reward.right is True or reward.value >= full

    def _known(self, problem: Problem) -> Known:
        prompts = [self.room.ask("prompt", problem, template).value for template in TEMPLATES]
        answer = self.answers.get(problem.id)
        others = [one for one in self.answers if one != problem.id]
        if answer is not None:
            others = [one for one in others if not same(self.answers[one], answer)]
        others = others[:OTHERS]
        return Known(
            fields=problem.fields,
            prompt=next((_text(prompt) for prompt in prompts if _is_prompt(prompt)), ""),
            solution=self.solved[problem.id].text if problem.id in self.solved else None,
            answer=answer,
            others=list(dict.fromkeys(self.answers[one] for one in others)),
            other_solutions=[self.solved[one].text for one in others],
            stop=self._stop(),
        )

    def _stop(self) -> Sequence[str]:
        task = self.room.task
        return getattr(task, "stop", Task.stop)

    def _nonsense(self, problem: Problem) -> Iterator[Attack]:
        answer = self.room.ask("nonsense", problem)
        if answer.error:
            self._found(("nonsense", "nonsense"), problem, f"nonsense {answer.said()}")
        for text in answer.value or ():
            yield Attack("the task's own nonsense", str(text))

    def _try(self, problem: Problem, attack: Attack) -> None:
        """Grade one attack, and note what is wrong with that."""
        self.attacks += 1
        answer = self.room.grade(problem, attack.text)
        self.died += answer.died
        here = f"of {show(attack.text)} for problem {problem.id!r}"
        for act in answer.acts:
            name = "the model's text" if act.kind == "code" else act.kind
            if act.uses_text and name not in self._proven:  # this line shows more than others
                self._proven.add(name)
                self._lines.pop(("act", name), None)
            self._found(("act", name), problem, f"reward {here} {_did(act)}")
        limit = self.room.seconds
        if answer.seconds > limit:
            self._found(("slow", ""), problem, f"reward {here} took over {limit:g} s")
        elif answer.error:
            if not answer.acts:
                kind = answer.error.partition(":")[0]
                said = f"reward {here} {answer.error} instead of a Reward below 1.0"
                self._found(("fails", kind), problem, said)
        elif self._is_paid(problem, answer.value):
            said = f"pays {attack.name}: reward {here} gives {answer.shown}"
            self._found(("pays", attack.name), problem, said)

    def _found(self, finding: Finding, problem: Problem, line: str) -> None:
        self._lines.setdefault(finding, line)
        self._where.setdefault(finding, set()).add(problem.id)

    def _line(self, finding: Finding) -> str:
        line = (
            f"{self._lines[finding]} ({len(self._where[finding])} of {len(self.subjects)} problems)"
        )
        name = finding[1]
        return f"{line}; if that is meant, allow {name!r}" if name in ALLOWABLE else line


def _did(act: Act) -> str:
    """What a reward did besides computing, as the rest of a sentence."""
    doing = {
        "code": "runs the model's text",
        "files": "opens or changes files",
        "processes": "starts or stops processes",
        "network": "uses the network",
        "native code": "calls native code",
    }[act.kind]
    taken = ", named by the model's text" if act.uses_text and act.kind != "code" else ""
    return f"{doing}{taken}: {act.event} {show(act.detail)} ({act.place})"


def _is_prompt(prompt: Prompt | None) -> bool:
    if isinstance(prompt, str):
        return bool(prompt.strip())
    return (
        isinstance(prompt, Sequence)
        and len(prompt) > 0
        and all(
            isinstance(message, Mapping) and {"role", "content"} <= message.keys()
            for message in prompt
        )
    )


def _text(prompt: Prompt) -> str:
    """A prompt as text: of messages, the last one's that is the user's."""
    if isinstance(prompt, str):
        return prompt
    asked = [message["content"] for message in prompt if message["role"] == "user"]
    return str(asked[-1] if asked else prompt[-1]["content"])
