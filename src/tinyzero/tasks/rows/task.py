"""The task rows: its problems are the rows of a file, of several files, or of a dataset."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from tinyzero.errors import UserError, shown
from tinyzero.grading import equivalence
from tinyzero.grading.answers import as_completion, final_answer
from tinyzero.registry import load_object
from tinyzero.tasks.base import NoSolution, Task
from tinyzero.tasks.functions import SignedFunction
from tinyzero.tasks.rows import checks, layouts, questions, splits
from tinyzero.tasks.rows.options import RowsOptions
from tinyzero.tasks.tables import Row, read_rows
from tinyzero.types import Problem, Prompt, Reward, Split


class Rows(Task):
    """A finite task. The rows are read when the first problem is drawn, and not in workers.

    Example: `Rows(RowsOptions(data="mine.jsonl", check="number")).problem("train", 0)`.
    """

    Options = RowsOptions
    rules = "Answer the question."
    sources = ("data", "dev_data", "test_data")
    glossary: Mapping[str, str] = {
        "reward/answer": "Share of answers that are right.",
        "reward/format": "Share of answers in the right form, such as a number.",
    }

    def __init__(self, options: RowsOptions | None = None) -> None:
        """Raises UserError if the check's function or package cannot be loaded."""
        self.options: RowsOptions = options or RowsOptions()
        self.stop = ("</answer>",) if self.options.style == "tags" else ()
        self.allowed_attacks = _intended(self.options)
        self.trusted = not self.options.has_function
        self.function: SignedFunction | None = None
        self._chats = 0  # rows with chat messages

        if self.options.check == "math":
            equivalence.require_math_verify()
        if self.options.has_function:
            function = load_object(self.options.check)
            if not callable(function):
                raise UserError(f"task.check {self.options.check} is not a function")
            self.function = SignedFunction(function, self.options.check.rpartition(":")[2])

    def size(self, split: Split) -> int:
        """How many rows the split has, without duplicates."""
        return len(self._entries[0][split])

    def notes(self) -> Sequence[str]:
        """What was left out as a duplicate, and which questions have several answers."""
        return self._entries[1]

    def problem(self, split: Split, index: int) -> Problem:
        """The row at `index` of the split's stream, in which each epoch is another permutation.

        Raises UserError if the data cannot be read, or have no row in this split.
        """
        entries = self._entries[0][split]
        if not entries:
            raise UserError(
                f"{self.options.data} has no row for the split {split}: give more rows, or others "
                f"with --task.{'data' if split == 'train' else f'{split}_data'}"
            )
        one = entries[splits.position(index, len(entries), self.options.data_seed, split)]
        return Problem(one.id, one.fields, split, one.key)

    def prompt(self, problem: Problem, template: str) -> Prompt:
        """The row's own chat messages if it has some; else the question in one of the templates."""
        fields, options = problem.fields, self.options
        text = questions.question_text(fields["question"], fields.get("choices", ()))
        if not self._has_chats:
            how = options.instruction
            if how is None:
                how = questions.instruction(options.style, options.check)
            return questions.prompt(text, template, how, thinking=options.instruction is None)

        messages = list(fields.get("messages") or [{"role": "user", "content": text}])
        if options.instruction and messages[-1]["role"] == "user":
            content = f"{messages[-1]['content']} {options.instruction}"
            messages[-1] = {"role": "user", "content": content}
        return messages

    def reward(self, problem: Problem, text: str) -> Reward:
        """1 for a right answer, `format_reward` for a wrong one in the right form, else 0.

        With a function of the user it is what the function returns.
        """
        if self.function is not None:
            return self._function_reward(self.function, problem, text)

        fields = problem.fields
        answer = final_answer(text, self.options.style)
        outcome = checks.Outcome(right=False, well_formed=False)
        if answer is not None:
            choices = fields.get("choices", ())
            outcome = checks.examine(self.options.check, fields["answers"], answer, choices)

        parts = {"answer": float(outcome.right), "format": float(outcome.well_formed)}
        if outcome.too_long:
            return Reward(0.0, parts, right=False, failure="timeout")
        if outcome.right:
            return Reward(1.0, parts, right=True)
        value = self.options.format_reward if outcome.well_formed else 0.0
        return Reward(value, parts, right=False)

    def solution(self, problem: Problem) -> str:
        """The row's first answer in the style that is asked for.

        Raises NoSolution if the row has no answer.
        """
        answers = problem.fields["answers"]
        if not answers:
            raise NoSolution(f"the row of problem {problem.id} does not say its answer")
        return as_completion(answers[0], self.options.style)

    def nonsense(self, problem: Problem) -> Iterable[str]:
        """The question itself as the answer, unless that is right."""
        question = problem.fields["question"]
        if question not in problem.fields["answers"]:
            yield as_completion(question, self.options.style)

    def row(self, problem: Problem) -> Mapping[str, Any]:
        """The question and the answer, with the columns `question` and `answer`."""
        answers = problem.fields["answers"]
        answer = answers[0] if len(answers) == 1 else list(answers) or None
        return {"question": problem.fields["question"], "answer": answer}

    def _function_reward(self, function: SignedFunction, problem: Problem, text: str) -> Reward:
        """What the user's function gives, with the other numbers that it returns as parts."""
        fields = problem.fields
        own_prompt = fields["row"].get(fields["question_column"], fields["question"])
        value, named = function.call(fields["row"], own_prompt, fields["expected"], text)

        parts = {
            str(name): float(number)
            for name, number in named.items()
            if name not in ("score", "acc") and isinstance(number, int | float)
        }
        if "acc" in named:  # verl's name for right or wrong
            return Reward(value, parts, right=bool(named["acc"]))
        if self.options.full_marks is not None:
            return Reward(value, parts, right=value >= self.options.full_marks)
        return Reward(value, parts)

    @cached_property
    def _has_chats(self) -> bool:
        """Whether a row has chat messages. Then the prompts of all rows are chat messages."""
        self._entries  # noqa: B018  # reading the rows finds out
        return bool(self._chats)

    @cached_property
    def _entries(self) -> tuple[dict[Split, list[splits.Entry]], list[str]]:
        """The rows of each split, and the notes on them."""
        options = self.options
        if options.data is None:
            raise UserError("task.data is not set: name your rows, as in --task.data mine.jsonl")

        rows = read_rows(options.data, options.subset)
        entries = self._entries_of(rows, options.data)
        others: list[tuple[Split, str | None]] = [
            ("dev", options.dev_data),
            ("test", options.test_data),
        ]
        if options.dev_data or options.test_data:
            entries = [one._replace(split="train") for one in entries]
        for split, source in others:
            if source is not None:
                more = self._entries_of(read_rows(source), source)
                entries += [one._replace(split=split) for one in more]
        return splits.divide(entries)

    def _entries_of(self, rows: Sequence[Row], source: str) -> list[splits.Entry]:
        """The rows of one source as entries. Raises UserError that names the first wrong row."""
        options = self.options
        layout = layouts.recognise(
            rows,
            source,
            options.layout,
            options.question or "",
            options.answer or "",
            options.choices or "",
        )
        if not (layout.answer or options.has_function):
            columns = ", ".join(dict.fromkeys(name for row in rows for name in row.values))
            raise UserError(
                f"{source} has no column with the answer ({', '.join(layouts.ANSWERS)}): name "
                f"yours with --task.answer; its columns are {columns}"
            )

        entries = []
        for row in rows:
            split = row.split
            if options.split_column:
                value = row.values.get(options.split_column)
                split = splits.own_split(value, options.split_column, row.location)
            entries.append(splits.entry(self._fields(row, layout), split, row.location))
        return entries

    def _fields(self, row: Row, layout: layouts.Layout) -> dict[str, Any]:
        """The fields of a row's problem. Raises UserError if its answer cannot be checked."""
        item = layouts.read_item(row, layout)
        self._chats += item.is_chat
        fields: dict[str, Any] = {"question": item.question, "answers": list(item.answers)}
        if item.messages:
            fields["messages"] = [dict(message) for message in item.messages]
        if item.choices:
            fields["choices"] = list(item.choices)

        if self.function is not None:
            if missing := self.function.missing_column(row.values):
                raise UserError(
                    f"{row.location} has no column {missing}, which {self.function.name} needs"
                )
            expected = row.values.get(layout.answer) if layout.answer else None
            if layout.name == "verl" and isinstance(expected, Mapping):
                expected = expected.get("ground_truth")
            more = {"row": row.values, "question_column": layout.question, "expected": expected}
            return fields | more

        if not item.answers:
            value = row.values.get(layout.answer)
            raise UserError(
                f"{row.location} has {shown(value)} in the column {layout.answer}, which must be "
                "the answer: fill it in, or remove the row"
            )
        for answer in item.answers:
            if not checks.is_checkable(self.options.check, answer, item.choices):
                raise UserError(
                    f"{row.location} has the answer {shown(answer)}, which the check "
                    f"{self.options.check} cannot compare: use another --task.check, or remove "
                    "the row"
                )
        return fields


def _intended(options: RowsOptions) -> tuple[str, ...]:
    """The findings of check-task that a style brings with it."""
    if options.style == "last-number":
        return ("junk around the answer", "wrong then right", "answer outside the wrapper")
    return ()
