"""GSPO: one probability ratio per sequence (Zheng et al., Qwen team, arXiv:2507.18071, eq. 5-7).

    s_i = (pi(y_i) / pi_old(y_i))^(1/L_i)
    minimise  mean_i max(-A_i s_i, -A_i clip(s_i, 1 - e_low, 1 + e_high))

A_i is the advantage of GRPO. pi(y_i) is the probability of the completion of rollout i under the
current policy, pi_old(y_i) that under the policy before the update, and L_i its number of tokens.

`ratio` replaces the ratio of each token by s_i, the geometric mean over the sequence. It hardly
moves, so its bounds `clip_low` and `clip_high` (e_low 3e-4, e_high 4e-4, as in the paper) are much
closer than GRPO's. With 0.2 nothing would ever be clipped.

Assumption: there are at least two rollouts per prompt. Degenerate case: a group of equal rewards
has advantages of zero, and no gradient.

With one update per batch s_i is 1, and GSPO is the same as GRPO.
"""

from tinyzero.algorithms.base import preset
from tinyzero.algorithms.grpo import GRPO

ALGORITHM = preset(
    "GSPO",
    GRPO,
    ratio="sequence",
    clip_low=3e-4,
    clip_high=4e-4,
)
