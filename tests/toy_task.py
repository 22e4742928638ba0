"""A task that a random model learns in seconds: repeat the letter asked for."""

from tinyzero.types import Problem, Reward, Split

LETTERS = {"train": "abc", "dev": "abc", "test": "abc"}


class Repeat:
    def problem(self, split: Split, index: int) -> Problem:
        letter = LETTERS[split][index % 3]
        return Problem(f"{split}:{index}", {"letter": letter}, split, f"{split}:{index}")

    def prompt(self, problem: Problem, template: str) -> str:
        return f"{problem.fields['letter']}\n"

    def reward(self, problem: Problem, text: str) -> Reward:
        share = text.count(problem.fields["letter"]) / max(len(text), 1)
        return Reward(share, {"answer": float(share > 0.9)})

    def solution(self, problem: Problem) -> str:
        return str(problem.fields["letter"])
