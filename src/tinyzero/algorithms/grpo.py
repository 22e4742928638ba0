"""GRPO: the group is the baseline (DeepSeekMath, arXiv:2402.03300; DeepSeek-R1, arXiv:2501.12948, eq. 1-3).

    A_i = (R_i - mean(R)) / std(R)        over the G rollouts of one prompt, for every token of rollout i
    minimise  mean_i 1/L_i sum_t max(-A r, -A clip(r, 1 - e, 1 + e))  +  beta KL(policy || reference)
    off here: KL (paper: in the loss, k3, beta 0.04)

Assumes several rollouts a prompt. Degenerate case: a group whose rewards are all equal has advantage
zero and, without KL and entropy, exactly no gradient; it still counts in the denominators. A KL inside the reward
(`kl_in_reward`) is divided by the standard deviation with the rest of it: as a loss (`kl`) it keeps its weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, model_validator

from tinyzero.algorithms import advantages, losses, stages
from tinyzero.algorithms.options import PolicyOptions
from tinyzero.types import Lesson, Scorer

if TYPE_CHECKING:
    from tinyzero.batching import Batch


class GRPOOptions(PolicyOptions):
    """The baseline; the other stages are inherited."""

    center: advantages.Center = Field(
        "mean", description="what is taken from a reward: the group's mean, or others'"
    )
    scale: advantages.Scale = Field(
        "group",
        description="divide advantages by the standard deviation of the group, of the batch, or not",
    )
    whiten: bool = Field(False, description="normalise advantages over all tokens of the batch")
    aggregate: losses.Aggregation = Field(
        "seq-mean-token-mean", description="how token losses become one number"
    )

    @model_validator(mode="after")
    def _centred(self) -> GRPOOptions:
        if self.center == "none" and self.scale != "none":
            raise ValueError(
                f'scale "{self.scale}" divides what was not centred: make scale "none" too'
            )
        if self.whiten and self.scale == "batch":
            raise ValueError(
                'scale "batch" divides by one number, which whiten undoes: leave one of them out'
            )
        return self


class GRPO(stages.StagedAlgorithm):
    """Group-relative policy optimisation, and whatever else compares the rollouts of one prompt."""

    Options: ClassVar[type[GRPOOptions]] = GRPOOptions
    options: GRPOOptions

    def __init__(self, options: GRPOOptions | None = None) -> None:
        super().__init__(options)
        if self.options.center != "none":
            self.min_samples = 2  # a group of one has no baseline

    def annotate(self, batch: Batch, models: Mapping[str, Scorer]) -> tuple[Batch, Lesson]:
        """Advantages from the group; a KL inside the reward counts as the response's own, before the baseline."""
        o = self.options
        batch = stages.prepare(batch, models, o)
        scores = advantages.group_advantages(
            stages.response_rewards(batch, o), batch.groups, o.center, o.scale
        )
        found = advantages.broadcast(scores, batch.mask)
        if o.whiten:
            found = advantages.whiten(found, batch.mask)
        idle = stages.rows_without_gradient(found, o)
        return replace(batch, advantages=found, idle=idle), Lesson()


ALGORITHM = GRPO
