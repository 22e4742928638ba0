"""Grading what a model wrote: find the answer in the text, then compute it exactly.

`find_answer` and `extract_answer` find the answer, `evaluate_expression` computes it, and
`answer_reward` and `number_reward` make rewards of it. The rest runs graders: `judge_group` guards
them, `WorkerPool` runs them in processes that can be killed, and `ThreadedGrader` lets graders wait
for another machine at the same time. `Endpoint` asks a model on another machine, and `Stage` plays
an episode of several turns.
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
from tinyzero.grading.endpoint import Endpoint, Pace, Rejected, Spent, require_url
from tinyzero.grading.episodes import Heard, Reply, Stage
from tinyzero.grading.graders import Grader, LocalGrader
from tinyzero.grading.threads import ThreadedGrader, together
from tinyzero.grading.verdict_store import VerdictStore
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
    "Endpoint",
    "Grader",
    "Heard",
    "Judge",
    "LocalGrader",
    "Pace",
    "Rejected",
    "Reply",
    "Spent",
    "Stage",
    "TaskReference",
    "ThreadedGrader",
    "Verdict",
    "VerdictStore",
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
    "require_url",
    "sandbox",
    "sound",
    "sound_turns",
    "together",
    "worker",
]
