"""A run's files read as streams, once or as they grow; what is kept does not grow with the rollouts."""

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
    """What every line of a stream has: a file may be cut, mended by hand, or not be a run's at all."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    step: int = Field(ge=0, le=10**9)


class EvalLine(Line):
    """What a report needs of an evaluation."""

    split: Split
    n: int = Field(ge=0, le=10**9)
    value: float = Field(alias="pass@1")
    low: float = Field(alias="pass@1/low")
    high: float = Field(alias="pass@1/high")


class RolloutLine(Line):
    """What a report needs of a rollout."""

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
    """The records added to a JSONL file since it was last asked. A last line that is not whole waits."""

    def __init__(self, path: Path) -> None:
        self.path, self.offset = path, 0
        self.inode: int | None = None

    def replaced(self) -> bool:
        """Whether what was read is no longer there: a resumed run writes its files anew."""
        if self.inode is None:
            return False
        found = self.path.stat() if self.path.exists() else None
        return found is None or found.st_ino != self.inode or found.st_size < self.offset

    def records(self) -> Iterator[dict[str, Any]]:
        """What is new. Raises UserError where a line is damaged, or lacks what its file's lines have."""
        if self.path.exists():
            self.inode = self.path.stat().st_ino
        for self.offset, record in records.follow(self.path, self.offset):  # noqa: B020 (the offset is kept)
            try:
                LINES[self.path.name].model_validate(record)
            except ValidationError as error:
                wrong = error.errors()[0]
                what = f"{'.'.join(map(str, wrong['loc']))}: {wrong['msg'].lower()}"
                where = f"the line that ends at byte {self.offset} of {self.path}"
                raise UserError(f"{where} is none of a run's ({what}): mend or remove it") from None
            yield record


def numbers(record: dict[str, Any]) -> dict[str, Any]:
    """A checked evaluation without what is neither its split nor a number: that counts as missing."""
    return {k: v for k, v in record.items() if k == "split" or number(v) is not None}


class Recorded:
    """A run as it stands on disk, so far as a report needs it."""

    def __init__(self, folder: Path) -> None:
        """Raises UserError where there is no run."""
        self.folder = folder
        self.config = self._config()
        self.task = bundled(self.config.task.name)
        self._clear()

    def _config(self) -> config.Config:
        path = self.folder / "config.toml"
        if not path.is_file():
            raise UserError(f"no run at {self.folder}: it has no config.toml")
        # options that came later have their defaults: a run of an older version is shown all the same
        return config.resolve(config.read_recipe(str(path)), {})

    def _clear(self) -> None:
        self.steps, self.samples = Columns(), Samples(self.task)
        self.evals: list[dict[str, Any]] = []
        sinks: dict[str, Callable[[dict[str, Any]], None]] = {
            "metrics.jsonl": self.steps.add,
            "eval.jsonl": lambda record: self.evals.append(numbers(record)),
            "rollouts.jsonl": self.samples.add,
        }
        self._tails = [(Tail(self.folder / name), sink) for name, sink in sinks.items()]

    def update(self) -> bool:
        """Read what was added; whether there was anything. Raises UserError where a line is no run's."""
        if any(tail.replaced() for tail, _ in self._tails):
            self.config = self._config()  # it may have been given more steps
            self._clear()
        before = [tail.offset for tail, _ in self._tails]
        for tail, sink in self._tails:
            for record in tail.records():
                sink(record)
        return before != [tail.offset for tail, _ in self._tails]


def find_runs(paths: list[Path]) -> list[Path]:
    """The runs that `paths` mean, each once: a folder without config.toml stands for the runs in it, as a grid's does.

    Raises UserError where there is none.
    """
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            raise UserError(f"no folder {path}: name a run's folder, as in runs/laptop-grpo-0")
        inside = (
            []
            if (path / "config.toml").is_file()
            else sorted(p.parent for p in path.glob("*/config.toml"))
        )
        if not inside and not (path / "config.toml").is_file():
            raise UserError(f"no run at {path}: it has no config.toml")
        found += inside or [path]
    return list({path.resolve(): path for path in found}.values())
