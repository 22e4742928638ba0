"""Dr. GRPO: GRPO without two divisions that bias it (Liu et al., arXiv:2503.20783).

    A_i = R_i - mean(R)
    minimise  1/(B Lmax) sum_it max(-A_i r_it, -A_i clip(r_it, 1 - e_low, 1 + e_high))

R_i, r_it, e_low and e_high are as in GRPO. B is the number of rollouts in the batch, and Lmax the
limit on new tokens. GRPO has two divisions that are left out here:

- by the standard deviation of the group (`scale`), which gives more weight to problems that are
  very easy or very hard;
- by the number of tokens of each rollout (`aggregate`), which punishes a token of a long wrong
  answer less than a token of a short one. Here all rollouts are divided by the same Lmax.

Because most answers are shorter than Lmax, gradients are smaller than those of GRPO, by a factor of
about length / Lmax.

Assumption and degenerate case are those of GRPO: at least two rollouts per prompt, and no gradient
from a group of equal rewards.

Deviation: the paper changes the rewards of truncated answers. Here they keep the task's reward.
"""

from tinyzero.algorithms.base import preset
from tinyzero.algorithms.grpo import GRPO

ALGORITHM = preset(
    "DrGRPO",
    GRPO,
    scale="none",
    aggregate="constant-length",
)
