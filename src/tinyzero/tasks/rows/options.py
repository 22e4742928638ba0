"""The options of the task rows."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tinyzero.grading.answers import AnswerStyle
from tinyzero.registry import lasting_reference, suggest
from tinyzero.tasks.base import DataSeed
from tinyzero.tasks.rows.checks import CHECKS
from tinyzero.tasks.rows.layouts import LayoutName


class RowsOptions(BaseModel):
    """Where the rows come from, and how answers are asked for and checked."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    data: str | None = Field(
        default=None,
        description="the rows: a .jsonl, .json, .csv or .parquet file, which may be compressed, a "
        "folder with a saved dataset, or a dataset of the hub as org/name",
    )
    dev_data: str | None = Field(
        default=None, description="another source, whose rows are the split dev"
    )
    test_data: str | None = Field(
        default=None, description="another source, whose rows are the split test"
    )
    split_column: str | None = Field(
        default=None,
        description="the column that says the split of a row, such as train, validation or test",
    )
    subset: str | None = Field(
        default=None, description="the configuration of a hub dataset, such as main"
    )
    layout: LayoutName = Field(
        default="auto", description="the layout of the rows: auto, verl, gsm8k, trl or columns"
    )
    question: str | None = Field(default=None, description="the column with the question")
    answer: str | None = Field(default=None, description="the column with the right answer")
    choices: str | None = Field(default=None, description="the column with the list of choices")
    check: str = Field(
        default="exact",
        description="how an answer is checked: exact, number, choice, math, or a function of yours "
        "as file.py:function, with the signature of TRL or verl",
    )
    style: AnswerStyle = Field(
        default="tags",
        description="how an answer is written: tags (<answer>), boxed, hashes (####), last-number "
        "or code",
    )
    instruction: str | None = Field(
        default=None,
        description="the sentence after the question that says how to answer; by default that of "
        "the style, and nothing for rows with chat messages",
    )
    format_reward: float = Field(
        default=0.0, ge=0, lt=1, description="reward for a wrong answer in the right form"
    )
    full_marks: float | None = Field(
        default=None,
        ge=-1e9,
        le=1e9,
        description="the least reward of a function that counts as right; by default 1 is right, 0 "
        "is wrong, and anything else is neither",
    )
    data_seed: DataSeed = 0

    @field_validator("check")
    @classmethod
    def _check_is_known(cls, check: str) -> str:
        is_function = ".py:" in check
        if check not in CHECKS and not is_function:
            raise ValueError(
                f"there is no such check{suggest(check, [*CHECKS, 'file.py:function'])}"
            )
        return lasting_reference(check)

    @property
    def has_function(self) -> bool:
        """Whether a function of the user checks the answers."""
        return self.check not in CHECKS

    @property
    def without_effect(self) -> set[str]:
        """The options that have no effect together with the others."""
        return {"format_reward"} if self.has_function else {"full_marks"}

    @model_validator(mode="after")
    def _options_fit_together(self) -> RowsOptions:
        if self.has_function and self.format_reward:
            raise ValueError(f"format_reward has no effect: {self.check} gives all rewards")
        if not self.has_function and self.full_marks is not None:
            raise ValueError(
                f"full_marks has no effect: it is for a function, not for {self.check}"
            )
        if self.split_column and (self.dev_data or self.test_data):
            raise ValueError("split_column and dev_data or test_data both choose splits: give one")
        return self
