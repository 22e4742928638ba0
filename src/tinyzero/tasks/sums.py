"""Small sums and products, asked in a short chat and answered with the number alone.

This is a task for small instruct models, such as SmolLM2-135M: they know most of the answers, but
ramble before they give one. `What is 7 * 8? Answer with the number only.` is right if the last
number in the reply is 56. a*b and b*a have the same key, so they are never in two splits.

Larger numbers and fewer operators make levels of difficulty: `--task.operators +` is the easiest.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tinyzero.errors import UserError
from tinyzero.grading import answer_reward
from tinyzero.tasks.base import Chart, DataSeed, Task
from tinyzero.tasks.prompts import require_template
from tinyzero.tasks.splits import split_by_key
from tinyzero.types import Problem, Prompt, Reward, Split

MAX_DRAWS = 20_000
NUMBER = re.compile(r"(?<![\w.,])-?[0-9]++(?:[.,][0-9]++)*+(?!\w)")
LONGEST_NUMBER = 19  # digits, with separators; longer ones are not an answer


class SumsOptions(BaseModel):
    """Which problems are drawn."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    # From 2 on, neither number is the answer, so that a repeated question is never right.
    min_number: int = Field(default=2, ge=2, le=9999, description="smallest given number")
    max_number: int = Field(default=12, le=9999, description="largest given number")
    operators: str = Field(
        default="+*", description="the operators that are asked for, all equally often: +, * or +*"
    )
    data_seed: DataSeed = 0

    @model_validator(mode="after")
    def _options_make_sense(self) -> SumsOptions:
        if self.min_number > self.max_number:
            raise ValueError(
                f"min_number {self.min_number} is above max_number {self.max_number}: "
                "lower the first or raise the second"
            )
        if self.operators not in ("+", "*", "+*", "*+"):
            raise ValueError(f"operators {self.operators!r} must be +, * or +*")
        return self


def key_of(a: int, operator: str, b: int) -> str:
    """The key of a problem, which is the same for both orders of its numbers.

    >>> key_of(12, "+", 7)
    '7+12'
    """
    return f"{min(a, b)}{operator}{max(a, b)}"


def make_problem(a: int, operator: str, b: int) -> Problem:
    """The problem `a operator b`, in the split of its key."""
    key = key_of(a, operator, b)
    fields = {"a": a, "operator": operator, "b": b}
    return Problem(f"{a}{operator}{b}", fields, split_by_key(key), key)


def last_number(text: str) -> int | None:
    """The last number in a reply if it is a whole number, else None.

    It may be in bold type, end a sentence, follow a `=`, or have commas between thousands. A number
    that is part of a longer expression is not an answer.

    >>> last_number("7 * 8 = **56**."), last_number("7*8=56"), last_number("1,200")
    (56, 56, 1200)
    >>> last_number("7*8"), last_number("56.5"), last_number("fifty-six")
    (None, None, None)
    """
    words = [word for word in re.split(r"[\s=]+", text) if re.search("[0-9]", word)]
    numbers = NUMBER.findall(words[-1]) if words else []
    if len(numbers) != 1 or len(numbers[0]) > LONGEST_NUMBER:
        return None

    is_whole = re.fullmatch(r"-?([0-9]+|[0-9]{1,3}(,[0-9]{3})+)", numbers[0])
    return int(numbers[0].replace(",", "")) if is_whole else None


