"""A task with the four methods and nothing else."""

import random

from tinyzero.types import Problem, Split


class Sums:
    """Small sums, answered with the number."""

    def problem(self, split: Split, index: int) -> Problem:
        rng = random.Random(f"{split}:{index}")
        a, b = rng.randint(1, 9), rng.randint(1, 9)
        return Problem(f"{split}:{a}+{b}", {"a": a, "b": b}, split, f"{split}:{a}+{b}")

    def prompt(self, problem: Problem, template: str) -> str:
        return f"{problem.fields['a']}+{problem.fields['b']}="

    def reward(self, problem: Problem, text: str) -> bool:
        return text == self.solution(problem)

    def solution(self, problem: Problem) -> str:
        return str(problem.fields["a"] + problem.fields["b"])
