"""GSPO: the ratio belongs to the sequence (Zheng et al., Qwen team, arXiv:2507.18071, eq. 5-7).

    s_i = (pi(y_i) / pi_old(y_i))^(1/L_i);   minimise  mean_i max(-A_i s_i, -A_i clip(s_i, 1 - e_low, 1 + e_high))

A_i is GRPO's. The clip is narrow, because the mean log-ratio of a sequence hardly moves: at 0.2 nothing would
ever be clipped. With one update a batch s_i is 1 and this is GRPO, as released: each sequence's mean.
"""

from pydantic import Field

from tinyzero.algorithms.grpo import GRPO, GRPOOptions
from tinyzero.algorithms.losses import Level


class GSPOOptions(GRPOOptions):
    """GSPO's choices."""

    ratio: Level = Field(
        "sequence", description="clip the ratio of a token, or of the whole sequence"
    )
    clip_low: float = Field(
        3e-4, gt=0, le=1e6, description="the ratio is clipped below at 1 - this"
    )
    clip_high: float = Field(
        4e-4, gt=0, le=1e6, description="the ratio is clipped above at 1 + this"
    )


class GSPO(GRPO):
    """Group sequence policy optimisation."""

    Options = GSPOOptions


ALGORITHM = GSPO
