"""TensorBoard, Weights & Biases and trackio behind one small interface.

A tracker is off unless the user asks for it, and its failure never stops a run. It is sent the
numbers of metrics.jsonl and eval.jsonl, which stay the run's own record. Each tracker follows its
own settings, such as WANDB_MODE=offline or TRACKIO_DIR.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from tinyzero.errors import UserError, brief
from tinyzero.run import records

PROJECT = "tinyzero"


class Tracker(Protocol):
    """Where the numbers of each step are sent."""

    def log(self, numbers: Mapping[str, float], step: int) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files in the run's folder: `tensorboard --logdir runs`."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        """For a resumed run, what came after its checkpoint is removed from the event files."""
        from torch.utils.tensorboard import SummaryWriter

        steps = [record["step"] + 1 for record in records.read(folder / "metrics.jsonl")]
        begin = max(steps, default=0)
        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=begin)

        # the evaluation at the checkpoint was removed together with what came after
        for record in records.read(folder / "eval.jsonl"):
            if record["step"] == begin:
                self.log(_numbers(record, f"{record['split']}/"), begin)

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        for key, value in numbers.items():
            self.writer.add_scalar(key, value, step)

    def close(self) -> None:
        self.writer.close()


class WandB:
    """A run of Weights & Biases; a resumed run continues there too."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        import wandb

        self.run = wandb.init(
            project=PROJECT,
            name=folder.resolve().name,
            id=_identity(folder / ".wandb-id"),
            resume="allow",
            dir=str(folder),
            config=dict(settings),
            settings=wandb.Settings(console="off"),  # the terminal is ours
        )
        self.run.define_metric("*", step_metric="step")  # a resumed run may come back to a step

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        self.run.log({**numbers, "step": step})

    def close(self) -> None:
        self.run.finish()


class Trackio:
    """A run of trackio, in its local store."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        import trackio

        self.run = trackio.init(
            project=PROJECT, name=folder.resolve().name, resume="allow", config=dict(settings)
        )

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        self.run.log(dict(numbers), step=step)

    def close(self) -> None:
        self.run.finish()


TRACKERS: dict[str, Callable[[Path, Mapping[str, Any]], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "trackio": Trackio,
}


def require(name: str) -> None:
    """Raise UserError if the package of the tracker `name` is not installed; "" needs none."""
    if name and find_spec(name) is None:
        raise UserError(f"run.track is {name}, which is not installed: pip install {name}")


class Tracking:
    """Sends records to the tracker called `name`, or nowhere if that is empty.

    Use it as a context. If the tracker raises, that is noted once, and nothing more is sent.
    """

    def __init__(
        self, name: str, folder: Path, settings: Mapping[str, Any], note: Callable[[str], None]
    ) -> None:
        self.name, self.folder, self.settings, self.note = name, folder, settings, note
        self.tracker: Tracker | None = None

    def __enter__(self) -> Tracking:
        if self.name:
            self._guarded(self._open)
        return self

    def __exit__(self, *exception: object) -> None:
        if self.tracker:
            self._guarded(self.tracker.close)

    def log(self, record: Mapping[str, Any], prefix: str = "") -> None:
        """Send the finite numbers of a record at its `step`, with `prefix` before their names."""
        if self.tracker:
            tracker = self.tracker
            self._guarded(lambda: tracker.log(_numbers(record, prefix), record["step"]))

    def _open(self) -> None:
        self.tracker = TRACKERS[self.name](self.folder, self.settings)

    def _guarded(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # no error of a tracker may stop training
            self.tracker = None
            self.note(
                f"{self.name} failed and is sent nothing more ({brief(error)}); "
                "the run continues, with its own records"
            )


def _numbers(record: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """The finite numbers of a record except its step, with `prefix` before their names."""
    return {
        prefix + key: float(value)
        for key, value in record.items()
        if key != "step" and isinstance(value, int | float) and math.isfinite(value)
    }


def _identity(path: Path) -> str:
    """The id of the folder's run at the tracker; it is made up once and kept in a file."""
    if not path.exists():
        path.write_text(uuid.uuid4().hex[:12])
    return path.read_text()
