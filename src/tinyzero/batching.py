"""From rollouts to tensors: padding, micro-batches, and the totals that make every mean exact.

One convention holds everywhere: column t of a (B, T) tensor belongs to the token at column t + 1 of
`tokens` (B, T + 1), which is predicted after reading columns 0 to t. So logprobs, masks, advantages
and values (of the state before that token) line up without further shifting.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from tinyzero.models import rows_by_group, shared_lengths
from tinyzero.types import Group, Rollout


@dataclass(frozen=True)
class Totals:
    """Denominators of one whole optimizer step, over all of its micro-batches."""

    tokens: int
    """Trained tokens."""
    sequences: int
    """Completions."""
    max_length: int
    """The limit on new tokens, for losses with a constant denominator."""


@dataclass(frozen=True)
class Batch:
    """Rollouts as tensors, padded on the right. B rollouts, T = longest prompt + completion - 1.

    It holds only tensors: how many steps are taken on it, and at what temperature, is up to the
    learners.

    Example: a prompt P0 P1 with the completion A0 A1, and a shorter row. An x marks the columns
    that predict a token of the completion, which is trained:

        tokens  P0 P1 A0 A1 | mask . x x
        tokens  P0 A0 -- -- | mask x . .
    """

    tokens: Tensor
    """(B, T + 1) int64."""
    mask: Tensor
    """(B, T) bool: whether the token predicted here is trained."""
    sampled_logprobs: Tensor
    """(B, T): log-probabilities as the sampler saw them."""
    rewards: Tensor
    """(B,)"""
    groups: Tensor
    """(B,) int64: number of the group."""
    lengths: Tensor
    """(B,): tokens of prompt and completion."""
    limits: Tensor
    """(B,) int64: the most new tokens that the rollout could have had."""
    right: Tensor
    """(B,) bool: whether the answer is right, whatever its reward."""
    graded: Tensor
    """(B,) bool: whether the answer is neither right nor wrong, so that only its reward counts."""
    turn_rewards: Tensor | None = None
    """(B, T): what each turn earned, on its last token; None if everything is earned at the end."""
    old_logprobs: Tensor | None = None
    """(B, T): the policy's log-probabilities before the update."""
    ref_logprobs: Tensor | None = None
    """(B, T): the reference model's log-probabilities."""
    values: Tensor | None = None
    """(B, T): the critic's values before the update."""
    returns: Tensor | None = None
    """(B, T): what the critic is trained towards."""
    advantages: Tensor | None = None
    """(B, T)"""
    stale: Tensor | None = None
    """(B,) bool: rows of an earlier policy, which waited for this batch. None if no row did."""
    weights: Tensor | None = None
    """(B, T): correct for a sampler that differs from the learner."""
    idle: Tensor | None = None
    """(B,) bool: rows known to have no gradient. They count in the totals and are not computed."""

    @property
    def size(self) -> int:
        """Number of rollouts, B."""
        return self.tokens.shape[0]

    def select(self, rows: Tensor) -> Batch:
        """These rows, trimmed to the longest of them."""
        width = int(self.lengths[rows].max())

        selected = {}
        for name, tensor in self._tensors().items():
            chosen = tensor[rows]
            if chosen.ndim == 2:
                chosen = chosen[:, : width if name == "tokens" else width - 1]
            selected[name] = chosen
        return replace(self, **selected)

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device. The host does not wait for copies to a GPU."""
        if device == self.tokens.device:
            return self
        is_here = self.tokens.device.type == "cpu"  # what comes from a GPU must be waited for
        moved = {name: t.to(device, non_blocking=is_here) for name, t in self._tensors().items()}
        return replace(self, **moved)

    def totals(self) -> Totals:
        """The totals of all rows here, idle ones included."""
        return Totals(int(self.mask.sum()), self.size, int(self.limits.max()))

    def computed_tokens(self, skip_idle: bool = True, share: bool = False) -> int:
        """Tokens that a pass over the batch computes, without padding.

        With `share`, what the rows of a group have in common counts once.
        """
        is_computed = torch.ones(self.size, dtype=torch.bool)
        if skip_idle and self.idle is not None:
            is_computed = ~self.idle
        lengths, groups = self.lengths[is_computed], self.groups[is_computed]
        if not share:
            return int(lengths.sum())

        shared = shared_lengths(self.tokens[is_computed], lengths, groups)
        repeated = sum((len(rows) - 1) * shared[rows[0]] for rows in rows_by_group(groups).values())
        return int(lengths.sum()) - repeated

    def micro_batches(
        self, max_tokens: int, skip_idle: bool = True, share: bool = False
    ) -> Iterator[tuple[Tensor, Batch]]:
        """Pairs (row numbers, rows) that take at most `max_tokens` computed tokens each.

        With `share`, what the rows of a group have in common is counted once, and the rows of a
        group go together. Otherwise rows of similar length go together, and their padding counts.

        Idle rows are left out with `skip_idle`. If all are idle, the shortest one is kept: its
        gradient is zero, and the optimizer still takes its step.
        """
        rows = torch.arange(self.size)
        if skip_idle and self.idle is not None:
            rows = self.lengths.argmin()[None] if self.idle.all() else rows[~self.idle]

        for chosen in (
            self._by_group(rows, max_tokens) if share else self._by_length(rows, max_tokens)
        ):
            yield chosen, self.select(chosen)

    def _by_length(self, rows: Tensor, max_tokens: int) -> Iterator[Tensor]:
        """`rows` in pieces of similar length, with at most `max_tokens` padded tokens each."""
        order = rows[torch.argsort(self.lengths[rows], descending=True, stable=True)]
        start = 0
        while start < len(order):
            longest = int(self.lengths[order[start]])
            chosen = order[start : start + max(1, max_tokens // longest)]
            yield chosen
            start += len(chosen)

    def _by_group(self, rows: Tensor, max_tokens: int) -> Iterator[Tensor]:
        """`rows` in pieces of neighbouring groups, with at most `max_tokens` tokens each.

        What the rows of a group have in common counts once per piece.
        """
        groups = self.groups[rows]
        shared = shared_lengths(self.tokens[rows], self.lengths[rows], groups)
        lengths = self.lengths[rows].tolist()
        chosen: list[int] = []
        tokens = 0

        for members in rows_by_group(groups).values():
            has_prefix = False
            for i in members:
                own = lengths[i] - shared[i]
                if chosen and tokens + own + shared[i] * (not has_prefix) > max_tokens:
                    yield rows[chosen]
                    chosen, tokens, has_prefix = [], 0, False
                tokens += own + shared[i] * (not has_prefix)
                chosen.append(i)
                has_prefix = True
        yield rows[chosen]

    def _tensors(self) -> dict[str, Tensor]:
        """The tensors that are not None, by field."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}


