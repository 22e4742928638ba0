"""Tries the attacks on a task's grader, and notes what it rewards and does."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

from tinyzero.tasks.base import Task
from tinyzero.tasks.check import attacks
from tinyzero.tasks.check.attacks import ALLOWABLE, Attack, Known, fix_for
from tinyzero.tasks.check.findings import Findings, show
from tinyzero.tasks.check.hook import SideEffect
from tinyzero.tasks.check.sandbox import Answer, Sandbox
from tinyzero.tasks.check.wrapping import USUAL, Wrapping, same, unwrap
from tinyzero.tasks.prompts import TEMPLATES
from tinyzero.types import Problem, Prompt, Reward, Split

TRIED = 15  # problems that are attacked, over all splits
OTHERS = 8  # other problems whose answers serve as wrong ones
PRACTICE = 3  # problems that are graded before the watch begins
MOST_DEATHS = 3  # rewards that never return, after which the attacks stop
DEFAULT = USUAL[0]  # if no solution shows how answers are wrapped

SLOW_REWARD = 0.01  # seconds of the median reward, above which there is a note
STEP_ANSWERS = 256  # rewards of one training step of the laptop recipe
OFTEN = 0.5  # share of the calls in which a reward starts a process, above which there is a note


class Solved(NamedTuple):
    """A problem's own solution, and its reward."""

    text: str
    reward: Reward


