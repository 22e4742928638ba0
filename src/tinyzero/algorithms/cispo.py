"""CISPO: clip the weight, never the gradient (MiniMax-M1, arXiv:2506.13585, eq. 4-5).

    minimise  -1/sum_i L_i sum_it sg(clip(r, 1 - e_low, 1 + e_high)) A_i log pi(y_it)
    off here: penalty on length (paper: as DAPO's)

A_i is GRPO's, groups all right or all wrong are drawn anew as in DAPO. No token is cut out of the gradient: PPO's
clip drops the rare words at which a model turns round. `clip_low` of 10 means no lower bound. With one update a
batch this is REINFORCE, but for groups that waited for it. The paper also penalises length as DAPO does: `overlong`.
"""

from tinyzero.algorithms.base import preset
from tinyzero.algorithms.grpo import GRPO

ALGORITHM = preset(
    "CISPO",
    GRPO,
    filter="flat",
    objective="cispo",
    clip_low=10.0,
    aggregate="token-mean",
)
