"""DAPO: GRPO with four changes for long answers (Yu et al., arXiv:2503.14476, eq. 8-13).

    minimise  1/(sum_i L_i) sum_it max(-A_i r_it, -A_i clip(r_it, 1 - 0.2, 1 + 0.28))
    over groups in which at least one answer is right and at least one is wrong
    default differs: length penalty over 64 tokens, at most 0.5 (paper: 4,096 tokens, at most 1)
    default differs: dual_clip is 10 (released script: 10, paper: none)

A_i, r_it and L_i are as in GRPO. The four changes are:

1. Clip-higher. The upper bound of the ratio (`clip_high`, 0.28) is further away than the lower one
   (`clip_low`, 0.2), so that unlikely tokens have room to become likely.
2. Dynamic sampling (`filter`). Groups whose answers are all right or all wrong are dropped and
   replaced by new ones. After `rollout.refills` rounds the batch is trained on even if groups
   are still missing. The filter looks at right and wrong, not at the penalised reward.
3. Token mean (`aggregate`). Every token has the same weight, so that long answers are not diluted.
4. Soft length penalty. A penalty begins `overlong` tokens before the length limit. It grows
   linearly and reaches `overlong_penalty` at the limit.

The penalty of 1 in the paper belongs to rewards of 1 and -1. The rewards here are 1 and 0, so 0.5
is the same share of their difference. 64 tokens suit the short answers of the bundled models; the
paper uses 4,096 of 20,480 tokens.

`dual_clip` bounds the ratio of tokens with a negative advantage, which nothing else bounds.

Assumption: there are at least two rollouts per prompt, and some groups are neither all right nor
all wrong. Degenerate case: if no group passes the filter, nothing is learned in this step.
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
