"""PPO with a value model (Schulman et al., arXiv:1707.06347) and GAE (arXiv:1506.02438, eq. 16).

    delta_t = rho_t + gamma V_{t+1} - V_t
    A_t = delta_t + gamma lambda A_{t+1},   whitened over all tokens of the batch
    return_t = A_t + V_t                    before whitening
    policy: minimise  mean_t max(-A_t r_t, -A_t clip(r_t, 1 - e_low, 1 + e_high))
    critic: minimise  mean_t max((V_t - return_t)^2, (U_t - return_t)^2) / 2
            with U_t = clip(V_t, old V_t - c, old V_t + c)
    not used by default: lambda by length, separate lambda for the critic (VAPO, arXiv:2504.05118)

rho_t is the reward at the last token, minus `kl_in_reward` times log(policy / reference) at every
token. V_t is the critic's value before token t is chosen. After the last token it is 0, even if the
completion was truncated. r_t is the probability of token t under the current policy, divided by the
probability under the policy before the update. Means are over the tokens of the batch.

- `gamma` (1) discounts later rewards. `lam` (lambda, 1) balances rewards against the critic: with 1
  the advantage is the return minus the value, with less it relies more on the critic's values.
- `clip_low` and `clip_high` (e_low and e_high, 0.2) bound the ratio. `value_clip` (c, 0.5) bounds
  how far one batch can move the critic's values.
- `value_warmup` trains the critic alone for the first batches, because a critic that has learned
  nothing would mislead the policy (VC-PPO, arXiv:2503.01491). During this time its targets use a
  lambda of 1, that is the rewards alone, and not its own initial values.

Assumption: the critic can predict the reward from the beginning of a completion. One rollout per
prompt is enough.

Degenerate case: if all rewards are equal and the critic predicts them, all advantages are zero. If
the critic is wrong, whitening turns its errors into advantages of normal size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from tinyzero.algorithms import advantages, losses, stages
from tinyzero.algorithms.base import Metrics
from tinyzero.algorithms.options import PolicyOptions
from tinyzero.types import Lesson, Scorer

if TYPE_CHECKING:
    from torch import Tensor

    from tinyzero.batching import Batch, Totals


class PPOOptions(PolicyOptions):
    """Options of the advantages and of the critic, and those of the shared stages."""

    by_token: ClassVar[bool] = True

    gamma: float = Field(1.0, gt=0, le=1, description="discount of later rewards per token")
    lam: float = Field(
        1.0,
        ge=0,
        le=1,
        description="lambda of GAE: 1 relies on rewards alone, smaller values more on the critic",
    )
    lam_alpha: float = Field(
        0.0,
        ge=0,
        le=1e6,
        description=(
            "use 1 - 1/(lam_alpha * tokens of the completion) as lambda (VAPO: 0.05); 0 uses lam"
        ),
    )
    critic_lam: float | None = Field(
        None,
        ge=0,
        le=1,
        description="lambda for the critic's targets; default: that of the policy",
    )
    value_clip: float = Field(
        0.5,
        gt=0,
        le=1e6,
        description="how far one batch can move the critic's values from the old ones",
    )
    value_warmup: int = Field(
        0, ge=0, le=10**7, description="number of first batches that train only the critic"
    )
    whiten: bool = Field(
        True, description="shift and scale advantages to mean 0 and variance 1 over the batch"
    )

    @property
    def without_effect(self) -> set[str]:
        """Names of options that change nothing, given the values of the others."""
        replaced = {"lam"} if self.lam_alpha else set()
        return super().without_effect | replaced


class PPO(stages.StagedAlgorithm):
    """Proximal policy optimisation with a critic."""

    Options = PPOOptions
    options: PPOOptions

    def __init__(self, options: PPOOptions | None = None) -> None:
        super().__init__(options)
        self.roles = ("critic", *self.roles)

    def annotate(self, batch: Batch, models: Mapping[str, Scorer]) -> tuple[Batch, Lesson]:
        """Add the critic's values, advantages, and the returns that are the critic's targets."""
        options = self.options
        batch = stages.prepare(batch, models, options)
        rewards = stages.token_rewards(batch, options)
        values = models["critic"].score(batch)

        lam: float | Tensor = options.lam
        if options.lam_alpha:
            lengths = batch.mask.sum(1)
            lam = advantages.length_adaptive_lambda(lengths, options.lam_alpha)
        token_advantages, returns = advantages.gae(rewards, values, batch.mask, options.gamma, lam)
        if options.whiten:
            token_advantages = advantages.whiten(token_advantages, batch.mask)

        # A critic that has learned nothing yet would mislead the policy (VC-PPO, arXiv:2503.01491).
        is_warmup = models["critic"].batches < options.value_warmup
        critic_lam = 1.0 if is_warmup else options.critic_lam
        if critic_lam is not None:
            _, returns = advantages.gae(rewards, values, batch.mask, options.gamma, critic_lam)

        batch = replace(batch, advantages=token_advantages, returns=returns, values=values)
        return batch, Lesson(skip=("policy",) if is_warmup else ())

    def loss(
        self, role: str, outputs: Mapping[str, Tensor], batch: Batch, totals: Totals
    ) -> tuple[Tensor, Metrics]:
        """The clipped loss of the policy, or the clipped squared error of the critic."""
        if role == "policy":
            return stages.policy_loss(outputs, batch, totals, self.options)

        assert batch.values is not None
        assert batch.returns is not None
        values = outputs["values"]
        errors = losses.clipped_value_loss(
            values, batch.values, batch.returns, self.options.value_clip
        )
        loss = stages.step_mean(errors, batch, "token-mean", totals)

        values = values.detach()
        squares = (values - batch.returns).square()
        count = batch.mask.sum()
        metrics = {
            "mean": ((values * batch.mask).sum(), count),
            "error": ((squares * batch.mask).sum(), count),
        }
        return loss, metrics


ALGORITHM = PPO
