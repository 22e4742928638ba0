"""GSPO: the ratio belongs to the sequence (Zheng et al., Qwen team, arXiv:2507.18071, eq. 5-7).

    s_i = (pi(y_i) / pi_old(y_i))^(1/L_i);   minimise  mean_i max(-A_i s_i, -A_i clip(s_i, 1 - e_low, 1 + e_high))

A_i is GRPO's. The clip is narrow, because the mean log-ratio of a sequence hardly moves: at 0.2 nothing would
ever be clipped. With one update a batch s_i is 1 and this is GRPO, as released: each sequence's mean.
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
