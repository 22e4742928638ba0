"""Answers that a reward model scores: any sequence classifier in the format of Hugging Face.

The model is a folder or a hub id, such as one that `tinyzero prefer` made. Its output is the
reward; of a classifier with several labels it is the probability of the one that you choose. The
rewards are graded, neither right nor wrong, so look at the reward and not at pass@k.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import Field

from tinyzero.errors import Ungraded, UserError
from tinyzero.tasks.base import LoadScorer, Scorer
from tinyzero.tasks.questions import GradedOptions, GradedTask
from tinyzero.types import Problem, Reward


class ScoredByModelOptions(GradedOptions):
    """Which model scores the answers to which questions."""

    model: str = Field(default="", description="folder or hub id of the sequence classifier")
    label: str = Field(
        default="", description="the label whose probability is the reward, if there are several"
    )
    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="where the classifier computes: auto, cpu, cuda or cuda:N",
    )


class ScoredByModel(GradedTask):
    """Rewards from a sequence classifier: see the docstring of the module."""

    Options = ScoredByModelOptions
    sources = ("data", "data_options", "model")
    options: ScoredByModelOptions

    def __init__(self, options: ScoredByModelOptions | None = None) -> None:
        super().__init__(options)
        self._score: Scorer | None = None

    def connect(self, load_scorer: LoadScorer) -> None:
        """Load the classifier. Raises UserError if it is missing or damaged."""
        options = self.options
        if not options.model:
            raise UserError("task.model is empty: name the folder of a sequence classifier")
        self._score = load_scorer(options.model, options.device, options.label)

    def reward(self, problem: Problem, text: str) -> Reward:
        """The score of one answer."""
        return self.rewards([problem], [text])[0]

    def rewards(self, problems: Sequence[Problem], texts: Sequence[str]) -> list[Reward]:
        """The scores of a group. A score that is not finite becomes the lowest of its group."""
        if self._score is None:
            raise Ungraded("the classifier was not loaded")
        questions = [self.questions.asked(problem) for problem in problems]
        scores = self._score(questions, [self.answer(text) for text in texts])

        finite = [score for score in scores if math.isfinite(score)]
        if not finite:
            raise Ungraded("the classifier gives no finite score for any answer of a group")
        checked = [score if math.isfinite(score) else min(finite) for score in scores]
        return [Reward(score, {"model": score}, right=None) for score in checked]


TASK = ScoredByModel
