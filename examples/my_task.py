"""Your own task in one file. Here: use every number once and get more than their sum.

tinyzero check-task examples/my_task.py:BeatTheSum
tinyzero train --task examples/my_task.py:BeatTheSum
"""

import random

from tinyzero.grading import evaluate_expression, extract_answer
from tinyzero.types import Problem, Reward, Split

HELD_OUT: dict[int, Split] = {
    0: "dev",
    1: "test",
}  # by the sum modulo 11: what is trained on is never tested


class BeatTheSum:
    def problem(self, split: Split, index: int) -> Problem:
        rng = random.Random(
            f"beat:{split}:{index}"
        )  # the arguments alone decide, so a run can resume
        while True:
            numbers = [rng.randint(2, 25) for _ in range(3)]
            if HELD_OUT.get(sum(numbers) % 11, "train") == split:
                key = ",".join(map(str, sorted(numbers)))
                return Problem(id=key, fields={"numbers": numbers}, split=split, key=key)

    def prompt(
        self, problem: Problem, template: str
    ) -> str:  # as the bundled base knows it; others take any text
        return f"99 from {' '.join(map(str, problem.fields['numbers']))}\n<think>\n"

    def reward(self, problem: Problem, text: str) -> Reward:
        numbers, found = problem.fields["numbers"], evaluate_expression(extract_answer(text) or "")
        right = (
            found is not None and sorted(found[1]) == sorted(numbers) and found[0] > sum(numbers)
        )
        return Reward(float(right), {"answer": float(right)})

    def solution(self, problem: Problem) -> str:
        return f"</think>\n<answer>{'*'.join(map(str, problem.fields['numbers']))}</answer>"