class AttackRun:
    """Attacks a few problems of each split. Call `run` once; the other methods report."""

    def __init__(
        self,
        sandbox: Sandbox,
        drawn: Mapping[tuple[Split, int], Problem],
        solved: Mapping[str, Solved],
        allowed: set[str],
    ) -> None:
        self.sandbox = sandbox
        self.solved = solved
        self.allowed = allowed
        splits = {split for split, _ in drawn}
        problems_per_split = TRIED // max(len(splits), 1)
        self.subjects = [
            problem for (_, index), problem in drawn.items() if index < problems_per_split
        ]

        self.attacks = 0
        self.deaths = 0
        self.process_starts = 0
        self.seconds: list[float] = []
        self.findings = Findings(len(self.subjects), "problems")
        self._notes: list[str] = []
        self._proven: set[str] = set()  # side effects that were seen with the model's text in them

        self.own = DEFAULT
        self.each_own: dict[str, Wrapping] = {}
        self.answers: dict[str, str] = {}
        if solved:
            texts = [solution.text for solution in solved.values()]
            self.own, wrappings, answers = unwrap(texts)
            self.each_own = dict(zip(solved, wrappings, strict=True))
            self.answers = dict(zip(solved, answers, strict=True))

    def run(self) -> None:
        """Try every attack on every subject, and the huge texts on the first one."""
        self._warm_up()
        accepted = [w for w in USUAL if w != self.own and self._accepts(w)]
        if self._accepts(self.own):
            self.each_own = {}  # what is special to each problem is not needed

        for number, problem in enumerate(self.subjects):
            known = self._known(problem)
            own = self.each_own.get(problem.id, self.own)
            also = accepted[:2] if number else [w for w in USUAL if w != own]
            for attack in (*attacks.attacks(known, own, also), *self._nonsense(problem)):
                self._try(problem, attack)
                if self.deaths >= MOST_DEATHS:
                    self._notes.append(
                        f"stopped after {MOST_DEATHS} rewards that did not return: fix these, "
                        "then run the check again"
                    )
                    return

        self._note_convention()
        for problem in self.subjects[:1]:
            for attack in attacks.huge(self.own):
                if self.deaths < MOST_DEATHS:
                    self._try(problem, attack)

    def failures(self) -> list[str]:
        """One line per finding that is not allowed."""
        return [self._line(kind) for kind in self.findings if _name_of(kind) not in self.allowed]

    def allowed_findings(self) -> list[str]:
        """The names of the findings that are allowed."""
        return sorted({_name_of(kind) for kind in self.findings} & self.allowed)

    def notes(self) -> list[str]:
        """What is no failure but good to know."""
        return [*self._notes, *self._notes_on_time()]

    def reward_seconds(self) -> float:
        """The median time of a reward, by the clock; 0 if none returned."""
        return median(self.seconds) if self.seconds else 0.0

    def _notes_on_time(self) -> list[str]:
        """A note if a reward is slow, or starts a process for every answer."""
        seconds = self.reward_seconds()
        per_step = (
            f"{1000 * seconds:.0f} ms per call, so the {STEP_ANSWERS} answers of a laptop step "
            f"take {STEP_ANSWERS * seconds:.1f} s of one worker's time"
        )
        if "processes" in self.allowed and self.process_starts > OFTEN * len(self.seconds):
            calls = f"{self.process_starts:,} of {len(self.seconds):,} calls"
            return [
                f"reward starts a process in {calls}, {per_step}: start it once, in __init__, "
                "or raise grading.workers"
            ]
        if seconds > SLOW_REWARD:
            return [f"reward takes {per_step}: make it faster, or raise grading.workers"]
        return []

    def _warm_up(self) -> None:
        """Let the reward load what it needs, on right and wrong answers, before it is watched."""
        known = [problem for problem in self.subjects if problem.id in self.solved][:PRACTICE]
        right = [self.solved[problem.id].text for problem in known]
        texts = [*right, DEFAULT.around("7"), "hello"]
        self.sandbox.warm_up((problem, text) for problem in known for text in texts)

    def _note_convention(self) -> None:
        """Note which of two complete answers counts. Either is sound, so this is no failure."""
        for problem in self.subjects[:1]:
            own = self.each_own.get(problem.id, self.own)
            for attack in attacks.conventions(self._known(problem), own):
                if self._is_paid(problem, self.sandbox.grade(problem, attack.text).value):
                    self._notes.append(f"pays {attack.name}: {show(attack.text)}")

    def _accepts(self, wrapping: Wrapping) -> bool:
        """Whether right answers are rewarded in this wrapping."""
        known = [problem for problem in self.subjects if problem.id in self.answers][:PRACTICE]
        if not known:
            return False

        for problem in known:
            text = wrapping.around(self.answers[problem.id])
            if not self._is_paid(problem, self.sandbox.grade(problem, text).value):
                return False
        return True

    def _is_paid(self, problem: Problem, reward: Any) -> bool:
        """Whether a reward is right, or as high as that of the right answer."""
        if not isinstance(reward, Reward):
            return False
        full = self.solved[problem.id].reward.value if problem.id in self.solved else 1.0
        return reward.right is True or reward.value >= full

    def _known(self, problem: Problem) -> Known:
        """What the attacks on a problem are built from."""
        prompts = [self.sandbox.ask("prompt", problem, name).value for name in TEMPLATES]
        texts = [_question(prompt) for prompt in prompts if is_prompt(prompt)]

        answer = self.answers.get(problem.id)
        others = [name for name in self.answers if name != problem.id]
        if answer is not None:
            others = [name for name in others if not same(self.answers[name], answer)]
        others = others[:OTHERS]

        return Known(
            fields=problem.fields,
            prompt=texts[0] if texts else "",
            solution=self.solved[problem.id].text if problem.id in self.solved else None,
            answer=answer,
            others=list(dict.fromkeys(self.answers[name] for name in others)),
            other_solutions=[self.solved[name].text for name in others],
            stop=getattr(self.sandbox.task, "stop", Task.stop),
        )

    def _nonsense(self, problem: Problem) -> Iterator[Attack]:
        """The attacks that the task brings itself."""
        answer = self.sandbox.ask("nonsense", problem)
        if answer.error:
            line = f"nonsense of problem {problem.id!r} {answer.outcome()}"
            self.findings.add(("nonsense", "nonsense"), problem.id, line, "return a list of texts")
        for text in answer.value or ():
            yield Attack("the task's own nonsense", str(text))

    def _try(self, problem: Problem, attack: Attack) -> None:
        """Grade one attack, and note what is wrong with the reward."""
        self.attacks += 1
        answer = self.sandbox.grade(problem, attack.text)
        self.deaths += answer.died
        if not answer.died:
            self.seconds.append(answer.elapsed)
            self.process_starts += any(effect.kind == "processes" for effect in answer.effects)

        for effect in answer.effects:
            self._add_effect(problem, attack, effect)
        if answer.seconds > self.sandbox.seconds:
            self._add_slow(problem, attack)
        elif answer.error:
            self._add_error(problem, attack, answer)
        elif self._is_paid(problem, answer.value):
            self._add_paid(problem, attack, answer)

    def _add_effect(self, problem: Problem, attack: Attack, effect: SideEffect) -> None:
        name = "the model's text" if effect.kind == "code" else effect.kind
        kind = ("effect", name)
        if effect.uses_text and name not in self._proven:  # this line shows more than earlier ones
            self._proven.add(name)
            self.findings.forget(kind)

        line = f"reward of {_input(problem, attack)} {_did(effect)}"
        if effect.kind == "code":
            fix = "never run it; tinyzero.grading.evaluate_expression computes an expression"
        elif effect.uses_text:
            fix = "never use the model's text as a name or a command"
        else:
            fix = "do this once, in __init__"
        self.findings.add(kind, problem.id, line, fix)

    def _add_slow(self, problem: Problem, attack: Attack) -> None:
        line = f"reward of {_input(problem, attack)} took over {self.sandbox.seconds:g} s"
        fix = "read at most some thousand characters, with patterns that do not backtrack"
        self.findings.add(("slow", ""), problem.id, line, fix)

    def _add_error(self, problem: Problem, attack: Attack, answer: Answer) -> None:
        if answer.effects:  # reported already, and the likely cause
            return
        kind = ("fails", answer.error.partition(":")[0])
        line = f"reward of {_input(problem, attack)} {answer.error} instead of a Reward below 1.0"
        self.findings.add(kind, problem.id, line, "return 0.0 for a text that is not an answer")

    def _add_paid(self, problem: Problem, attack: Attack, answer: Answer) -> None:
        paid = f"reward of {_input(problem, attack)} is {answer.value.value:g}"
        line = f"pays {attack.name}: {paid}"
        self.findings.add(("pays", attack.name), problem.id, line, fix_for(attack.name))

    def _line(self, kind: Hashable) -> str:
        """The line of a finding; one that can be intended ends with the name to allow."""
        line = self.findings.line(kind)
        name = _name_of(kind)
        return f"{line}; if this is intended, allow {name!r}" if name in ALLOWABLE else line


