"""REINFORCE++-baseline: center by the group, scale by the batch (Hu et al., arXiv:2501.03262).

    A = whiten(R_i - mean(R))      mean over the group, whitened over all tokens of the batch
    then PPO's clip, and the mean over tokens
    not used by default: KL loss (paper: k2)

R_i is the reward of rollout i. GRPO divides by the standard deviation of each group. Here all
groups share one (`whiten`), so that a group whose rewards hardly differ keeps small advantages.

`kl` adds the paper's KL loss. It is 0 here because a program checks the answers,
so there is no learned reward model to exploit.

Assumption: there are at least two rollouts per prompt.

Degenerate case: whitening gives the *tokens* of the batch a mean of zero, not its rollouts. If
lengths differ, even a group of equal rewards gets an advantage that is not exactly zero.

Deviation from OpenRLHF: a KL penalty in the reward (`kl_in_reward`) is summed over the completion
before the mean of the group is subtracted. OpenRLHF subtracts it token by token afterwards.
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