class Sums(Task):
    """The task of small sums and products. By default both numbers are from 2 to 12.

    Example: `Sums(SumsOptions(operators="+")).problem("train", 0)`.
    """

    Options = SumsOptions
    stop = ()  # the reply ends when the model ends its turn
    difficulty = ("max_number", "operators")
    rules = "Add or multiply two whole numbers."
    allowed_attacks = ("junk around the answer", "wrong then right")  # the last number counts
    highlights: Mapping[str, str] = {"behaviour/bare": "bare"}
    glossary: Mapping[str, str] = {
        "behaviour/bare": "Share of completions that are a number and nothing else.",
        "behaviour/restated": "Share of completions that repeat the calculation, as in 7 * 8 = 56.",
    }
    charts = (
        Chart(
            "Form of the reply",
            "How many replies are the number alone, and how many repeat the calculation.",
            (("behaviour/bare", "number alone"), ("behaviour/restated", "calculation")),
            form="share",
        ),
    )

    def __init__(self, options: SumsOptions | None = None) -> None:
        self.options: SumsOptions = options or SumsOptions()

    def problem(self, split: Split, index: int) -> Problem:
        """The problem that (data_seed, split, index) draw.

        Raises UserError if the options allow no problem in `split`.
        """
        options = self.options
        rng = random.Random(f"sums:{options.data_seed}:{split}:{index}")
        for _ in range(MAX_DRAWS):
            operator = rng.choice(options.operators)
            a = rng.randint(options.min_number, options.max_number)
            b = rng.randint(options.min_number, options.max_number)
            problem = make_problem(a, operator, b)
            if problem.split == split:
                return problem

        raise UserError(
            f"no sum of split {split!r} in {MAX_DRAWS:,} draws: raise task.max_number "
            f"({options.max_number})"
        )

    def prompt(self, problem: Problem, template: str) -> Prompt:
        """The question as chat messages, or as a text in the templates "compact" and "base"."""
        require_template(template)
        a, operator, b = _parts(problem)
        question = f"What is {a} {operator} {b}? Answer with the number only."

        if template == "compact":
            return f"{a}{operator}{b}="
        if template == "base":
            return f"Question: {question}\nAnswer:"

        # Without a system message, the chat template of many models adds a long one of its own.
        return [{"role": "system", "content": ""}, {"role": "user", "content": question}]

    def pose(self, line: str) -> Problem:
        """The problem that a person typed, such as `7*8`. Raises UserError if it is not one."""
        match = re.fullmatch(r"\s*([0-9]{1,4})\s*([+*x×])\s*([0-9]{1,4})\s*", line)
        if not match:
            raise UserError(
                f"{line!r} is not a sum: write two whole numbers of up to four digits with + or *, "
                "as in 7*8"
            )
        operator = match[2] if match[2] == "+" else "*"
        return make_problem(int(match[1]), operator, int(match[3]))

    def line(self, problem: Problem) -> str:
        """The line to type for `problem`, such as `7*8`."""
        return problem.id

    def reward(self, problem: Problem, text: str) -> Reward:
        """1 if the last number is right, else 0. The part `format` is 1 if there is a number."""
        number = last_number(text)
        return answer_reward(number == _value(problem), number is not None, format_reward=0.0)

    def solution(self, problem: Problem) -> str:
        """The number alone."""
        return str(_value(problem))

    def nonsense(self, problem: Problem) -> list[str]:
        """The question itself, the right number within a longer one, and both ways to miss by 1."""
        a, operator, b = _parts(problem)
        value = _value(problem)
        near = [str(value - 1), f"{a} {operator} {b} = {value + 1}."]
        return [f"{a} {operator} {b}", f"{value}{value}", f"{value}.5", f"-{value}", *near]

    def measure(self, problem: Problem, text: str) -> Mapping[str, float]:
        """Whether a completion is a number alone, and whether it repeats the calculation."""
        a, operator, b = _parts(problem)
        sign = r"[*x×]" if operator == "*" else r"\+"
        restated = re.search(rf"(?<!\d){a}\s*{sign}\s*{b}\s*=", text)
        bare = re.fullmatch(r"\s*[0-9]+\.?\s*", text)
        return {"bare": float(bool(bare)), "restated": float(bool(restated))}

    def describe(self, problem: Problem) -> Mapping[str, object]:
        """One label: the `operator`, "+" or "*"."""
        return {"operator": problem.fields["operator"]}


def _parts(problem: Problem) -> tuple[int, str, int]:
    """The two numbers of a problem, with the operator between them."""
    return problem.fields["a"], problem.fields["operator"], problem.fields["b"]


def _value(problem: Problem) -> int:
    """The right answer."""
    a, operator, b = _parts(problem)
    return a + b if operator == "+" else a * b


TASK = Sums
