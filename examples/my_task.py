"""Your own task in one file. Here: use every number once and reach more than their sum.

tinyzero check-task examples/my_task.py:BeatTheSum
tinyzero train --task examples/my_task.py:BeatTheSum
"""

import random

from tinyzero.grading import evaluate_expression, extract_answer
from tinyzero.tasks.splits import split_by_key
from tinyzero.types import Problem, Split


class BeatTheSum:
    """Numbers such as 3, 5 and 12: `3*5*12` is right, and so is `12*5-3`."""

    def problem(self, split: Split, index: int) -> Problem:
        """Draw problem `index` of `split`. The arguments alone decide, so a run can be resumed."""
        rng = random.Random(f"beat:{split}:{index}")
        while True:
            numbers = sorted(rng.randint(2, 25) for _ in range(3))
            key = ",".join(map(str, numbers))

            # The key decides the split, so no problem is both trained on and tested.
            if split_by_key(key) == split:
                return Problem(id=key, fields={"numbers": numbers}, split=split, key=key)

    def prompt(self, problem: Problem, template: str) -> str:
        """Write the problem as the bundled base knows it. A larger model can take any text."""
        return f"99 from {' '.join(map(str, problem.fields['numbers']))}\n<think>\n"

    def reward(self, problem: Problem, text: str) -> bool:
        """Judge what the model wrote. The text is parsed and computed, and never run as code."""
        computed = evaluate_expression(extract_answer(text) or "")
        if computed is None:
            return False

        value, numbers_used = computed
        numbers: list[int] = problem.fields["numbers"]
        return sorted(numbers_used) == numbers and value > sum(numbers)

    def solution(self, problem: Problem) -> str:
        """Return a right completion. It is used only to check the grader, by `check-task`."""
        return f"</think>\n<answer>{'*'.join(map(str, problem.fields['numbers']))}</answer>"
