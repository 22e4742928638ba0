"""Your own algorithm in one file. Here RAFT (arXiv:2304.06767): imitate the right answers, ignore the wrong ones.

tinyzero train --algorithm examples/my_algorithm.py:RAFT --algorithm.at_most 4
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from tinyzero.algorithms import Algorithm, advantages, losses
from tinyzero.batching import Batch, Totals
from tinyzero.types import Group, Lesson, Scorer


class RAFTOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    at_most: int = Field(16, ge=1, description="right answers of a group that are imitated")


class RAFT(Algorithm):
    Options = RAFTOptions

    def keep(self, groups: list[Group]) -> list[Group]:
        return [g for g in groups if any(r.reward.right for r in g)]  # others are drawn anew

    def annotate(self, batch: Batch, models: Mapping[str, Scorer]) -> tuple[Batch, Lesson]:
        right = batch.right
        earlier = torch.tensor(
            [int(right[:i][batch.groups[:i] == g].sum()) for i, g in enumerate(batch.groups)]
        )
        chosen = (right & (earlier < self.options.at_most)).float()
        found = advantages.broadcast(chosen, batch.mask)
        return replace(batch, advantages=found, idle=chosen == 0), Lesson()

    def loss(
        self, role: str, outputs: Mapping[str, Tensor], batch: Batch, totals: Totals
    ) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]:
        assert batch.advantages is not None
        likelihood = -batch.advantages * outputs["logprobs"]
        mean = losses.aggregate(
            likelihood,
            batch.mask,
            "token-mean",
            tokens=totals.tokens,
            sequences=totals.sequences,
            max_length=totals.max_length,
        )
        return mean, {"imitated": ((batch.advantages > 0).sum(), batch.mask.sum())}
