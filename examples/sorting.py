"""Sort numbers: a task with an option, an exact check and a label for evaluations.

tinyzero check-task examples/sorting.py:Sorting
tinyzero train qwen2.5-0.5b --task examples/sorting.py:Sorting
"""

import random
from collections.abc import Mapping

from pydantic import BaseModel, Field

from tinyzero.tasks.base import Task
from tinyzero.tasks.splits import split_by_key
from tinyzero.types import Problem, Split


class SortingOptions(BaseModel):
    """Each field is an option of the command line: `--task.count 4`."""

    count: int = Field(3, ge=2, le=20, description="numbers to sort")
    largest: int = Field(99, ge=20, le=10**6, description="largest number that is drawn")


class Sorting(Task):
    """`7 31 2` becomes `2 7 31`. A completion ends at the end of the line."""

    Options = SortingOptions
    rules = "Sort the numbers, the smallest first."
    stop = ("\n",)

    def problem(self, split: Split, index: int) -> Problem:
        """Draw distinct numbers that are not sorted yet, so that copying them is never right."""
        rng = random.Random(f"sorting:{self.options}:{split}:{index}")
        while True:
            numbers = rng.sample(range(1, self.options.largest + 1), self.options.count)
            key = " ".join(map(str, sorted(numbers)))

            if numbers != sorted(numbers) and split_by_key(key) == split:
                shuffled = " ".join(map(str, numbers))
                return Problem(id=shuffled, fields={"numbers": numbers}, split=split, key=key)

    def prompt(self, problem: Problem, template: str) -> str:
        """Pose the problem in the same words under every template."""
        return f"Unsorted: {' '.join(map(str, problem.fields['numbers']))}\nSorted:"

    def reward(self, problem: Problem, text: str) -> bool:
        """Compare with the sorted numbers, exactly."""
        return text.split() == self.solution(problem).split() and text.endswith("\n")

    def solution(self, problem: Problem) -> str:
        """The sorted numbers, and the end of the line that ends a completion."""
        return f" {' '.join(map(str, sorted(problem.fields['numbers'])))}\n"

    def describe(self, problem: Problem) -> Mapping[str, object]:
        """Let evaluations and reports group problems by the number of digits."""
        return {"digits": sum(len(str(number)) for number in problem.fields["numbers"])}
