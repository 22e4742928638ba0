"""Write a regular expression that matches these words and not those.

    tinyzero check-task examples/regular_expressions.py:WriteRegex
    tinyzero train qwen2.5-0.5b --task examples/regular_expressions.py:WriteRegex \\
        --grading.timeout 1

A pattern such as `(((.*)*)*)*!` keeps `re` busy for hours on a word of nine letters. The reward of
your own task runs in a worker process, which is ended after `--grading.timeout` seconds: the answer
then counts as wrong, and the run continues.
"""

import random
import re
import string

from tinyzero.grading import find_answer
from tinyzero.tasks.base import Task
from tinyzero.tasks.splits import split_by_key
from tinyzero.types import Problem, Split

SHOWN = 4  # words of each kind in the prompt
HIDDEN = 12  # further words of each kind that only the reward sees
MOST_CHARACTERS = 40  # of a pattern


class WriteRegex(Task):
    """The hidden rule is "begins with XY", "ends with XY" or "contains XY"."""

    rules = "Write a regular expression that matches the first words and none of the second ones."
    stop = ("\n",)

    def problem(self, split: Split, index: int) -> Problem:
        """Draw a rule, and words that follow it and that break it."""
        rng = random.Random(f"regex:{split}:{index}")
        while True:
            letters = "".join(rng.choices(string.ascii_lowercase, k=2))
            pattern = rng.choice(("{}.*", ".*{}", ".*{}.*")).format(letters)
            if split_by_key(pattern) == split:
                break

        matching = [word_matching(pattern, rng) for _ in range(SHOWN + HIDDEN)]
        others = [word_not_matching(pattern, letters, rng) for _ in range(SHOWN + HIDDEN)]
        fields = {"matching": matching, "others": others, "pattern": pattern}
        return Problem(id=f"{split}:{index}", fields=fields, split=split, key=pattern)

    def prompt(self, problem: Problem, template: str) -> str:
        """Show some of the words. The rest keeps a list of the shown words from being an answer."""
        matching = " ".join(problem.fields["matching"][:SHOWN])
        others = " ".join(problem.fields["others"][:SHOWN])
        return f"Match: {matching}\nDo not match: {others}\nRegular expression:"

    def reward(self, problem: Problem, text: str) -> bool:
        """Whether the pattern matches all words of the one kind and none of the other."""
        pattern = find_answer(f"\n{text}", "\n", "\n", longest=MOST_CHARACTERS)
        if not pattern:
            return False

        try:
            compiled = re.compile(pattern)
        except (re.error, RecursionError, OverflowError):
            return False

        matches_all = all(compiled.fullmatch(word) for word in problem.fields["matching"])
        return matches_all and not any(map(compiled.fullmatch, problem.fields["others"]))

    def solution(self, problem: Problem) -> str:
        """The rule as a pattern, on a line of its own."""
        return f" {problem.fields['pattern']}\n"


def random_word(rng: random.Random, length: int) -> str:
    """A word of small letters."""
    return "".join(rng.choices(string.ascii_lowercase, k=length))


def word_matching(pattern: str, rng: random.Random) -> str:
    """A word that follows the rule: random letters take the place of each `.*`."""
    parts = pattern.split(".*")
    return "".join(part or random_word(rng, rng.randint(2, 4)) for part in parts)


def word_not_matching(pattern: str, letters: str, rng: random.Random) -> str:
    """A word that breaks the rule. Half of them have the rule's first letter somewhere."""
    while True:
        word = random_word(rng, rng.randint(4, 8))
        if rng.random() < 0.5:
            word = f"{word[:2]}{letters[0]}{word[2:]}"
        if not re.fullmatch(pattern, word):
            return word
