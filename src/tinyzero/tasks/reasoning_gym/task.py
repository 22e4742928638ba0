"""The datasets of reasoning-gym as one task."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from tinyzero.errors import UserError
from tinyzero.grading import find_answer
from tinyzero.tasks.base import NoSolution, Task
from tinyzero.tasks.prompts import require_template
from tinyzero.tasks.reasoning_gym import question
from tinyzero.tasks.reasoning_gym.catalogue import DATASETS, EXACT, FORMS, OWN
from tinyzero.tasks.reasoning_gym.graders import is_right
from tinyzero.tasks.reasoning_gym.options import ReasoningGymOptions
from tinyzero.tasks.reasoning_gym.room import room
from tinyzero.tasks.shares import Shares
from tinyzero.types import Problem, Prompt, Reward, Split

LONGEST = 2000  # characters of an answer, or three times the length of the package's own
Source = tuple[str, int | None, str]


class ReasoningGym(Task):
    """Problems of the package reasoning-gym. By default the dataset chain_sum.

    Example: `ReasoningGym(ReasoningGymOptions(datasets=["gcd"])).problem("train", 0)`.
    """

    Options = ReasoningGymOptions
    rules = "Answer a question of the package reasoning-gym."
    difficulty = ("level", "config")
    glossary: Mapping[str, str] = {
        "reward/score": "What reasoning-gym gives the answer, from 0 to 1. It is not trained on.",
    }
    variants: Mapping[str, Mapping[str, Any]] = {name: {"datasets": [name]} for name in DATASETS}

    def __init__(self, options: ReasoningGymOptions | None = None) -> None:
        self.options: ReasoningGymOptions = options or ReasoningGymOptions()
        if self.options.answer_only:
            self.stop = ()  # the reply ends when the model ends its turn
        weights = self.options.weights
        self.shares = Shares({name: weights.get(name, 1.0) for name in self.options.datasets})

    @property
    def trusted(self) -> bool:
        """Whether rewards may be computed in the run's own process: if our own graders do."""
        return all(name in EXACT or name in OWN for name in self.options.datasets)

    def prepare(self) -> None:
        """Start the process that holds the package, if it is needed for grading."""
        if not self.trusted:
            room().open()

    def problem(self, split: Split, index: int) -> Problem:
        """The problem that (data_seed, dataset, split, index) draw. The text decides the split.

        Raises UserError if the dataset cannot make one, or if the package is not installed.
        """
        dataset = self.dataset_at(index)
        drawn = _drawn(self._source(dataset), self.options.data_seed, split, index)
        fields = {
            "dataset": dataset,
            "question": drawn["question"],
            "answer": drawn["answer"],
            "given": drawn["given"],
            "seed": drawn["seed"],
        }
        return Problem(f"{dataset}:{drawn['key'][:16]}", fields, split, drawn["key"])

    def dataset_at(self, index: int) -> str:
        """The dataset of the problem at `index`. In any stretch each has its share, to within one.

        >>> task = ReasoningGym(ReasoningGymOptions(datasets=["gcd", "lcm"], weights={"gcd": 2.0}))
        >>> [task.dataset_at(index) for index in range(6)]
        ['gcd', 'lcm', 'gcd', 'gcd', 'lcm', 'gcd']
        """
        return self.shares.at(index)[0]

    def prompt(self, problem: Problem, template: str) -> Prompt:
        """The question in one of `tinyzero.tasks.prompts.TEMPLATES`.

        Raises UserError if the template asks for another form than `answer_only` rewards, or needs
        an example where the dataset has no answers.
        """
        is_short = template == "instruct-short"
        if is_short and not self.options.answer_only:
            raise UserError(
                "the template instruct-short asks for the answer alone: add --task.answer_only true"
            )
        if self.options.answer_only and not is_short:
            require_template(template)
            raise UserError(
                f"task.answer_only is true, but the template {template} asks for <think> and "
                "<answer>: add --model.prompt instruct-short"
            )

        if not is_short:
            return question.prompt(problem.fields["question"], template)
        example = self._example(problem)
        return question.short_prompt(
            example["question"], example["answer"], problem.fields["question"]
        )

    def _example(self, problem: Problem) -> Mapping[str, Any]:
        """A problem of the split train of the same dataset, but not `problem` itself."""
        dataset = problem.fields["dataset"]
        source = self._source(dataset)
        for number in (1, 2, 3, 4):  # negative indices are drawn by nothing else
            drawn = _drawn(source, self.options.data_seed, "train", -number)
            if drawn["answer"] is None:
                raise UserError(
                    f"dataset {dataset} has no answers, so instruct-short has no example: "
                    "use --model.prompt instruct"
                )
            if drawn["key"] != problem.key:
                break
        return drawn

    def reward(self, problem: Problem, text: str) -> Reward:
        """1 for a right answer, else 0. Parts: `answer`, `format` and `score`.

        `format` is 1 if there is an answer at all, and `score` is what the package gives it.
        """
        expected = problem.fields["answer"]
        answer = self._answer_in(text, max(LONGEST, 3 * len(expected or "")))
        score = 0.0 if answer is None else self._score(problem, answer)
        is_solved = score >= 1
        parts = {
            "answer": float(is_solved),
            "format": float(answer is not None),
            "score": score,
        }
        return Reward(float(is_solved), parts, is_solved)

    def _answer_in(self, text: str, longest: int) -> str | None:
        """The answer in a completion; None if it is missing, empty or too long."""
        if self.options.answer_only:
            answer: str | None = text.strip() if len(text) <= longest else None
        else:
            answer = find_answer(text, "<answer>", "</answer>", after="</think>", longest=longest)
        return answer or None

    def _score(self, problem: Problem, answer: str) -> float:
        """The score of an answer from 0 to 1, by our own graders if there is one."""
        dataset, expected = problem.fields["dataset"], problem.fields["answer"]
        if dataset in EXACT or dataset in OWN:
            return float(is_right(dataset, answer, expected, problem.fields["given"]))
        if dataset in FORMS and not re.fullmatch(FORMS[dataset], answer):
            return 0.0
        return room().score(self._source(dataset), problem.fields["seed"], answer)

    def solution(self, problem: Problem) -> str:
        """The package's own answer. Raises NoSolution if the dataset has none."""
        answer = problem.fields["answer"]
        if answer is None:
            raise NoSolution(f"dataset {problem.fields['dataset']} gives no answers")
        if self.options.answer_only:
            return str(answer)
        return f"</think>\n<answer>{answer}</answer>"

    def describe(self, problem: Problem) -> Mapping[str, object]:
        """Two labels: the `dataset`, and the `level` if one is chosen."""
        labels = {"dataset": problem.fields["dataset"]}
        if self.options.level is not None:
            labels["level"] = self.options.level
        return labels

    def _source(self, dataset: str) -> Source:
        """What the room needs to make the problems of a dataset."""
        config = json.dumps(self.options.settings_of(dataset), sort_keys=True)
        return dataset, self.options.level, config


@lru_cache(maxsize=4096)
def _drawn(source: Source, data_seed: int, split: str, index: int) -> Mapping[str, Any]:
    """A problem from the room, kept because evaluations ask for the same problems again."""
    return room().draw(source, data_seed, split, index)
