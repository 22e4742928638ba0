"""Your own questions and answers: a task that reads the rows of a JSONL file.

    tinyzero check-task examples/own_rows.py:Rows
    tinyzero train qwen2.5-0.5b-instruct --task examples/own_rows.py:Rows --task.file mine.jsonl

Each line of the file is an object with "question" and "answer". questions.jsonl is a small one.
"""

import json
from pathlib import Path

from pydantic import BaseModel, Field

from tinyzero.errors import UserError
from tinyzero.grading import extract_answer
from tinyzero.tasks.base import Task
from tinyzero.tasks.prompts import wrap
from tinyzero.tasks.splits import split_by_key
from tinyzero.types import SPLITS, Problem, Prompt, Split

QUESTIONS = Path(__file__).with_name("questions.jsonl")


class RowsOptions(BaseModel):
    """`--task.file` names the rows."""

    file: Path = Field(QUESTIONS, description="JSONL file with a question and an answer per line")


class Rows(Task):
    """A finite task: each split has the rows that its questions belong to."""

    Options = RowsOptions
    sources = ("file",)

    def __init__(self, options: RowsOptions | None = None) -> None:
        """Read the file once. Raises UserError if it is not such a file or has too few rows."""
        super().__init__(options)
        rows = read_rows(self.options.file)

        # The question alone decides the split, so a question that is there twice is in one split.
        self.rows_by_split = {
            split: [row for row in rows if split_by_key(row["question"]) == split]
            for split in SPLITS
        }
        for split, split_rows in self.rows_by_split.items():
            if not split_rows:
                raise UserError(f"{self.options.file} has no row for {split}: add more questions")

    def size(self, split: Split) -> int:
        """How many questions the split has."""
        return len(self.rows_by_split[split])

    def problem(self, split: Split, index: int) -> Problem:
        """Row `index` of the split."""
        row = self.rows_by_split[split][index % self.size(split)]
        return Problem(id=row["question"], fields=row, split=split, key=row["question"])

    def prompt(self, problem: Problem, template: str) -> Prompt:
        """The question in the words of R1-Zero, which ask for thoughts and then an answer."""
        question = (
            f"{problem.fields['question']} Show your work in <think> </think> tags, "
            "and the answer alone in <answer> </answer> tags."
        )
        if template in ("base", "instruct"):
            return wrap(question, template)
        return f"{question}\n<think>"

    def reward(self, problem: Problem, text: str) -> bool:
        """Whether the text between the answer tags is the row's answer, in any case of letters."""
        answer = extract_answer(text)
        return answer is not None and normalised(answer) == normalised(problem.fields["answer"])

    def solution(self, problem: Problem) -> str:
        """The row's answer in the form that is asked for."""
        return f"</think>\n<answer>{problem.fields['answer']}</answer>"


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a JSONL file. Raises UserError that names the first line that is wrong."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error

    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            rows.append({"question": str(row["question"]), "answer": str(row["answer"])})
        except (ValueError, TypeError, KeyError) as error:
            needed = 'an object with "question" and "answer"'
            raise UserError(f"line {number} of {path} is not {needed}") from error
    return rows


def normalised(answer: str) -> str:
    """`answer` in small letters with single spaces."""
    return " ".join(answer.casefold().split())
