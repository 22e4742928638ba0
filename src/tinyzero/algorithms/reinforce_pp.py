"""REINFORCE++: no critic, no group; the batch is the baseline (Hu et al., arXiv:2501.03262).

    rho_t = -beta log(pi/ref),  rho_T += R;   G_t = sum_{s >= t} gamma^(s - t) rho_s;   A = whiten(G) over the batch
    off here: KL (paper: in the reward, k1, beta 0.01)

One rollout a prompt suffices. beta is `kl_in_reward`; 0 here, as the rewards are exact. Whitening
counts tokens, so long responses weigh more in the mean, and a batch whose answers are all right but of unequal
penalties pushes some of them down.
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
    """REINFORCE++'s choices."""

    by_token: ClassVar[bool] = True

    gamma: float = Field(1.0, gt=0, le=1, description="discount of later rewards")


class ReinforcePP(stages.StagedAlgorithm):
    """REINFORCE with PPO's clip and a whitened return."""

    Options = ReinforcePPOptions
    options: ReinforcePPOptions

    def annotate(self, batch: Batch, models: Mapping[str, Scorer]) -> tuple[Batch, Lesson]:
        """Whitened returns-to-go of the rewards and the KL's penalties."""
        o = self.options
        batch = stages.prepare(batch, models, o)
        returns = advantages.return_to_go(stages.token_rewards(batch, o), batch.mask, o.gamma)
        found = advantages.whiten(returns, batch.mask)
        idle = stages.rows_without_gradient(found, o)
        return replace(batch, advantages=found, idle=idle), Lesson()


ALGORITHM = ReinforcePP
