"""RLOO: REINFORCE, the other rollouts of the prompt as baseline (Ahmadian et al., arXiv:2402.14740, eq. 8).

    A_i = R_i - mean of R_j, j != i;   minimise  -mean_i A_i log pi(y_i)
    off here: KL (paper: in the reward, k1, 0.03 to 0.10)

The whole response is one action: its tokens' log-probabilities are summed, not averaged. The paper takes the KL
to the reference out of the reward (`kl_in_reward`; 0 here, as the rewards are exact). A_i is
K/(K - 1) times Dr. GRPO's. With several updates a batch each token's ratio weighs in, unclipped.
"""

from pydantic import Field

from tinyzero.algorithms.advantages import Center, Scale
from tinyzero.algorithms.grpo import GRPO, GRPOOptions
from tinyzero.algorithms.losses import Aggregation
from tinyzero.algorithms.options import Objective


class RLOOOptions(GRPOOptions):
    """RLOO's choices."""

    center: Center = Field(
        "leave_one_out", description="what is taken from a reward: the group's mean, or others'"
    )
    scale: Scale = Field("none", description="divide advantages by a standard deviation, or not")
    objective: Objective = Field("reinforce", description="the policy loss of a token")
    aggregate: Aggregation = Field(
        "seq-mean-token-sum", description="how token losses become one number"
    )


class RLOO(GRPO):
    """REINFORCE leave-one-out."""

    Options = RLOOOptions


ALGORITHM = RLOO
