"""JSON output: a format of your own, a stop string, and a reward with several parts.

tinyzero check-task examples/json_output.py:Person
tinyzero train qwen2.5-0.5b-instruct --task examples/json_output.py:Person
"""

import json
import random
from typing import Any

from tinyzero.tasks.base import Task
from tinyzero.tasks.splits import split_by_key
from tinyzero.types import Problem, Prompt, Reward, Split

NAMES = ("Ada", "Boris", "Chen", "Dana", "Emil", "Fatima", "Goran", "Hana", "Ivan", "Jun")
CITIES = ("Accra", "Bergen", "Cairo", "Delhi", "Essen", "Florence", "Ghent", "Hanoi", "Izmir")
SENTENCES = (
    "{name}, born in {year}, lives in {city}.",
    "{name} moved to {city}. The year of birth is {year}.",
    "In {city} lives {name}, who was born in {year}.",
)
INSTRUCTION = 'Answer with one line of JSON, such as {"name": "Zoe", "city": "Oslo", "year": 1990}.'


class Person(Task):
    """Turn a sentence about a person into a JSON object with three keys."""

    rules = "Extract name, city and year of birth as JSON."
    stop = ("}",)  # the object has no inner braces, so its end is the end of the completion

    def problem(self, split: Split, index: int) -> Problem:
        """Draw a person. The same person is never in two splits, in whatever sentence."""
        rng = random.Random(f"person:{split}:{index}")
        while True:
            person = {
                "name": rng.choice(NAMES),
                "city": rng.choice(CITIES),
                "year": rng.randint(1930, 2010),
            }
            key = json.dumps(person)

            if split_by_key(key) == split:
                sentence = rng.choice(SENTENCES).format(**person)
                return Problem(key, {"sentence": sentence, "person": person}, split, key)

    def prompt(self, problem: Problem, template: str) -> Prompt:
        """Chat messages for an instruct model, and plain text for all others.

        The model continues the last message, so an empty one of the assistant comes last.
        """
        question = f"{problem.fields['sentence']}\n{INSTRUCTION}"
        if template == "instruct":
            user = {"role": "user", "content": question}
            return [user, {"role": "assistant", "content": ""}]
        return f"{question}\n"

    def reward(self, problem: Problem, text: str) -> Reward:
        """0.1 for a JSON object, 0.1 more for the right keys, and 1 if the values are right too.

        Each part is a metric of the run: `reward/json`, `reward/keys` and `reward/answer`.
        """
        answer = parsed_object(text)
        person = problem.fields["person"]
        has_keys = answer is not None and set(answer) == set(person)
        is_right = answer == person

        parts = {"json": float(answer is not None), "keys": float(has_keys)}
        credit = 0.1 * parts["json"] + 0.1 * parts["keys"]
        return Reward(1.0 if is_right else credit, {**parts, "answer": float(is_right)}, is_right)

    def solution(self, problem: Problem) -> str:
        """The object as JSON."""
        return json.dumps(problem.fields["person"])


def parsed_object(text: str) -> dict[str, Any] | None:
    """The JSON object that `text` consists of, or None if it is anything else."""
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None
