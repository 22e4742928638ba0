"""The models of a run by role: the policy and, if needed, critic, reward model and reference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch

from tinyzero.batching import Batch
from tinyzero.errors import NonFiniteError, short_path
from tinyzero.run.clock import Clock
from tinyzero.types import Learner, Lesson

PREFIXES = {"policy": "", "critic": "value/", "prm": "prm/"}


class Models(Mapping[str, Learner]):
    """Learners by role. Only those with an optimizer are trained; the reference is frozen."""

    def __init__(self, learners: Mapping[str, Learner], folder: Path, clock: Clock) -> None:
        self._learners, self.folder, self.clock = dict(learners), folder, clock

    def __getitem__(self, role: str) -> Learner:
        return self._learners[role]

    def __iter__(self) -> Iterator[str]:
        return iter(self._learners)

    def __len__(self) -> int:
        return len(self._learners)

    def update(self, batch: Batch, lesson: Lesson) -> dict[str, float]:
        """Train every trained model on `batch`, except those that `lesson` leaves out.

        The learning rate schedule of a model that is skipped still advances. Returns the metrics of
        all models; those of models other than the policy have a prefix.
        """
        with self.clock("update"):
            metrics: dict[str, float] = {}
            for role, learner in self.items():
                learned = self._learn(role, learner, batch, lesson)
                metrics |= {PREFIXES[role] + name: value for name, value in learned.items()}
            return metrics

    def _learn(
        self, role: str, learner: Learner, batch: Batch, lesson: Lesson
    ) -> Mapping[str, float]:
        if not learner.trained:
            return {}
        if role in lesson.skip:
            learner.skip(learner.updates)
            return {}
        if role in lesson.trained:
            return lesson.trained[role]

        with self.saved_if_broken(batch, f" (the {role}'s)"):
            return learner.update(batch)

    @contextmanager
    def saved_if_broken(self, batch: Batch, whose: str = "") -> Iterator[None]:
        """If training breaks down inside, save the batch, so that the user can find out why."""
        try:
            yield
        except NonFiniteError as error:
            path, hint = self.folder / "broken_batch.pt", "lower the learning rate"
            try:
                torch.save(asdict(batch), path)
                raise NonFiniteError(
                    f"{error}{whose}: the batch is in {short_path(path)}; {hint}"
                ) from None
            except (OSError, RuntimeError) as refusal:
                reason = str(refusal).splitlines()[0]
                raise NonFiniteError(
                    f"{error}{whose}; the batch could not be saved ({reason}); {hint}"
                ) from None
