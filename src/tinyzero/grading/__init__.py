"""Grading what a model wrote: find the answer in the text, then compute it exactly.

`find_answer` and `extract_answer` find the answer, `evaluate_expression` computes it, and
`answer_reward` and `number_reward` make rewards of it. The rest runs graders: `judge_group` guards
them, and `WorkerPool` runs them in processes that can be killed. `Stage` plays an episode of
several turns.
"""

from tinyzero.grading.answers import extract_answer, find_answer
from tinyzero.grading.arithmetic import (
    MAX_DIGITS,
    MAX_EXPRESSION,
    answer_reward,
    evaluate_expression,
    number_reward,
)
from tinyzero.grading.dispatch import DispatchGrader
from tinyzero.grading.episodes import Heard, Reply, Stage
from tinyzero.grading.graders import Grader, LocalGrader
from tinyzero.grading.verdicts import (
    Judge,
    Verdict,
    failed,
    judge_group,
    sound,
    sound_turns,
)
from tinyzero.grading.workers import TaskReference, WorkerPool

__all__ = [
    "MAX_DIGITS",
    "MAX_EXPRESSION",
    "DispatchGrader",
    "Grader",
    "Heard",
    "Judge",
    "LocalGrader",
    "Reply",
    "Stage",
    "TaskReference",
    "Verdict",
    "WorkerPool",
    "answer_reward",
    "answers",
    "equivalence",
    "evaluate_expression",
    "extract_answer",
    "failed",
    "find_answer",
    "judge_group",
    "maths",
    "number_reward",
    "sandbox",
    "sound",
    "sound_turns",
    "worker",
]
