"""Advantages: how much better than expected each rollout, or each of its tokens, turned out to be.

All functions are pure functions of tensors. In the shapes, B counts rollouts and T counts tokens.
`mask` (B, T) is True on the tokens that the policy sampled and that are trained on. Values outside
the mask are never read, and every result is zero there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

if TYPE_CHECKING:
    from tinyzero.algorithms.options import Center, Scale


def group_advantages(
    rewards: Tensor,
    groups: Tensor,
    center: Center = "mean",
    scale: Scale = "group",
    eps: float = 1e-6,
) -> Tensor:
    """One advantage per rollout: its reward compared with the rewards of its group.

    A group holds the rollouts of one prompt. `rewards` is (B,) float and `groups` is (B,) int64:
    any ids, in any order. The result is (B,).

    `center` chooses the baseline that is subtracted: the mean of the group, the mean of the *other*
    rollouts of the group, or nothing. `scale` chooses the standard deviation that divides the
    result: that of the group, that of the whole batch, or none. Standard deviations use n - 1.

    | center        | scale | used by                                                       |
    |---------------|-------|---------------------------------------------------------------|
    | mean          | group | GRPO (DeepSeekMath, arXiv:2402.03300, section 4.1.2)          |
    | mean          | none  | Dr. GRPO (arXiv:2503.20783)                                   |
    | mean          | batch | Lite PPO (arXiv:2508.08221)                                   |
    | leave_one_out | none  | RLOO (arXiv:2402.14740): n / (n - 1) times Dr. GRPO's         |
    | none          | none  | REINFORCE without a baseline: the advantage is the reward     |

    If all rewards of a group are equal, its advantages are exactly zero. In a group of one rollout
    the mean equals the reward, so the advantage is zero as well and nothing is learned from it.

    Raises ValueError if a group of one rollout needs other rollouts (center "leave_one_out" or
    scale "group"), or if rewards are to be scaled without being centred.

    One of four answers is right:

    >>> rewards, groups = torch.tensor([1.0, 0.0, 0.0, 0.0]), torch.tensor([7, 7, 7, 7])
    >>> group_advantages(rewards, groups)
    tensor([ 1.5000, -0.5000, -0.5000, -0.5000])
    >>> group_advantages(rewards, groups, center="leave_one_out", scale="none")
    tensor([ 1.0000, -0.3333, -0.3333, -0.3333])
    """
    if center == "none":
        if scale != "none":
            raise ValueError(
                f"scale is {scale!r} and center is 'none', but only centred rewards can be scaled "
                "(equal ones have a standard deviation of zero): use scale='none' too"
            )
        return rewards

    _, index, sizes = torch.unique(groups, return_inverse=True, return_counts=True)
    size = sizes[index]
    needs_others = center == "leave_one_out" or scale == "group"
    if needs_others and bool((size == 1).any()):
        raise ValueError(
            f"center={center!r}, scale={scale!r} compares rollouts of the same prompt, but a group "
            "has only one: sample at least two completions per prompt"
        )

    # Rewards are measured from the lowest of the group, so that equal rewards give exact zeros.
    # The mean would not do: in floating point the mean of 0.1, 0.1 and 0.1 is not 0.1.
    zeros = rewards.new_zeros(len(sizes))
    lowest = zeros.scatter_reduce(0, index, rewards, "amin", include_self=False)
    above_lowest = rewards - lowest[index]
    deviation = above_lowest - zeros.index_add(0, index, above_lowest)[index] / size

    advantages: Tensor = deviation
    if center == "leave_one_out":
        advantages = deviation * size / (size - 1)

    if scale == "group":
        variance = zeros.index_add(0, index, deviation.square())[index] / (size - 1)
        advantages = advantages / (variance.sqrt() + eps)
    elif scale == "batch":
        variance = (rewards - rewards.mean()).square().sum() / max(len(rewards) - 1, 1)
        advantages = advantages / (variance.sqrt() + eps)
    return advantages


def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float = 1.0, lam: float | Tensor = 1.0
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation: (advantages, returns), each (B, T) and not whitened.

    This is equation 16 of arXiv:1506.02438:

        delta_t = r_t + gamma V_{t+1} - V_t
        A_t = delta_t + gamma lam A_{t+1}
        return_t = A_t + V_t

    `rewards` and `values` are (B, T), and `lam` is one number or (B,). `values[:, t]` is the value
    of the state *before* token t. The value after the last masked token is 0, because the
    completion ends there, whether it is finished or truncated. The returns are the critic's
    targets.

    Tokens outside the mask (padding, or text that the policy did not write) are not actions: the
    recursion steps over them to the next masked token, and a reward on them is ignored.

    The reward comes with the last of three tokens, and the critic expected 0.5 throughout:

    >>> rewards, values = torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.5, 0.5, 0.5]])
    >>> advantages, returns = gae(rewards, values, torch.tensor([[True, True, True]]), lam=0.5)
    >>> advantages
    tensor([[0.1250, 0.2500, 0.5000]])
    >>> returns
    tensor([[0.6250, 0.7500, 1.0000]])
    """
    advantages = torch.zeros_like(values)
    next_advantage = next_value = values.new_zeros(len(values))

    for t in reversed(range(values.shape[1])):
        is_action = mask[:, t]
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        advantage = delta + gamma * lam * next_advantage

        next_advantage = torch.where(is_action, advantage, next_advantage)
        next_value = torch.where(is_action, values[:, t], next_value)
        advantages[:, t] = torch.where(is_action, next_advantage, 0.0)

    returns = torch.where(mask, advantages + values, 0.0)
    return advantages, returns


