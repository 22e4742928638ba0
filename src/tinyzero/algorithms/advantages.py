"""How much better than expected each rollout, or each of its tokens, turned out to be.

Pure functions on tensors. Shapes: B rollouts, T tokens; `mask` is True on the tokens that the policy sampled and is
trained on. What stands outside the mask is never read, and every result is zero there.
"""

from typing import Literal

import torch
from torch import Tensor

Center = Literal["mean", "leave_one_out", "none"]
Scale = Literal["group", "batch", "none"]


def group_advantages(
    rewards: Tensor,
    groups: Tensor,
    center: Center = "mean",
    scale: Scale = "group",
    eps: float = 1e-6,
) -> Tensor:
    """One advantage a rollout: its reward against the rewards of the other rollouts of the same prompt.

    rewards: (B,) float; groups: (B,) int64, any ids, in any order -> (B,)

    - mean, group: GRPO (DeepSeekMath, arXiv:2402.03300, section 4.1.2), with the sample (n-1) standard deviation
    - mean, none: Dr. GRPO (arXiv:2503.20783)
    - leave_one_out, none: RLOO (arXiv:2402.14740), which is n / (n - 1) times the mean baseline
    - mean, batch: divided by the standard deviation of all rewards of the batch (arXiv:2508.08221)
    - none, none: the reward itself, for REINFORCE without a baseline

    A flat group (all rewards equal) gives exactly zero. A group of one has nothing to compare itself with: the mean
    baseline then equals the reward and its advantage is zero, so nothing is learned from it; the leave-one-out
    baseline and the group's standard deviation do not exist, and a ValueError says so.
    """
    if center == "none":
        if scale != "none":
            raise ValueError(
                "rewards that were not centred cannot be scaled: where all are equal, it blows up"
            )
        return rewards
    _, index, sizes = torch.unique(groups, return_inverse=True, return_counts=True)
    size = sizes[index]
    if (center == "leave_one_out" or scale == "group") and bool((size == 1).any()):
        raise ValueError(
            f"center={center!r}, scale={scale!r} compares rollouts of the same prompt, but a group has only one: "
            "sample at least two completions a prompt"
        )
    per_group = rewards.new_zeros(len(sizes))
    # Counted from the lowest of the group, equal rewards are exact zeros: the float mean of 0.1, 0.1, 0.1 is not 0.1.
    lowest = per_group.scatter_reduce(0, index, rewards, "amin", include_self=False)
    above = rewards - lowest[index]
    deviation = above - per_group.index_add(0, index, above)[index] / size
    advantages: Tensor = deviation
    if center == "leave_one_out":
        advantages = deviation * size / (size - 1)
    if scale == "group":
        variance = per_group.index_add(0, index, deviation.square())[index] / (size - 1)
        advantages = advantages / (variance.sqrt() + eps)
    elif scale == "batch":
        variance = (rewards - rewards.mean()).square().sum() / max(len(rewards) - 1, 1)
        advantages = advantages / (variance.sqrt() + eps)
    return advantages


