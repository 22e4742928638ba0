"""The models of a run by role: the policy, and the critic, reward model and reference if there are any."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

from tinyzero.batching import Batch
from tinyzero.errors import NonFiniteError, asking
from tinyzero.learner import TorchLearner
from tinyzero.run.clock import Clock
from tinyzero.types import Algorithm

PREFIXES = {"policy": "", "critic": "value/", "prm": "prm/"}


class Models(Mapping[str, TorchLearner]):
    """Learners by role. Only those with an optimizer are trained; the reference is frozen."""

    def __init__(
        self,
        learners: Mapping[str, TorchLearner],
        algorithm: Algorithm,
        minibatches: int,
        epochs: int,
        folder: Path,
        clock: Clock,
    ) -> None:
        self._learners = dict(learners)
        self.algorithm, self.folder, self.clock = algorithm, folder, clock
        self.minibatches, self.epochs = minibatches, epochs

    def __getitem__(self, role: str) -> TorchLearner:
        return self._learners[role]

    def __iter__(self) -> Iterator[str]:
        return iter(self._learners)

    def __len__(self) -> int:
        return len(self._learners)

    def update(self, batch: Batch, refused: bool = False) -> dict[str, float]:
        """Train every trained model on `batch`, except those that `annotate` trained or told to wait.

        Nothing is trained on a batch that the algorithm `refused`; schedules advance all the same.
        Returns their metrics: the policy's as they are, the others' with a prefix.
        """
        with self.clock("update"):
            return self._update(batch, refused)

    def _update(self, batch: Batch, refused: bool) -> dict[str, float]:
        metrics: dict[str, float] = {}
        for role, learner in self.items():
            if learner.options is None:
                continue
            if refused or role in batch.waits:
                learner.skip(self.minibatches * self.epochs)
                continue
            if role in batch.updated:
                learned = batch.updated[role]
            else:
                loss = partial(self.algorithm.loss, role)
                with self.saved_if_broken(batch, f" (the {role}'s)"), asking(self.algorithm):
                    learned = learner.update(batch, loss, self.minibatches, self.epochs)
            metrics |= {PREFIXES[role] + name: value for name, value in learned.items()}
        return metrics

    @contextmanager
    def saved_if_broken(self, batch: Batch, whose: str = "") -> Iterator[None]:
        """If training breaks down inside, keep the batch, so that one can see why."""
        try:
            yield
        except NonFiniteError as error:
            path, hint = self.folder / "broken_batch.pt", "lower the learning rate"
            try:
                torch.save(asdict(batch), path)
                raise NonFiniteError(f"{error}{whose}: the batch is in {path}; {hint}") from None
            except (OSError, RuntimeError) as refusal:
                why = str(refusal).splitlines()[0]
                raise NonFiniteError(
                    f"{error}{whose}; the batch could not be saved ({why}); {hint}"
                ) from None
