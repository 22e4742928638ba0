"""Your own algorithm in one file. Here RAFT (arXiv:2304.06767), which imitates right answers only.

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
    """Each field is an option of the command line: `--algorithm.at_most 4`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    at_most: int = Field(16, ge=1, description="right answers per group that are imitated")


class RAFT(Algorithm):
    """Supervised training on the model's own right answers."""

    Options = RAFTOptions

    def keep(self, groups: list[Group]) -> list[Group]:
        """Keep the groups with a right answer.

        The others are replaced by new ones if `rollout.refills` is above 0, and dropped otherwise.
        """
        return [group for group in groups if any(rollout.reward.right for rollout in group)]

    def annotate(self, batch: Batch, models: Mapping[str, Scorer]) -> tuple[Batch, Lesson]:
        """Give the first `at_most` right answers of a group the advantage 1, and the others 0."""
        chosen = torch.zeros(len(batch.groups))
        chosen_per_group: dict[int, int] = {}
        for row, group in enumerate(batch.groups.tolist()):
            already_chosen = chosen_per_group.get(group, 0)
            if batch.right[row] and already_chosen < self.options.at_most:
                chosen[row] = 1.0
                chosen_per_group[group] = already_chosen + 1

        # Rows without an advantage have no gradient: `idle` spares their computation.
        token_advantages = advantages.broadcast(chosen, batch.mask)
        return replace(batch, advantages=token_advantages, idle=chosen == 0), Lesson()

    def loss(
        self, role: str, outputs: Mapping[str, Tensor], batch: Batch, totals: Totals
    ) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]:
        """The negative log-likelihood of the chosen answers, averaged over all tokens of the step.

        Returns this micro-batch's share of it, and each metric as (sum, count).
        """
        assert batch.advantages is not None
        token_losses = -batch.advantages * outputs["logprobs"]
        loss = losses.aggregate(
            token_losses,
            batch.mask,
            "token-mean",
            tokens=totals.tokens,
            sequences=totals.sequences,
            max_length=totals.max_length,
        )
        imitated = (batch.advantages > 0).sum()
        return loss, {"imitated": (imitated, batch.mask.sum())}
