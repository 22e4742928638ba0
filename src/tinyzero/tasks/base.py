"""The base class of a task: four methods to write, and a default for everything else.

A task needs `problem`, `prompt`, `reward` and `solution`. A class that has these four methods and
no base class is a task too: `load_task` adds the defaults. The examples below are all about one
task, which asks for the sum of two numbers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, Protocol

from pydantic import BaseModel, Field

from tinyzero.errors import UserError
from tinyzero.types import Problem, Prompt, Reward, Split

if TYPE_CHECKING:
    from tinyzero.tasks.guarded import GuardedTask

DataSeed = Annotated[
    int,
    Field(
        ge=-(2**32),
        lt=2**32,
        description="chooses the stream of problems; independent of the run's seed",
    ),
]
"""The type of an option that seeds a task's problems."""


Scorer = Callable[[Sequence[Prompt], Sequence[str]], list[float]]
"""A sequence classifier that grades: questions and answers in, one score per answer out."""

LoadScorer = Callable[[str, str, str], Scorer]
"""Loads a scorer: by the name of its model, a device, and a label if the model knows several."""


class NoSolution(UserError):
    """Raised by `Task.solution` if no completion is known that earns full marks.

    Example: `raise NoSolution(f"no proof of {problem.id} is known")`.
    """


class Event(NamedTuple):
    """Something that a completion does in `text[start:end]`; the report highlights it.

    `kind` is a name that the task chooses. Three kinds have a meaning for the report:

    - "right": a result that solves the problem;
    - "verification": the model judges a result, and `detail` is its verdict, "yes" or "no";
    - "backtrack": the model gives up and starts again.

    Example: in the text `3+4=7, yes` the judgement is `Event("verification", 7, 10, "yes")`.
    """

    kind: str
    start: int
    end: int
    detail: str = ""


class Chart(NamedTuple):
    """Metrics of a task that the report draws in one chart.

    Example: `Chart("Steps", "How many are true.", (("behaviour/true", "true"),), "share")`.
    """

    title: str
    says: str
    """One sentence that explains what the chart shows."""
    lines: tuple[tuple[str, str], ...]
    """One pair for each line: the metric's key, and the label of the line."""
    form: Literal["number", "share"] = "number"
    """The vertical axis: any number, or a share from 0 to 100 %."""


class Shortcut(NamedTuple):
    """An easy method that solves some of the problems, to compare scores with.

    It solves exactly the problems for which `Task.describe` gives the label `label` the value
    `value`. The report calls it `says` and shows how many problems of each kind it solves.

    Example: `Shortcut("carries", "no", "adding digit by digit")`.
    """

    label: str
    value: str
    says: str


class Part(NamedTuple):
    """One task of a mixture. Its problems are drawn in proportion to `weight`.

    Example: `Part(load_task("countdown"), weight=2.0)`.
    """

    task: GuardedTask
    """The task, as `load_task` returns it."""
    weight: float = 1.0
    template: str = ""
    """Its prompt template; empty for that of the run."""


class Episode(Protocol):
    """A conversation of several turns about one problem.

    It must be a function of the problem and of what the model said: every completion of a group
    gets an equal one, and one that runs in a worker process is played again for each turn.

    Example: the model guesses a number, and `step` answers "higher" or "lower" until it is right.
    """

    def step(self, said: str) -> str | None:
        """The environment's reply to the model's turn `said`, or None if the conversation is over.

        `said` is what the model wrote in this turn, with the stop string. It may have been cut at
        a limit. Then, or after `max_turns` turns, the reply is not shown to anyone.

        Example:

            reply = episode.step("<guess>50</guess>")
            assert reply == "higher"
        """
        ...

    def reward(self) -> Reward:
        """The reward for the whole conversation; called once, after the last turn.

        It may give each of the model's turns a part of it: `Reward.turns`. Judge what the model
        said, and never what the environment said.

        Example:

            won = Reward(1.0)
            lost = Reward(0.0)
            won_in_three_turns = Reward(1.0, turns=(0.2, 0.2, 0.6))
        """
        ...

    def close(self) -> None:
        """Release what the conversation holds, such as a process or a connection.

        Example:

            def close(self) -> None:
                self.database.close()
        """
        ...


