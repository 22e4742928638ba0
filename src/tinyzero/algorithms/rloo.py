"""RLOO: REINFORCE, the other rollouts of the prompt as baseline (Ahmadian et al., arXiv:2402.14740, eq. 8).

    A_i = R_i - mean of R_j, j != i;   minimise  -mean_i A_i log pi(y_i)
    off here: KL (paper: in the reward, k1, 0.03 to 0.10)

The whole response is one action: its tokens' log-probabilities are summed, not averaged. The paper takes the KL
to the reference out of the reward (`kl_in_reward`; 0 here, as the rewards are exact). A_i is
K/(K - 1) times Dr. GRPO's. With several updates a batch each token's ratio weighs in, unclipped.
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