def collate(groups: Sequence[Group], max_tokens: int, version: int = 0) -> Batch:
    """Pad rollouts of at most `max_tokens` new tokens into a Batch for the policy of `version`."""
    rollouts = [rollout for group in groups for rollout in group]
    lengths = torch.tensor(
        [len(rollout.prompt_ids) + len(rollout.completion.token_ids) for rollout in rollouts]
    )
    width = int(lengths.max())

    tokens = torch.zeros(len(rollouts), width, dtype=torch.long)
    mask = torch.zeros(len(rollouts), width - 1, dtype=torch.bool)
    sampled_logprobs = torch.zeros(len(rollouts), width - 1)
    for row, rollout in enumerate(rollouts):
        completion, end = rollout.completion, int(lengths[row])
        columns = slice(len(rollout.prompt_ids) - 1, end - 1)
        tokens[row, :end] = torch.tensor(rollout.prompt_ids + completion.token_ids)
        mask[row, columns] = torch.tensor(completion.loss_mask)
        sampled_logprobs[row, columns] = torch.tensor(completion.sampled_logprobs)

    turn_rewards = None
    if any(rollout.reward.turns for rollout in rollouts):
        turn_rewards = torch.zeros(len(rollouts), width - 1)
        for row, rollout in enumerate(rollouts):
            ends, shares = _turn_rewards(rollout)
            turn_rewards[row, ends] = torch.tensor(shares)

    rewards = [rollout.reward for rollout in rollouts]
    stale = torch.tensor([rollout.completion.last_version < version for rollout in rollouts])
    return Batch(
        tokens=tokens,
        mask=mask,
        sampled_logprobs=sampled_logprobs,
        rewards=torch.tensor([reward.value for reward in rewards], dtype=torch.float32),
        groups=torch.tensor([rollout.group for rollout in rollouts]),
        lengths=lengths,
        limits=torch.full((len(rollouts),), max_tokens),
        right=torch.tensor([reward.right is True for reward in rewards]),
        graded=torch.tensor([reward.right is None for reward in rewards]),
        turn_rewards=turn_rewards,
        stale=stale if stale.any() else None,
    )


def _turn_rewards(rollout: Rollout) -> tuple[list[int], list[float]]:
    """What the model's turns earned, and the columns of the last token of each."""
    completion = rollout.completion
    ends = [turn.end for turn in completion.turns if turn.by_model]
    shares = rollout.reward.turns
    if not shares:
        ends, shares = ends[-1:], (rollout.reward.value,)
    first_column = len(rollout.prompt_ids) - 2
    return [first_column + end for end in ends or [len(completion.token_ids)]], list(shares)
