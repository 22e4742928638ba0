"""GRPO: the group is the baseline (DeepSeekMath, arXiv:2402.03300; DeepSeek-R1, arXiv:2501.12948, eq. 1-3).

    A_i = (R_i - mean(R)) / std(R)        over the G rollouts of one prompt, for every token of rollout i
    minimise  mean_i 1/L_i sum_t max(-A r, -A clip(r, 1 - e, 1 + e))  +  beta KL(policy || reference)

Assumes several rollouts a prompt. Degenerate case: a group whose rewards are all equal has advantage
zero and, without KL and entropy, exactly no gradient; it still counts in the denominators.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from pydantic import Field
from torch import Tensor

from tinyzero import advantages
from tinyzero.algorithms.surrogate import Metrics, SurrogateOptions, policy_loss, rows_without_gradient
from tinyzero.batching import Batch, Totals
from tinyzero.types import Group, Learner


class GRPOOptions(SurrogateOptions):
    """GRPO's own choices; those of the policy loss are inherited."""

    scale: Literal["group", "batch", "none"] = Field(
        "group", description="divide advantages by the standard deviation of the group, of the batch, or not"
    )


class GRPO:
    """Group-relative policy optimisation."""

    Options = GRPOOptions
    min_samples = 2  # a group of one has no baseline

    def __init__(self, options: GRPOOptions | None = None) -> None:
        self.options = options or GRPOOptions()
        self.roles: tuple[str, ...] = ("reference",) if self.options.kl else ()

    def keep(self, groups: list[Group]) -> list[Group]:
        """All that are groups still, should rewards have raised: flat ones cost nothing in the update."""
        return [g for g in groups if len(g) >= self.min_samples]

    def annotate(self, batch: Batch, models: Mapping[str, Learner]) -> Batch:
        """Advantages from the group; old logprobs where several updates follow; reference logprobs for the KL."""
        scores = advantages.group_advantages(batch.rewards, batch.groups, center="mean", scale=self.options.scale)
        per_token = advantages.broadcast(scores, batch.mask)
        return replace(
            batch,
            advantages=per_token,
            old_logprobs=models["policy"].score(batch) if batch.updates > 1 else None,
            ref_logprobs=models["reference"].score(batch) if self.options.kl else None,
            idle=rows_without_gradient(per_token, self.options),
        )

    def loss(self, role: str, outputs: Mapping[str, Tensor], batch: Batch, totals: Totals) -> tuple[Tensor, Metrics]:
        """The policy's; no other model is trained."""
        return policy_loss(outputs, batch, totals, self.options)
