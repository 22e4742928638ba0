"""A user's algorithm with no base class, no options and no optional method."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from tinyzero.batching import Batch, Totals
from tinyzero.types import Lesson, Scorer


class Bare:
    """REINFORCE without a baseline."""

    def annotate(self, batch: Batch, models: Mapping[str, Scorer]) -> tuple[Batch, Lesson]:
        advantages = torch.where(batch.mask, batch.rewards[:, None], 0.0)
        return replace(batch, advantages=advantages), Lesson()

    def loss(
        self, role: str, outputs: Mapping[str, Tensor], batch: Batch, totals: Totals
    ) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]:
        assert batch.advantages is not None
        return -(batch.advantages * outputs["logprobs"]).sum() / totals.tokens, {}
