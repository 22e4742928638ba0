"""CISPO: clip the weight, never the gradient (MiniMax-M1, arXiv:2506.13585, eq. 4-5).

    minimise  -1/sum_i L_i sum_it sg(clip(r, 1 - e_low, 1 + e_high)) A_i log pi(y_it)
    off here: penalty on length (paper: as DAPO's)

A_i is GRPO's, groups all right or all wrong are drawn anew as in DAPO. No token is cut out of the gradient: PPO's
clip drops the rare words at which a model turns round. `clip_low` of 10 means no lower bound. With one update a
batch this is REINFORCE, but for groups that waited for it. The paper also penalises length as DAPO does: `overlong`.
"""

from pydantic import Field

from tinyzero.algorithms.grpo import GRPO, GRPOOptions
from tinyzero.algorithms.losses import Aggregation
from tinyzero.algorithms.options import Filter, Objective


class CISPOOptions(GRPOOptions):
    """CISPO's choices."""

    filter: Filter = Field("flat", description="groups dropped and drawn anew")
    objective: Objective = Field("cispo", description="the policy loss of a token")
    clip_low: float = Field(10.0, gt=0, le=1e6, description="the weight is held above 1 - this")
    aggregate: Aggregation = Field("token-mean", description="how token losses become one number")


class CISPO(GRPO):
    """Clipped importance sampling weights."""

    Options = CISPOOptions


ALGORITHM = CISPO
