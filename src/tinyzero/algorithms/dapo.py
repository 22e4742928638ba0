"""DAPO: GRPO with four changes for long answers (Yu et al., arXiv:2503.14476, eq. 8-13).

    minimise  1/sum_i L_i sum_it max(-A r, -A clip(r, 1 - 0.2, 1 + 0.28))     over groups with 0 < right answers < G
    other here: length is penalised in the last 64 tokens (paper: 4,096), by 0.5 at most (paper: 1, of rewards 1 and
    -1, which are as far apart); dual_clip (released script: 10, paper: none)

Clip-higher leaves unlikely tokens room to grow; groups all right or all wrong are drawn anew (at most
`rollout.refills` times, which the run reports, then the batch stays short); every token weighs alike; and, with
`overlong`, length is penalised softly before the limit (the paper: the last 4,096 of 20,480 tokens). The filter
looks at right and wrong, not at the penalised reward. `dual_clip` is the released script's, not the paper's.
"""

from pydantic import Field

from tinyzero.algorithms.grpo import GRPO, GRPOOptions
from tinyzero.algorithms.losses import Aggregation
from tinyzero.algorithms.options import Filter


class DAPOOptions(GRPOOptions):
    """DAPO's choices."""

    filter: Filter = Field("flat", description="groups dropped and drawn anew")
    overlong: int = Field(
        64,
        ge=0,
        le=2**20,
        description="tokens before the limit where a penalty on length begins; 0 for none",
    )
    overlong_penalty: float = Field(0.5, gt=0, le=1_000, description="the penalty at the limit")
    clip_high: float = Field(
        0.28, gt=0, le=1e6, description="the ratio is clipped above at 1 + this"
    )
    dual_clip: float = Field(
        10.0,
        ge=0,
        le=1e6,
        description="where the advantage is negative the ratio counts up to this",
    )
    aggregate: Aggregation = Field("token-mean", description="how token losses become one number")


class DAPO(GRPO):
    """Decoupled clip and dynamic sampling."""

    Options = DAPOOptions


ALGORITHM = DAPO
