"""PPO with a value model (Schulman et al., arXiv:1707.06347) and GAE (arXiv:1506.02438, eq. 16).

    delta_t = rho_t + gamma V_{t+1} - V_t,   A_t = delta_t + gamma lambda A_{t+1},   return_t = A_t + V_t
    off here: a lambda for each answer by its length, and one of the critic's own (VAPO, arXiv:2504.05118)

rho is the reward on the last token, minus `kl_in_reward` times log(policy/reference) on every token.
V_t is the value before token t is chosen; after the last token it is 0, also for truncated responses.
Advantages are whitened over all tokens of the batch, returns are not. One rollout a prompt suffices.
While the critic warms up, its targets are the rewards alone (lambda 1): its own first values would teach it nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field
from torch import Tensor

from tinyzero.algorithms import advantages, losses, stages
from tinyzero.algorithms.base import Metrics
from tinyzero.algorithms.options import PolicyOptions
from tinyzero.types import Lesson, Scorer

if TYPE_CHECKING:
    from tinyzero.batching import Batch, Totals


class PPOOptions(PolicyOptions):
    """PPO's own choices; the other stages are inherited."""

    by_token: ClassVar[bool] = True

    gamma: float = Field(1.0, gt=0, le=1, description="discount of later rewards")
    lam: float = Field(
        1.0, ge=0, le=1, description="GAE's lambda; 1 trusts the rewards, less trusts the critic"
    )
    lam_alpha: float = Field(
        0.0,
        ge=0,
        le=1e6,
        description="lambda is 1 - 1/(this times the answer's tokens) instead (VAPO: 0.05); 0 for lam",
    )
    critic_lam: float | None = Field(
        None, ge=0, le=1, description="lambda of the critic's targets; none for the same"
    )
    value_clip: float = Field(
        0.5,
        gt=0,
        le=1e6,
        description="the critic's values move at most this far from the old ones a batch",
    )
    value_warmup: int = Field(
        0, ge=0, le=10**7, description="first batches on which the critic alone is trained"
    )
    whiten: bool = Field(True, description="normalise advantages over all tokens of the batch")

    @property
    def without_effect(self) -> set[str]:
        """Beside the shared ones."""
        return super().without_effect | ({"lam"} if self.lam_alpha else set())


class PPO(stages.StagedAlgorithm):
    """Proximal policy optimisation with a critic."""

    Options = PPOOptions
    options: PPOOptions

    def __init__(self, options: PPOOptions | None = None) -> None:
        super().__init__(options)
        self.roles = ("critic", *self.roles)

    def annotate(self, batch: Batch, models: Mapping[str, Scorer]) -> tuple[Batch, Lesson]:
        """Values, advantages and returns; old and reference logprobs where they are needed."""
        o = self.options
        batch = stages.prepare(batch, models, o)
        values = models["critic"].score(batch)
        rewards = stages.token_rewards(batch, o)
        lam = (
            advantages.length_adaptive_lambda(batch.mask.sum(1), o.lam_alpha)
            if o.lam_alpha
            else o.lam
        )
        found, returns = advantages.gae(rewards, values, batch.mask, o.gamma, lam)
        # a critic that knows nothing yet would lead the policy astray (VC-PPO, arXiv:2503.01491)
        waiting = models["critic"].batches < o.value_warmup
        critic_lam = 1.0 if waiting else o.critic_lam
        if critic_lam is not None:
            returns = advantages.gae(rewards, values, batch.mask, o.gamma, critic_lam)[1]
        if o.whiten:
            found = advantages.whiten(found, batch.mask)
        lesson = Lesson(skip=("policy",) if waiting else ())
        return replace(batch, advantages=found, returns=returns, values=values), lesson

    def loss(
        self, role: str, outputs: Mapping[str, Tensor], batch: Batch, totals: Totals
    ) -> tuple[Tensor, Metrics]:
        """The policy's surrogate, or the critic's clipped squared error."""
        if role == "policy":
            return stages.policy_loss(outputs, batch, totals, self.options)
        assert batch.values is not None
        assert batch.returns is not None
        values = outputs["values"]
        errors = losses.clipped_value_loss(
            values, batch.values, batch.returns, self.options.value_clip
        )
        loss = stages.step_mean(errors, batch, "token-mean", totals)
        count = batch.mask.sum()
        return loss, {
            "mean": ((values.detach() * batch.mask).sum(), count),
            "error": (((values.detach() - batch.returns).square() * batch.mask).sum(), count),
        }


ALGORITHM = PPO
