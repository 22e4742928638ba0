"""CISPO: clip the weight of a token, never its gradient (MiniMax-M1, arXiv:2506.13585, eq. 4-5).

    minimise  -1/(sum_i L_i) sum_it sg(clip(r_it, 1 - e_low, 1 + e_high)) A_i log pi(y_it)
    over groups in which at least one answer is right and at least one is wrong
    not used by default: length penalty (paper: that of DAPO)

A_i, r_it and L_i are as in GRPO, and sg stops the gradient. PPO's clip removes a token from the
gradient when its ratio is out of bounds. This tends to hit the rare words at which a model changes
its mind ("wait", "however"). CISPO keeps all tokens and only bounds their weight.

- `clip_low` (e_low, 10) means that there is no lower bound, as in the paper, because ratios are
  positive. `clip_high` (e_high, 0.2) is the upper bound.
- `filter` drops groups that are all right or all wrong and replaces them by new ones, as in DAPO.
- `overlong` adds DAPO's length penalty, which the paper uses as well.

Assumption: there are at least two rollouts per prompt, and some groups are neither all right nor
all wrong. Degenerate case: if no group passes the filter, nothing is learned in this step.

With one update per batch this is REINFORCE, except for rollouts of an earlier policy that were kept
until the filter had collected a full batch. Their ratio is not 1.
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
