"""From rollouts to tensors: collate, micro-batches, and the totals that make every mean exact.

One convention holds everywhere: column t of a (B, T) tensor belongs to the token at t + 1 of
`tokens` (B, T + 1), the one predicted after reading columns 0..t. So logprobs, values (of the state
before that token), masks and advantages line up without further shifting.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from tinyzero.types import Group


@dataclass(frozen=True)
class Totals:
    """Denominators of one whole optimizer step, over all its micro-batches."""

    tokens: int
    """Trained tokens."""
    sequences: int
    """Completions."""
    max_length: int
    """The limit on new tokens, for losses with a constant denominator."""


@dataclass(frozen=True)
class Batch:
    """Rollouts as tensors, padded on the right. B rollouts, T = longest prompt + completion - 1.

    Nothing but tensors: how many steps are taken on it, and at what temperature, the learners know.

    Example: prompt P0 P1, completion A0 A1, and a shorter row:
        tokens  P0 P1 A0 A1 | mask . x x      (the columns that predict A0 and A1)
        tokens  P0 A0 -- -- | mask x . .
    """

    tokens: Tensor  # (B, T + 1) int64
    mask: Tensor  # (B, T) bool: the token predicted here is trained
    sampled_logprobs: Tensor  # (B, T) as the sampler saw them
    rewards: Tensor  # (B,)
    groups: Tensor  # (B,) int64
    lengths: Tensor  # (B,) prompt + completion
    limits: Tensor  # (B,) int64: the most new tokens that the rollout could have had
    right: Tensor  # (B,) bool: the answer is right, whatever the reward
    graded: Tensor  # (B,) bool: the answer is neither right nor wrong, only its reward counts
    old_logprobs: Tensor | None = None  # (B, T)
    ref_logprobs: Tensor | None = None  # (B, T)
    values: Tensor | None = None  # (B, T) the critic's, before the update
    returns: Tensor | None = None  # (B, T)
    advantages: Tensor | None = None  # (B, T)
    stale: Tensor | None = None
    """(B,) bool: rows of an earlier policy, which waited for this batch: not on-policy. None where there is none."""
    weights: Tensor | None = None  # (B, T) corrects for a sampler that differs from the learner
    idle: Tensor | None = (
        None  # (B,) bool: rows known to have no gradient; counted in totals, not computed
    )

    @property
    def size(self) -> int:
        return self.tokens.shape[0]

    def select(self, rows: Tensor) -> Batch:
        """These rows, trimmed to the longest of them."""
        width = int(self.lengths[rows].max())
        cut = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Tensor):
                value = value[rows]
                if value.ndim == 2:
                    value = value[:, : width if f.name == "tokens" else width - 1]
                cut[f.name] = value
        return replace(self, **cut)

    def to(self, device: torch.device) -> Batch:
        """The same on another device."""
        if device == self.tokens.device:
            return self
        tensors = {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if isinstance(getattr(self, f.name), Tensor)
        }
        return replace(self, **{name: tensor.to(device) for name, tensor in tensors.items()})

    def totals(self) -> Totals:
        """Of all rows here, idle ones included."""
        return Totals(int(self.mask.sum()), self.size, int(self.limits.max()))

    def micro_batches(
        self, max_tokens: int, skip_idle: bool = True
    ) -> Iterator[tuple[Tensor, Batch]]:
        """(row numbers, rows) of at most `max_tokens` padded tokens, rows of like length together.

        Of rows that are all idle the shortest is left: its gradient is zero, and the optimizer takes its step.
        """
        rows = torch.arange(self.size)
        if skip_idle and self.idle is not None:
            rows = self.lengths.argmin()[None] if self.idle.all() else rows[~self.idle]
        order = rows[torch.argsort(self.lengths[rows], descending=True, stable=True)]
        start = 0
        while start < len(order):
            count = max(1, max_tokens // int(self.lengths[order[start]]))
            chosen = order[start : start + count]
            yield chosen, self.select(chosen)
            start += count


def collate(groups: Sequence[Group], max_tokens: int, version: int = 0) -> Batch:
    """Pad rollouts of at most `max_tokens` new tokens into a Batch for the policy of `version`."""
    rollouts = [r for group in groups for r in group]
    stale = torch.tensor([r.completion.last_version < version for r in rollouts])
    lengths = torch.tensor([len(r.prompt_ids) + len(r.completion.token_ids) for r in rollouts])
    width = int(lengths.max())
    tokens = torch.zeros(len(rollouts), width, dtype=torch.long)
    mask = torch.zeros(len(rollouts), width - 1, dtype=torch.bool)
    sampled = torch.zeros(len(rollouts), width - 1)
    for i, r in enumerate(rollouts):
        start, end = len(r.prompt_ids), int(lengths[i])
        tokens[i, :end] = torch.tensor(r.prompt_ids + r.completion.token_ids)
        mask[i, start - 1 : end - 1] = torch.tensor(r.completion.loss_mask)
        sampled[i, start - 1 : end - 1] = torch.tensor(r.completion.sampled_logprobs)
    return Batch(
        tokens=tokens,
        mask=mask,
        sampled_logprobs=sampled,
        rewards=torch.tensor([r.reward.value for r in rollouts], dtype=torch.float32),
        groups=torch.tensor([r.group for r in rollouts]),
        lengths=lengths,
        limits=torch.full((len(rollouts),), max_tokens),
        right=torch.tensor([r.reward.right is True for r in rollouts]),
        graded=torch.tensor([r.reward.right is None for r in rollouts]),
        stale=stale if stale.any() else None,
    )
