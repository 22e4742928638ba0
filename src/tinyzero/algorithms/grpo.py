"""GRPO: the mean of the group is the baseline (arXiv:2402.03300; DeepSeek-R1, arXiv:2501.12948).

    A_i = (R_i - mean(R)) / std(R)      over the rollouts of one prompt, for each token of rollout i
    minimise  mean_i 1/L_i sum_t max(-A_i r_it, -A_i clip(r_it, 1 - e_low, 1 + e_high))
    not used by default: KL loss (paper: k3, weight 0.04)

R_i is the reward of rollout i and L_i its number of tokens. r_it is the probability of its token t
under the current policy, divided by the probability under the policy before the update. These are
equations 1 to 3 of DeepSeek-R1.

- `clip_low` and `clip_high`, e_low and e_high (0.2 and 0.2), bound how far one batch can move the
  probability of a token.
- `kl` adds the KL loss and `kl_estimator` chooses its formula. With 0 no reference model is needed.
- `center`, `scale`, `whiten` and `aggregate` choose another advantage or mean. The presets of other
  papers (DAPO, Dr. GRPO, RLOO, ...) are GRPO with other values for them.

Assumption: there are at least two rollouts per prompt.

Degenerate case: if all rewards of a group are equal, its advantages are zero. Without a KL loss and
an entropy bonus its gradient is then exactly zero, but the group still counts in the mean.

Detail: a KL penalty in the reward (`kl_in_reward`) is divided by std(R) along with the reward. The
KL loss (`kl`) is not, so it keeps its weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, model_validator

from tinyzero.algorithms import advantages, stages
from tinyzero.algorithms.options import Aggregation, Center, PolicyOptions, Scale
from tinyzero.types import Lesson, Scorer

if TYPE_CHECKING:
    from tinyzero.batching import Batch


class GRPOOptions(PolicyOptions):
    """How the rewards of a group become advantages, and the options of the shared stages."""

    center: Center = Field(
        "mean",
        description="baseline of a reward: mean of the group, of its other completions, or none",
    )
    scale: Scale = Field(
        "group",
        description="standard deviation to divide by: that of the group, of the batch, or none",
    )
    whiten: bool = Field(
        False, description="shift and scale advantages to mean 0 and variance 1 over the batch"
    )
    aggregate: Aggregation = Field(
        "seq-mean-token-mean",
        description="how the losses of all tokens are averaged into one number",
    )

    @model_validator(mode="after")
    def _centred(self) -> GRPOOptions:
        """Reject a scale that is undefined or has no effect."""
        if self.center == "none" and self.scale != "none":
            raise ValueError(
                f'scale is "{self.scale}" and center is "none", but only centred rewards can be '
                'scaled: use scale "none" too'
            )
        if self.whiten and self.scale == "batch":
            raise ValueError(
                'scale "batch" divides all advantages by one number, which whiten undoes: '
                "use only one of them"
            )
        return self


class GRPO(stages.StagedAlgorithm):
    """Group-relative policy optimisation, and other ways to compare the rollouts of one prompt."""

    Options: ClassVar[type[GRPOOptions]] = GRPOOptions
    options: GRPOOptions

    def __init__(self, options: GRPOOptions | None = None) -> None:
        super().__init__(options)
        if self.options.center != "none":
            self.min_samples = 2  # in a group of one, there is nothing to compare with

    def annotate(self, batch: Batch, models: Mapping[str, Scorer]) -> tuple[Batch, Lesson]:
        """Add advantages: each rollout's reward, less its KL penalties, compared with its group."""
        options = self.options
        batch = stages.prepare(batch, models, options)

        rewards = stages.response_rewards(batch, options)
        row_advantages = advantages.group_advantages(
            rewards, batch.groups, options.center, options.scale
        )
        token_advantages = advantages.broadcast(row_advantages, batch.mask)
        if options.whiten:
            token_advantages = advantages.whiten(token_advantages, batch.mask)

        idle = stages.rows_without_gradient(token_advantages, options)
        return replace(batch, advantages=token_advantages, idle=idle), Lesson()


ALGORITHM = GRPO
