"""REINFORCE++-baseline: the group's mean is taken off, the batch sets the scale (Hu et al., arXiv:2501.03262).

    A = whiten(R_i - mean(R)) over all tokens of the batch;   PPO's clip, token mean, KL as a k2 loss
    off here: KL (paper: in the loss, k2)

Where GRPO divides by each group's own deviation, here one deviation serves all groups, so a group that hardly
differs stays small; but tokens, not answers, have mean zero, so a flat group is shifted a little too. The paper adds
a KL loss (`kl`, with `kl_estimator = "k2"`); it is off here, as the rewards are exact. A KL inside the reward is
summed over the response before the group's mean is taken, where OpenRLHF subtracts it token by token afterwards.
"""

from pydantic import Field

from tinyzero.algorithms.advantages import Scale
from tinyzero.algorithms.grpo import GRPO, GRPOOptions
from tinyzero.algorithms.losses import Aggregation
from tinyzero.algorithms.options import LossEstimator


class ReinforcePPBaselineOptions(GRPOOptions):
    """REINFORCE++-baseline's choices."""

    scale: Scale = Field("none", description="divide advantages by a standard deviation, or not")
    whiten: bool = Field(True, description="normalise advantages over all tokens of the batch")
    kl_estimator: LossEstimator = Field("k2", description="how the KL loss is estimated")
    aggregate: Aggregation = Field("token-mean", description="how token losses become one number")


class ReinforcePPBaseline(GRPO):
    """REINFORCE++ with the group's mean as baseline."""

    Options = ReinforcePPBaselineOptions


ALGORITHM = ReinforcePPBaseline