def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float = 1.0, lam: float | Tensor = 1.0
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (arXiv:1506.02438, eq. 16) -> advantages (B, T), returns (B, T), not whitened.

    rewards, values: (B, T); mask: (B, T) bool; lam: for all, or (B,). values[:, t] is the worth of the state *before*
    token t. The value after the last masked token is 0: a response ends there, finished or truncated. Tokens outside
    the mask (padding, or text that the policy did not write) are no actions, so the recursion steps over them to the
    next masked token; a reward there is ignored. Returns, the critic's targets, are advantages + values.
    """
    advantages = torch.zeros_like(values)
    next_advantage = next_value = values.new_zeros(len(values))
    for t in reversed(range(values.shape[1])):
        here = mask[:, t]
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        next_advantage = torch.where(here, delta + gamma * lam * next_advantage, next_advantage)
        next_value = torch.where(here, values[:, t], next_value)
        advantages[:, t] = torch.where(here, next_advantage, 0.0)
    return advantages, torch.where(mask, advantages + values, 0.0)


def length_adaptive_lambda(lengths: Tensor, alpha: float) -> Tensor:
    """GAE's lambda by the length of each response, 1 - 1 / (alpha length), at least 0: (B,) -> (B,).

    So the TD errors' weights, which sum to 1 / (1 - lambda), reach over alpha times the response (VAPO,
    arXiv:2504.05118, eq. 9).
    """
    return (1 - 1 / (alpha * lengths.clamp(min=1))).clamp(min=0)


def return_to_go(rewards: Tensor, mask: Tensor, gamma: float = 1.0) -> Tensor:
    """Discounted sum of the rewards from each token on, (B, T) -> (B, T): GAE with lambda 1 and values of zero."""
    return gae(rewards, torch.zeros_like(rewards), mask, gamma, lam=1.0)[0]


def whiten(x: Tensor, mask: Tensor, eps: float = 1e-8) -> Tensor:
    """Zero mean and unit variance (n-1) over the masked tokens, zero elsewhere: (B, T) -> (B, T).

    Tokens count alike, so long responses weigh more. Give it the whole batch: whitened micro-batches differ from it.
    Fewer than two masked tokens, or equal ones, give zeros.
    """
    # Counted from the lowest value, equal values are exact zeros (as in group_advantages).
    lowest = torch.where(mask, x, torch.inf).amin()
    above = torch.where(mask, x - lowest, 0.0)
    count = int(mask.sum())
    centred = torch.where(mask, above - above.sum() / max(count, 1), 0.0)
    return centred * torch.rsqrt(centred.square().sum() / max(count - 1, 1) + eps)


def overlong_penalty(lengths: Tensor, limit: Tensor | int, cushion: int) -> Tensor:
    """DAPO's soft punishment (arXiv:2503.14476, eq. 13) of responses of `lengths` (B,) tokens -> (B,), in [-1, 0].

    Nothing up to `limit` - `cushion` tokens, then falling linearly to -1 at the limit.
    """
    return ((limit - cushion - lengths) / cushion).clamp(-1, 0)


def at_end(scores: Tensor, mask: Tensor) -> Tensor:
    """Each rollout's score on its last masked token, 0 elsewhere: (B,), (B, T) -> (B, T)."""
    last = (mask * torch.arange(mask.shape[1], device=mask.device)).argmax(dim=1)
    return torch.where(
        mask,
        torch.zeros_like(mask, dtype=scores.dtype).scatter(1, last[:, None], scores[:, None]),
        0.0,
    )


def process_advantages(
    rewards: Tensor,
    mask: Tensor,
    groups: Tensor,
    baseline: Literal["paper", "code"] = "paper",
    gamma: float = 1.0,
) -> Tensor:
    """PRIME's part of the advantage from token rewards r (B, T): discounted returns-to-go against leave-one-out.

    With m_i the mean of r over response i and K the size of its group (arXiv:2502.01456, eq. 6):

    - paper: sum over s >= t of  gamma^(s - t) (r_s - mean over the others of m_j)
    - code (the released one): sum over s >= t of  gamma^(s - t) (r_s K/(K - 1) - sum over all of m_j / (K - 1))

    What is summed has the same mean over a response in both; the code stretches deviations from it by K/(K - 1).
    """
    lengths = mask.sum(dim=1).clamp(min=1)
    means = torch.where(mask, rewards, 0.0).sum(dim=1) / lengths
    _, index, sizes = torch.unique(groups, return_inverse=True, return_counts=True)
    totals = means.new_zeros(len(sizes)).index_add(0, index, means)[index]
    others = (sizes[index] - 1).clamp(min=1)
    if baseline == "paper":
        centred = rewards - ((totals - means) / others)[:, None]
    else:
        centred = rewards * (sizes[index] / others)[:, None] - (totals / others)[:, None]
    return return_to_go(torch.where(mask, centred, 0.0), mask, gamma)


def broadcast(advantages: Tensor, mask: Tensor) -> Tensor:
    """Each rollout's advantage on each of its masked tokens: (B,), (B, T) -> (B, T)."""
    return torch.where(mask, advantages[:, None], 0.0)
