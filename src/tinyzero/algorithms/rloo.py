"""RLOO: the baseline is the mean of the other rollouts (Ahmadian et al., arXiv:2402.14740, eq. 8).

    A_i = R_i - mean of R_j over j != i
    minimise  -mean_i A_i log pi(y_i)
    not used by default: KL in the reward (paper: k1, weight 0.03 to 0.10)

R_i is the reward of rollout i, and pi(y_i) the probability of its whole completion. The completion
is one action: the log-probabilities of its tokens are summed and not averaged (`aggregate`). A_i is
K / (K - 1) times the advantage of Dr. GRPO, with K the number of rollouts per prompt.

`kl_in_reward` is the weight of the paper's KL penalty. It is 0 here because a program checks the
answers, so there is no learned reward model to exploit.

Assumption: there are at least two rollouts per prompt. Degenerate case: a group of equal rewards
has advantages of zero, and no gradient.

With several updates per batch, the loss of a token is multiplied by its probability ratio to the
policy before the update. There is no clip (`objective`).
"""

from tinyzero.algorithms.base import preset
from tinyzero.algorithms.grpo import GRPO

ALGORITHM = preset(
    "RLOO",
    GRPO,
    center="leave_one_out",
    scale="none",
    objective="reinforce",
    aggregate="seq-mean-token-sum",
)
