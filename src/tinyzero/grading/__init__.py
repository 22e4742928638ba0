"""Judging what a model wrote: find the answer, then compute it exactly."""

from tinyzero.grading.answers import extract_answer
from tinyzero.grading.arithmetic import evaluate_expression, expression_reward, number_reward

__all__ = ["evaluate_expression", "expression_reward", "extract_answer", "number_reward"]