class Task:
    """A family of problems, and the check of an answer. A task sees text only, never tokens.

    Example: examples/my_task.py is a complete task in one file.
    """

    Options: ClassVar[type[BaseModel] | None] = None
    """A pydantic model. Its fields are options of the command line: `--task.NAME value`."""

    stop: Sequence[str] = ("</answer>",)
    """A completion ends with the first of these strings. If empty, only the end token ends it."""

    max_turns: int = 10
    """The most turns of the model in an episode."""

    inline: bool = False
    """Whether the environment writes into the model's turn, as a calculator does after `=`.

    Otherwise it answers in a turn of its own, which a chat template puts into a user's message.
    """

    rules: str = ""
    """One sentence that tells a newcomer what the problem asks for, such as "Add two numbers."."""

    glossary: Mapping[str, str] = {}
    """The meaning of each metric of `summarise` and of each part of a reward, in one sentence."""

    charts: Sequence[Chart] = ()
    """The charts of the report, in this order. Metrics in no chart are drawn after them."""

    highlights: Mapping[str, str] = {}
    """The few metrics that the console shows too, each with a heading of one or two words."""

    kinds: Mapping[str, str] = {}
    """The kinds of event that the report shows, each explained in a few words."""

    shortcut: Shortcut | None = None
    """An easy method that scores are compared with."""

    sources: Sequence[str] = ()
    """Options that name a file or a dataset. `tinyzero plan` ignores them and downloads nothing."""

    difficulty: Sequence[str] = ()
    """Options that make problems easier or harder, such as the largest number. Hints name them."""

    levels: Sequence[int] = ()
    """The levels of difficulty that `at` offers, from easy to hard; a number n means 0 to n - 1."""

    mixture: Mapping[str, Part] = {}
    """The tasks that this one mixes, by the name in `Problem.task`; usually empty."""

    needs_sandbox: bool = False
    """Whether the reward runs what a model wrote, with `tinyzero.grading.sandbox.Sandbox`."""

    concurrency: int = 0
    """Groups that are graded in threads at the same time, because grading waits for a machine
    elsewhere. 0 for a task that computes its rewards. Only tasks of this package may set it."""

    allowed_attacks: Sequence[str] = ()
    """Findings of `tinyzero check-task` that are intended, such as "junk around the answer"."""

    def __init__(self, options: Any = None) -> None:
        """Keep the validated options, or the defaults of `Options` if none are given."""
        self.options: Any = self.Options() if options is None and self.Options else options

    @property
    def is_posable(self) -> bool:
        """Whether a person can type problems of this task, which needs `pose`."""
        return type(self).pose is not Task.pose

    @property
    def grades_groups(self) -> bool:
        """Whether the completions of a group are graded together: if the task defines `rewards`."""
        return type(self).rewards is not Task.rewards

    @property
    def final_stop(self) -> Sequence[str]:
        """The stop strings that end a whole completion, and not only a turn before a tool's."""
        return self.stop

    @property
    def plays_episodes(self) -> bool:
        """Whether problems may take several turns: if the task defines `episode`."""
        return type(self).episode is not Task.episode

    def prepare(self) -> None:
        """Load what `reward` needs. A process that grades calls this once, before the first answer.

        The time it takes does not count towards grading.timeout. By default it does nothing.

        Example:

            def prepare(self):
                self.words = Path("words.txt").read_text().split()
        """

    def problem(self, split: Split, index: int) -> Problem:
        """The problem at `index` (0, 1, 2, ...) of `split`; the arguments alone must determine it.

        A resumed run asks for the same problem again, so draw from a generator that is seeded with
        the arguments. No `key` may occur in two splits.

        Example:

            rng = random.Random(f"sum:{split}:{index}")
            return Problem("3+4", {"a": 3, "b": 4}, split, key="3+4")
        """
        raise NotImplementedError

    def prompt(self, problem: Problem, template: str) -> Prompt:
        """The text, or the list of chat messages, that poses `problem` to the model.

        `template` is the option `--model.prompt`: "compact", "chat", "base", "instruct" or a name
        of your own. Raise UserError for one that the task does not have.

        Example:

            question = f"What is {problem.fields['a']} + {problem.fields['b']}?"
            return question if template == "base" else [{"role": "user", "content": question}]
        """
        raise NotImplementedError

    def reward(self, problem: Problem, text: str) -> Reward | float | bool:
        """The reward of one completion: a Reward, a number, or True for right and False for wrong.

        `text` includes the stop string. Never run it (no `eval`). If it is not an answer, return 0
        instead of raising. A task whose problems all have an `episode` does not need it.

        Example:

            answer = find_answer(text, "<answer>", "</answer>")
            return answer == str(problem.fields["a"] + problem.fields["b"])
        """
        raise NotImplementedError

    def rewards(
        self, problems: Sequence[Problem], texts: Sequence[str]
    ) -> Sequence[Reward | float | bool]:
        """The rewards of one group, in order, for a task that must compare its completions.

        By default `reward` judges each completion by itself.

        Example:

            shortest = min(texts, key=len)
            return [text == shortest for text in texts]
        """
        return [self.reward(problem, text) for problem, text in zip(problems, texts, strict=True)]

    def solution(self, problem: Problem) -> str | Sequence[str]:
        """A completion that earns full marks, with its stop string; or raise NoSolution.

        For an episode, return the model's turns: one text per turn.

        `tinyzero check-task` grades it, and learns from it how answers are written.

        Example:

            total = problem.fields["a"] + problem.fields["b"]
            return f"<answer>{total}</answer>"
        """
        raise NotImplementedError

    def at(self, level: int) -> Task:
        """The task that draws the problems of one of `levels`.

        Only its `problem` and `size` are used: prompts, rewards and everything else stay those of
        this task. No `key` may occur in two splits, whatever the levels.

        Example:

            return Sum(SumOptions(largest=10**level))
        """
        raise UserError("this task has no levels of difficulty")

    def connect(self, load_scorer: LoadScorer) -> None:
        """Connect to what grades: called once, before a model is loaded, for tasks of this package.

        `load_scorer` loads a sequence classifier, because a task imports no torch.
        Raise UserError if no answer could be graded.

        Example:

            def connect(self, load_scorer):
                self.score = load_scorer(self.options.model, "cpu", "")
        """

    def costs(self) -> Mapping[str, float]:
        """What grading has cost since the last call, by the key of the record of a step.

        A key that ends in `/dollars` is added to the cost of the run.

        Example:

            task.costs()
            # {"judge/requests": 128.0, "judge/dollars": 0.02}
        """
        return {}

    def expected_costs(self, answers: float, tokens: float, group: int) -> Mapping[str, float]:
        """What grading `answers` of `tokens` tokens each, in groups of `group`, will cost, by key.

        `tinyzero plan` shows it.

        Example:

            task.expected_costs(answers=12_800, tokens=200, group=8)
            # {"judge/requests": 12800.0, "judge/dollars": 2.1}
        """
        return {}

    def size(self, split: Split) -> int | None:
        """The number of problems in `split`, or None (the default) if there is no limit.

        An index of `size` or more is allowed: it starts again at the first problem.

        Example:

            def size(self, split):
                return len(self.rows[split])
        """
        return None

    def notes(self) -> Sequence[str]:
        """What a run should say about the problems before its first step, one sentence each.

        Example:

            def notes(self):
                return [f"{self.left_out} rows are duplicates, and were left out"]
        """
        return ()

    def nonsense(self, problem: Problem) -> Iterable[str]:
        """Texts that must not be rewarded; `tinyzero check-task` tries them as well as its own.

        Example:

            wrong = problem.fields["a"] - problem.fields["b"]
            return [f"<answer>{wrong}</answer>"]
        """
        return ()

    def measure(self, problem: Problem, text: str) -> Mapping[str, float]:
        """Numbers that describe how one completion works; `summarise` turns them into metrics.

        In an episode `text` also contains what the environment said. Nothing is paid for it here.

        Example:

            steps = text.count("=")
            return {"steps": steps}
        """
        return {}

    def summarise(self, measured: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
        """Metrics over many completions, from what `measure` returned for each of them.

        By default the mean of each number is the metric `behaviour/NAME`. A completion without the
        number does not count.

        Example:

            task.summarise([{"steps": 1}, {"steps": 4}])
            # {"behaviour/steps": 2.5}
        """
        numbers: defaultdict[str, list[float]] = defaultdict(list)
        for completion in measured:
            for name, number in completion.items():
                numbers[name].append(number)

        return {
            f"behaviour/{name}": sum(numbers[name]) / len(numbers[name]) for name in sorted(numbers)
        }

    def mark(self, problem: Problem, text: str) -> Sequence[Event]:
        """What the completion does and in which part of the text, for the report to highlight.

        Example:

            start = text.find("wait")
            return [Event("backtrack", start, start + 4)] if start >= 0 else []
        """
        return ()

    def describe(self, problem: Problem) -> Mapping[str, object]:
        """Labels of a problem. Evaluations report the accuracy of each value of each label.

        Example:

            digits = len(str(problem.fields["a"]))
            return {"digits": digits}
        """
        return {}

    def pose(self, line: str) -> Problem:
        """The problem that a person typed in `tinyzero play`. Raise UserError if it is not one.

        Example:

            a, b = map(int, line.split("+"))
            return Problem(f"{a}+{b}", {"a": a, "b": b}, "test", key=f"{a}+{b}")
        """
        raise UserError("problems of this task cannot be typed: press Enter to draw one")

    def line(self, problem: Problem) -> str:
        """The line to type for `problem`, which `pose` reads back; by default empty.

        Example:

            def line(self, problem):
                return f"{problem.fields['a']}+{problem.fields['b']}"
        """
        return ""

    def row(self, problem: Problem) -> Mapping[str, Any]:
        """The row that `tinyzero data` writes for `problem`: values by column name.

        By default the columns are the problem's fields.

        Example:

            def row(self, problem):
                return {"question": problem.id, **problem.fields}
        """
        return dict(problem.fields)

    def episode(self, problem: Problem) -> Episode | None:
        """A conversation about `problem`, or None (the default) if a problem takes only one turn.

        It plays in a worker process with limits, like the rewards of your own task.

        Example:

            def episode(self, problem):
                return GuessingGame(problem.fields["secret"])
        """
        return None
