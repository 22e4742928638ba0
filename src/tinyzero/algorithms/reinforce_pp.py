"""REINFORCE++: the batch is the baseline, without critic or group (Hu et al., arXiv:2501.03262).

    rho_t = -beta log(pi(y_t) / ref(y_t)), plus the reward R at the last token
    G_t = sum_{s >= t} gamma^(s - t) rho_s
    A_t = (G_t - mean(G)) / std(G)      over all tokens of the batch, then PPO's clip
    not used by default: KL in the reward (paper: k1, beta 0.01)

pi is the policy and ref a frozen copy of the initial policy.

- `kl_in_reward` is beta. It is 0 here because a program checks the answers, so
  there is no learned reward model to exploit.
- `gamma` (1) discounts later rewards.

Assumption: the problems of a batch are about equally difficult, since all of them share one
baseline. One rollout per prompt is enough.

Degenerate case: if all returns are equal, all advantages are zero. A batch of right answers with
unequal penalties still pushes some of them down.

Mean and deviation are taken over tokens, so long completions count more than short ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from tinyzero.algorithms import advantages, stages
from tinyzero.algorithms.options import PolicyOptions
from tinyzero.types import Lesson, Scorer

if TYPE_CHECKING:
    from tinyzero.batching import Batch


class ReinforcePPOptions(PolicyOptions):
    """The discount, and the options of the shared stages."""

    by_token: ClassVar[bool] = True

    gamma: float = Field(1.0, gt=0, le=1, description="discount of later rewards per token")


class ReinforcePP(stages.StagedAlgorithm):
    """REINFORCE with PPO's clip and whitened returns."""

    Options = ReinforcePPOptions
    options: ReinforcePPOptions

    def annotate(self, batch: Batch, models: Mapping[str, Scorer]) -> tuple[Batch, Lesson]:
        """Add advantages: whitened returns of the rewards less the KL penalties."""
        options = self.options
        batch = stages.prepare(batch, models, options)

        rewards = stages.token_rewards(batch, options)
        returns = advantages.return_to_go(rewards, batch.mask, options.gamma)
        token_advantages = advantages.whiten(returns, batch.mask)

        idle = stages.rows_without_gradient(token_advantages, options)
        return replace(batch, advantages=token_advantages, idle=idle), Lesson()


ALGORITHM = ReinforcePP
