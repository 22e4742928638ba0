"""REINFORCE++-baseline: the group's mean is taken off, the batch sets the scale (Hu et al., arXiv:2501.03262).

    A = whiten(R_i - mean(R)) over all tokens of the batch;   PPO's clip, token mean, KL as a k2 loss
    off here: KL (paper: in the loss, k2)

Where GRPO divides by each group's own deviation, here one deviation serves all groups, so a group that hardly
differs stays small; but tokens, not answers, have mean zero, so a flat group is shifted a little too. The paper adds
a KL loss (`kl`, with `kl_estimator = "k2"`); it is off here, as the rewards are exact. A KL inside the reward is
summed over the response before the group's mean is taken, where OpenRLHF subtracts it token by token afterwards.
"""

from tinyzero.algorithms.base import preset
from tinyzero.algorithms.grpo import GRPO

ALGORITHM = preset(
    "ReinforcePPBaseline",
    GRPO,
    scale="none",
    whiten=True,
    kl_estimator="k2",
    aggregate="token-mean",
)
