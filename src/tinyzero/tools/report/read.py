"""A run's files as streams, read once or followed as they grow, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tinyzero import config
from tinyzero.errors import UserError
from tinyzero.run import records
from tinyzero.tasks import bundled
from tinyzero.tools.report.columns import Columns, number
from tinyzero.tools.report.samples import Samples
from tinyzero.types import Split


class Line(BaseModel):
    """The keys of every record. A file may be cut short, edited by hand, or not belong to a run."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    step: int = Field(ge=0, le=10**9)


class EvalLine(Line):
    """The keys that a report needs of an evaluation."""

    split: Split
    n: int = Field(ge=0, le=10**9)
    value: float = Field(alias="pass@1")
    low: float = Field(alias="pass@1/low")
    high: float = Field(alias="pass@1/high")


class RolloutLine(Line):
    """The keys that a report needs of a rollout."""

    split: Split
    problem: str
    fields: dict[str, Any]
    text: str
    finish_reason: str
    response_length: int = Field(ge=0, le=10**9)
    reward: float
    parts: dict[str, float]


LINES: dict[str, type[Line]] = {
    "metrics.jsonl": Line,
    "eval.jsonl": EvalLine,
    "rollouts.jsonl": RolloutLine,
}


class Tail:
    """The records added to a JSONL file since the last call. An incomplete last line waits."""

    def __init__(self, path: Path) -> None:
        self.path, self.offset = path, 0
        self.inode: int | None = None

    def replaced(self) -> bool:
        """Whether the part that was read is gone: a resumed run writes its files again."""
        if self.inode is None:
            return False
        if not self.path.exists():
            return True
        now = self.path.stat()
        return now.st_ino != self.inode or now.st_size < self.offset

    def records(self) -> Iterator[dict[str, Any]]:
        """The new records. Raises UserError if a line is damaged or lacks a required key."""
        if self.path.exists():
            self.inode = self.path.stat().st_ino

        new_records = records.follow(self.path, self.offset)
        for self.offset, record in new_records:
            try:
                LINES[self.path.name].model_validate(record)
            except ValidationError as error:
                wrong = error.errors()[0]
                key = ".".join(map(str, wrong["loc"]))
                raise UserError(
                    f"the line that ends at byte {self.offset} of {self.path} is not a run's "
                    f"record ({key}: {wrong['msg'].lower()}): fix or remove it"
                ) from None
            yield record


def evaluation(record: dict[str, Any]) -> dict[str, Any]:
    """A checked evaluation without the values that have an unexpected type, which count as missing.

    Kept are the split, numbers, the hash of the problems, and the lists with one integer per
    problem.
    """
    kept = {key: value for key, value in record.items() if number(value) is not None}
    kept["split"] = record["split"]
    if isinstance(record.get("problems"), str):
        kept["problems"] = record["problems"]
    else:
        kept.pop("problems", None)

    for key in ("right", "clusters"):
        kept.pop(key, None)
        values = record.get(key)
        if isinstance(values, list) and all(_is_count(value) for value in values):
            kept[key] = values
    return kept


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= 10**9


class Recorded:
    """A run on disk, as far as a report needs it."""

    def __init__(self, folder: Path) -> None:
        """Raises UserError if `folder` is not a run's."""
        self.folder = folder
        self.config = self._config()
        self.task = bundled(self.config.task.name)
        self._clear()

    def _config(self) -> config.Config:
        path = self.folder / "config.toml"
        if not path.is_file():
            raise UserError(f"no run at {self.folder}: it has no config.toml")
        # a run of an older version lacks newer options: they get their defaults
        return config.resolve(config.read_recipe(str(path)), {})

    def _clear(self) -> None:
        self.steps, self.samples = Columns(), Samples(self.task)
        self.evals: list[dict[str, Any]] = []
        sinks: dict[str, Callable[[dict[str, Any]], None]] = {
            "metrics.jsonl": self.steps.add,
            "eval.jsonl": lambda record: self.evals.append(evaluation(record)),
            "rollouts.jsonl": self.samples.add,
        }
        self._tails = [(Tail(self.folder / name), sink) for name, sink in sinks.items()]

    def update(self) -> bool:
        """Read what was added, and return whether there was anything.

        Raises UserError if a line is damaged.
        """
        if any(tail.replaced() for tail, _ in self._tails):
            self.config = self._config()  # it may have more steps now
            self._clear()

        before = [tail.offset for tail, _ in self._tails]
        for tail, sink in self._tails:
            for record in tail.records():
                sink(record)
        return before != [tail.offset for tail, _ in self._tails]

    def headline_evaluations(self) -> list[dict[str, Any]]:
        """The evaluations for the headline: on test if there are two, or else on dev."""
        test = [entry for entry in self.evals if entry["split"] == "test"]
        dev = [entry for entry in self.evals if entry["split"] == "dev"]
        return test if len(test) > 1 or not dev else dev


def find_runs(paths: list[Path]) -> list[Path]:
    """The folders of the runs at `paths`, each once.

    A folder without config.toml stands for the runs inside it, as a grid's folder does. Raises
    UserError if a path has no run.
    """
    folders: list[Path] = []
    for path in paths:
        if not path.is_dir():
            raise UserError(f"no folder {path}: name a run's folder, as in runs/laptop-grpo-0")
        if (path / "config.toml").is_file():
            folders.append(path)
            continue

        inside = sorted(config_file.parent for config_file in path.glob("*/config.toml"))
        if not inside:
            raise UserError(f"no run at {path}: it has no config.toml")
        folders += inside
    return list({folder.resolve(): folder for folder in folders}.values())