def length_adaptive_lambda(lengths: Tensor, alpha: float) -> Tensor:
    """GAE's lambda for completions of `lengths` (B,) tokens: 1 - 1 / (alpha length), at least 0.

    GAE weighs the errors of later tokens by powers of lambda. These weights sum to 1 / (1 -
    lambda), which is alpha times the length here, so credit reaches equally far back in relation to
    the completion, however long it is (VAPO, arXiv:2504.05118, equation 9).

    >>> length_adaptive_lambda(torch.tensor([10, 100, 1000]), alpha=0.05)
    tensor([0.0000, 0.8000, 0.9800])
    """
    return (1 - 1 / (alpha * lengths.clamp(min=1))).clamp(min=0)


def return_to_go(rewards: Tensor, mask: Tensor, gamma: float = 1.0) -> Tensor:
    """Discounted sum of the rewards from each token on: (B, T), (B, T) -> (B, T).

    It equals GAE with lambda 1 and a critic whose values are zero.

    >>> return_to_go(torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([[True, True, True]]))
    tensor([[3., 3., 2.]])
    """
    no_values = torch.zeros_like(rewards)
    return gae(rewards, no_values, mask, gamma, lam=1.0)[0]


def whiten(x: Tensor, mask: Tensor, eps: float = 1e-8) -> Tensor:
    """Shift and scale (B, T) to zero mean and unit variance (n - 1) over all masked tokens.

    Every token has the same weight, so long completions weigh more than short ones. Pass the whole
    batch: micro-batches whitened one by one give other numbers. If there are fewer than two masked
    tokens, or if all of them are equal, the result is zero.

    >>> whiten(torch.tensor([[0.0, 1.0], [2.0, 9.0]]), torch.tensor([[True, True], [True, False]]))
    tensor([[-1.,  0.],
            [ 1.,  0.]])
    """
    # Values are measured from the lowest one, so that equal values give exact zeros.
    lowest = torch.where(mask, x, torch.inf).amin()
    above_lowest = torch.where(mask, x - lowest, 0.0)

    count = int(mask.sum())
    mean = above_lowest.sum() / max(count, 1)
    centred = torch.where(mask, above_lowest - mean, 0.0)

    variance = centred.square().sum() / max(count - 1, 1)
    return centred * torch.rsqrt(variance + eps)


