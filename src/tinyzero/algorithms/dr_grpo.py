"""Dr. GRPO: GRPO without the two divisions that favour length (Liu et al., arXiv:2503.20783).

    A_i = R_i - mean(R);   minimise  1/(B Lmax) sum_it max(-A r, -A clip(r, 1 - e, 1 + e))

It takes off two divisions: by the standard deviation, under which very easy and very hard problems weigh more, and by
each response's own length, under which a long wrong answer is punished less a token. Lmax is the limit on new tokens,
so the effective step is smaller than GRPO's by about length / Lmax. What the paper also does and this does not: rewards
of truncated answers are as the task gives them.
"""

from tinyzero.algorithms.base import preset
from tinyzero.algorithms.grpo import GRPO

ALGORITHM = preset(
    "DrGRPO",
    GRPO,
    scale="none",
    aggregate="constant-length",
)
