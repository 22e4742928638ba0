"""DAPO: GRPO with four changes for long answers (Yu et al., arXiv:2503.14476, eq. 8-13).

    minimise  1/sum_i L_i sum_it max(-A r, -A clip(r, 1 - 0.2, 1 + 0.28))     over groups with 0 < right answers < G
    other here: length is penalised in the last 64 tokens (paper: 4,096), by 0.5 at most (paper: 1, of rewards 1 and
    -1, which are as far apart); dual_clip (released script: 10, paper: none)

Clip-higher leaves unlikely tokens room to grow; groups all right or all wrong are drawn anew (at most
`rollout.refills` times, which the run reports, then the batch stays short); every token weighs alike; and, with
`overlong`, length is penalised softly before the limit (the paper: the last 4,096 of 20,480 tokens). The filter
looks at right and wrong, not at the penalised reward. `dual_clip` is the released script's, not the paper's.
"""

from tinyzero.algorithms.base import preset
from tinyzero.algorithms.grpo import GRPO

ALGORITHM = preset(
    "DAPO",
    GRPO,
    filter="flat",
    overlong=64,
    overlong_penalty=0.5,
    clip_high=0.28,
    dual_clip=10.0,
    aggregate="token-mean",
)
