"""Answers that a language model behind an OpenAI-compatible endpoint judges by your rubric.

The rubric is a text file. Each answer gets a score, or the answers of a group are compared in
pairs. The rewards are graded from 0 to 1, neither right nor wrong, so look at the reward and not at
pass@k. Every verdict is kept in a file, so nothing is judged twice.
"""

from tinyzero.tasks.judge.task import JudgeOptions, JudgeTask

__all__ = ["JudgeOptions", "JudgeTask"]

TASK = JudgeTask
