"""PPO with a value model (Schulman et al., arXiv:1707.06347) and GAE (arXiv:1506.02438, eq. 16).

    delta_t = rho_t + gamma V_{t+1} - V_t,   A_t = delta_t + gamma lambda A_{t+1},   return_t = A_t + V_t

rho is the reward on the last token, minus `kl_in_reward` times log(policy/reference) on every token.
V_t is the value before token t is chosen; after the last token it is 0, also for truncated responses.
Advantages are whitened over all tokens of the batch, returns are not. One rollout a prompt suffices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor

from tinyzero import advantages, losses
from tinyzero.algorithms.surrogate import Aggregation, Metrics, SurrogateOptions, policy_loss
from tinyzero.batching import Batch, Totals
from tinyzero.types import Group, Learner


class PPOOptions(SurrogateOptions):
    """PPO's own choices; those of the policy loss are inherited."""

    aggregate: Aggregation = Field("token-mean", description="how token losses become one number")
    gamma: float = Field(1.0, gt=0, le=1, description="discount of later rewards")
    lam: float = Field(1.0, ge=0, le=1, description="GAE's lambda; 1 trusts the rewards, less trusts the critic")
    value_clip: float = Field(
        0.5, gt=0, description="the critic's values move at most this far from the old ones a batch"
    )
    kl_in_reward: float = Field(0.0, ge=0, description="weight of the per-token KL penalty (k1) inside the reward")
    whiten: bool = Field(True, description="normalise advantages over all tokens of the batch")


class PPO:
    """Proximal policy optimisation with a critic."""

    Options = PPOOptions
    min_samples = 1

    def __init__(self, options: PPOOptions | None = None) -> None:
        self.options = options or PPOOptions()
        needs_reference = self.options.kl or self.options.kl_in_reward
        self.roles: tuple[str, ...] = ("critic", "reference") if needs_reference else ("critic",)

    def keep(self, groups: list[Group]) -> list[Group]:
        """All of them: the baseline is the critic's, not the group's."""
        return groups

    def annotate(self, batch: Batch, models: Mapping[str, Learner]) -> Batch:
        """Values, advantages and returns; old and reference logprobs where they are needed."""
        o = self.options
        old = models["policy"].score(batch) if batch.updates > 1 or o.kl_in_reward else None
        reference = models["reference"].score(batch) if "reference" in self.roles else None
        values = models["critic"].score(batch)
        rewards = torch.zeros_like(values)
        last = (batch.mask * torch.arange(batch.mask.shape[1])).argmax(1)  # the last trained token's column
        rewards[torch.arange(batch.size), last] = batch.rewards
        if o.kl_in_reward:
            assert old is not None
            assert reference is not None
            rewards = rewards - o.kl_in_reward * losses.kl(old, reference, "k1") * batch.mask
        found, returns = advantages.gae(rewards, values, batch.mask, o.gamma, o.lam)
        if o.whiten:
            found = advantages.whiten(found, batch.mask)
        return replace(
            batch, advantages=found, returns=returns, values=values, old_logprobs=old, ref_logprobs=reference
        )

    def loss(self, role: str, outputs: Mapping[str, Tensor], batch: Batch, totals: Totals) -> tuple[Tensor, Metrics]:
        """The policy's surrogate, or the critic's clipped squared error."""
        if role == "policy":
            return policy_loss(outputs, batch, totals, self.options)
        assert batch.values is not None
        assert batch.returns is not None
        values = outputs["values"]
        errors = losses.clipped_value_loss(values, batch.values, batch.returns, self.options.value_clip)
        loss = losses.aggregate(
            errors,
            batch.mask,
            "token-mean",
            tokens=totals.tokens,
            sequences=totals.sequences,
            max_length=totals.max_length,
        )
        count = batch.mask.sum()
        return loss, {
            "mean": ((values.detach() * batch.mask).sum(), count),
            "error": (((values.detach() - batch.returns).square() * batch.mask).sum(), count),
        }