def overlong_penalty(lengths: Tensor, limit: Tensor | int, cushion: int) -> Tensor:
    """DAPO's soft penalty on long completions (arXiv:2503.14476, equation 13), between -1 and 0.

    It is 0 up to `limit - cushion` tokens and falls linearly to -1 at the limit. `lengths` and the
    result are (B,).

    >>> overlong_penalty(torch.tensor([50, 80, 100]), limit=100, cushion=40)
    tensor([ 0.0000, -0.5000, -1.0000])
    """
    return ((limit - cushion - lengths) / cushion).clamp(-1, 0)


def at_end(scores: Tensor, mask: Tensor) -> Tensor:
    """Put each rollout's score on its last masked token, and 0 elsewhere: (B,), (B, T) -> (B, T).

    >>> at_end(torch.tensor([5.0]), torch.tensor([[True, True, False]]))
    tensor([[0., 5., 0.]])
    """
    columns = torch.arange(mask.shape[1], device=mask.device)
    last = (mask * columns).argmax(dim=1)

    zeros = torch.zeros_like(mask, dtype=scores.dtype)
    placed = zeros.scatter(1, last[:, None], scores[:, None])
    return torch.where(mask, placed, 0.0)  # a row without a masked token stays zero


def process_advantages(
    rewards: Tensor,
    mask: Tensor,
    groups: Tensor,
    baseline: Literal["paper", "code"] = "paper",
    gamma: float = 1.0,
) -> Tensor:
    """PRIME's advantages from token rewards: returns-to-go, less a leave-one-out baseline.

    `rewards` r and `mask` are (B, T), `groups` is (B,), and the result is (B, T). Let m_i be the
    mean of r over rollout i, and K the number of rollouts in its group. `baseline` chooses between
    the paper's formula (arXiv:2502.01456, equation 6) and the one in the released code:

        paper:  A_t = sum_{s >= t} gamma^(s - t) (r_s - sum_{j != i} m_j / (K - 1))
        code:   A_t = sum_{s >= t} gamma^(s - t) (r_s K / (K - 1) - sum_j m_j / (K - 1))

    The summands have the same mean over a rollout in both. Their deviations from this mean are
    K / (K - 1) times as large in the code.

    Two rollouts of two tokens each, whose mean rewards are 2 and 0:

    >>> rewards = torch.tensor([[1.0, 3.0], [0.0, 0.0]])
    >>> mask, groups = torch.tensor([[True, True], [True, True]]), torch.tensor([0, 0])
    >>> process_advantages(rewards, mask, groups)
    tensor([[ 4.,  3.],
            [-4., -2.]])
    """
    lengths = mask.sum(dim=1).clamp(min=1)
    means = torch.where(mask, rewards, 0.0).sum(dim=1) / lengths

    _, index, sizes = torch.unique(groups, return_inverse=True, return_counts=True)
    group_sums = means.new_zeros(len(sizes)).index_add(0, index, means)[index]
    others = (sizes[index] - 1).clamp(min=1)

    if baseline == "paper":
        centred = rewards - ((group_sums - means) / others)[:, None]
    else:
        stretch = (sizes[index] / others)[:, None]
        centred = rewards * stretch - (group_sums / others)[:, None]
    return return_to_go(torch.where(mask, centred, 0.0), mask, gamma)


def broadcast(advantages: Tensor, mask: Tensor) -> Tensor:
    """Copy each rollout's advantage to all of its masked tokens: (B,), (B, T) -> (B, T).

    >>> broadcast(torch.tensor([1.5]), torch.tensor([[True, True, False]]))
    tensor([[1.5000, 1.5000, 0.0000]])
    """
    return torch.where(mask, advantages[:, None], 0.0)
