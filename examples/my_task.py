"""Your own task in one file: write a number backwards. Any answer that a program can check will do.

tinyzero check-task examples/my_task.py:Backwards
tinyzero train --task examples/my_task.py:Backwards
"""

import random

from tinyzero.rewards import extract_answer
from tinyzero.types import Problem, Reward, Split

HELD_OUT: dict[int, Split] = {0: "dev", 1: "test"}  # by n modulo 11: what is trained on is never tested


class Backwards:
    def problem(self, split: Split, index: int) -> Problem:
        rng = random.Random(f"backwards:{split}:{index}")  # the arguments alone decide, so a run can resume
        while True:
            n = rng.randrange(10, 10_000_000)
            if HELD_OUT.get(n % 11, "train") == split:
                return Problem(id=str(n), fields={"n": n}, split=split, key=str(n))

    def prompt(self, problem: Problem, template: str) -> str:
        return f"Write {problem.fields['n']} backwards, as <answer>21</answer> for 12.\n<think>"

    def reward(self, problem: Problem, text: str) -> Reward:
        right = extract_answer(text) == str(problem.fields["n"])[::-1]
        return Reward(float(right), {"answer": float(right)})

    def solution(self, problem: Problem) -> str:
        return f"</think><answer>{str(problem.fields['n'])[::-1]}</answer>"
