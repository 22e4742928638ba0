"""Tasks whose answers end in various ways. No torch, since each grading worker imports this."""

from tinyzero.grading import find_answer
from tinyzero.types import Problem, Split

START = {"Line": "", "Boxed": "\\boxed{", "Fence": "```\n", "Hashes": "#### "}


class Line:
    """A sum, with the fields of a product. An answer is one line."""

    stop = ("\n",)
    start = START["Line"]

    def problem(self, split: Split, index: int) -> Problem:
        return Problem(f"{split}:{index}", {"a": index, "b": 3}, split, f"{split}:{index}")

    def prompt(self, problem: Problem, template: str) -> str:
        return f"{problem.fields['a']}+{problem.fields['b']}"

    def reward(self, problem: Problem, text: str) -> float:
        found = find_answer(self.start + text if not self.start else text, self.start, self.stop[0])
        return float(found == str(problem.fields["a"] + problem.fields["b"]))

    def solution(self, problem: Problem) -> str:
        return f"{self.start}{problem.fields['a'] + problem.fields['b']}{self.stop[0]}"


class Boxed(Line):
    stop = ("}",)
    start = START["Boxed"]


class Fence(Line):
    stop = ("```",)
    start = START["Fence"]


class Hashes(Line):
    start = START["Hashes"]


class Few(Line):
    """Twenty problems in each split; every other one has a long prompt."""

    def size(self, split: Split) -> int:
        return 20

    def problem(self, split: Split, index: int) -> Problem:
        return super().problem(split, index % 20)

    def prompt(self, problem: Problem, template: str) -> str:
        return super().prompt(problem, template) + " " * (60 * (problem.fields["a"] % 2))
