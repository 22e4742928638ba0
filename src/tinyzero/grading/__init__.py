"""Judging what a model wrote: find the answer, then compute it exactly."""

from tinyzero.grading.answers import extract_answer
from tinyzero.grading.arithmetic import evaluate_expression, expression_reward, number_reward
from tinyzero.grading.verdicts import (
    Grader,
    Judge,
    LocalGrader,
    Verdict,
    failed,
    judge_group,
    sound,
)
from tinyzero.grading.workers import TaskReference, WorkerPool

__all__ = [
    "Grader",
    "Judge",
    "LocalGrader",
    "TaskReference",
    "Verdict",
    "WorkerPool",
    "evaluate_expression",
    "expression_reward",
    "extract_answer",
    "failed",
    "judge_group",
    "number_reward",
    "sound",
]