def _name_of(kind: Any) -> str:
    """The name that `allowed_attacks` has for a kind of finding."""
    name: str = kind[1]
    return name


def _input(problem: Problem, attack: Attack) -> str:
    """The input of a reward, as it is shown in a finding."""
    return f"{show(attack.text)} for problem {problem.id!r}"


def _did(effect: SideEffect) -> str:
    """What a reward did apart from computing, as the rest of a sentence."""
    action = {
        "code": "runs the model's text",
        "files": "opens or changes files",
        "processes": "starts or stops processes",
        "network": "uses the network",
        "native code": "calls native code",
    }[effect.kind]
    named = ", named by the model's text" if effect.uses_text and effect.kind != "code" else ""
    return f"{action}{named}: {effect.event} {show(effect.detail)} ({effect.location})"


def is_prompt(prompt: Prompt | None) -> bool:
    """Whether this is a text that is not blank, or a list of chat messages."""
    if isinstance(prompt, str):
        return bool(prompt.strip())
    if not isinstance(prompt, Sequence) or not prompt:
        return False
    return all(
        isinstance(message, Mapping) and {"role", "content"} <= message.keys() for message in prompt
    )


def _question(prompt: Prompt) -> str:
    """A prompt as text. Of chat messages it is the user's last one, or simply the last one."""
    if isinstance(prompt, str):
        return prompt
    questions = [message["content"] for message in prompt if message["role"] == "user"]
    return str(questions[-1] if questions else prompt[-1]["content"])
