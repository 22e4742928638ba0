"""The stages between rewards and gradients, which all built-in algorithms share.

| stage     | what it decides                                            | function             |
|-----------|------------------------------------------------------------|----------------------|
| filter    | which groups are trained on                                | `keep_groups`        |
| length    | what a completion loses for being long                     | `shaped_rewards`     |
| KL        | what a token loses for leaving the reference model         | `kl_penalties`       |
| advantage | how much better than expected a completion or a token is   | `annotate`           |
| weight    | how to correct for a sampler that differs from the learner | `prepare`            |
| loss      | clip, ratio, KL loss, entropy bonus, mean over tokens      | `policy_loss`        |

Each stage is controlled by options, and an algorithm is a choice at each stage in a file of its
own.

With one update per batch, the ratio of new to old probabilities is 1, so no clip has any effect.
Then all of these algorithms are the policy gradient, and they differ only in the baseline and in
how tokens are averaged. (There is one exception: rollouts that were kept for a later batch while a
filter collected enough groups. An earlier policy sampled them, so their ratio is not 1.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from tinyzero.algorithms import advantages, losses
from tinyzero.algorithms.base import Algorithm, Metrics
from tinyzero.algorithms.options import Aggregation, PolicyOptions
from tinyzero.errors import UserError
from tinyzero.types import Group, Scorer

if TYPE_CHECKING:
    from torch import Tensor

    from tinyzero.batching import Batch, Totals


class StagedAlgorithm(Algorithm):
    """An algorithm made of the shared stages. A subclass computes the advantages in `annotate`."""

    Options: ClassVar[type[PolicyOptions]] = PolicyOptions
    options: PolicyOptions

    def __init__(self, options: Any = None) -> None:
        super().__init__(options)
        has_filter = self.options.filter != "none"
        self.min_samples = 2 if has_filter else 1  # a filter compares completions of one prompt
        self.drops_groups = has_filter

        self.roles = ("reference",) if self.options.needs_reference else ()
        self.refresh = self.options.refresh
        if self.options.correction == "none":
            self.for_other_samplers = {"correction": "truncate"}

    def check(self, max_tokens: int) -> None:
        """Raise UserError if the length penalty would begin before the first token."""
        overlong = self.options.overlong
        if overlong > max_tokens:
            raise UserError(
                f"algorithm.overlong is {overlong}, more than rollout.max_tokens {max_tokens}: "
                "the length penalty would begin before the first token, so lower it"
            )

    def scorers(self, updates: int) -> tuple[str, ...]:
        """The other models, and the policy if something reads its old logprobs."""
        if reads_old_logprobs(self.options, updates):
            return ("policy", *self.roles)
        return self.roles

    def keep(self, groups: list[Group]) -> list[Group]:
        """The groups that pass the filter."""
        return keep_groups(groups, self.options, self.min_samples)

    def loss(
        self, role: str, outputs: Mapping[str, Tensor], batch: Batch, totals: Totals
    ) -> tuple[Tensor, Metrics]:
        """The loss of the policy, the only model that is trained unless a subclass adds others."""
        return policy_loss(outputs, batch, totals, self.options)


def keep_groups(groups: list[Group], options: PolicyOptions, min_samples: int) -> list[Group]:
    """The groups that the filter keeps, judged by their share of right answers.

    If an answer of a group is graded (neither right nor wrong), the rewards decide instead: filter
    "flat" keeps groups whose rewards differ, and "band" looks at their mean. Groups of fewer than
    `min_samples` rollouts are dropped as well: rollouts that could not be graded have been removed.

    Raises UserError if filter "band" meets graded rewards that are not between 0 and 1.
    """
    groups = [group for group in groups if len(group) >= min_samples]
    if options.filter == "none":
        return groups
    if options.filter == "flat":
        return [group for group in groups if _differs(group)]
    return [group for group in groups if options.band_low <= _share(group) <= options.band_high]


def _is_graded(group: Group) -> bool:
    """Whether an answer of the group is neither right nor wrong."""
    return any(rollout.reward.right is None for rollout in group)


def _differs(group: Group) -> bool:
    """Whether some answers of the group are better than others."""
    if _is_graded(group):
        return len({rollout.reward.value for rollout in group}) > 1
    return len({rollout.reward.right for rollout in group}) > 1


def _share(group: Group) -> float:
    """The share of right answers, or the mean reward if answers are graded."""
    if not _is_graded(group):
        return sum(rollout.reward.right is True for rollout in group) / len(group)

    values = [rollout.reward.value for rollout in group]
    outside = [value for value in values if not 0 <= value <= 1]
    if outside:
        raise UserError(
            'filter "band" needs answers that are right or wrong, or rewards from 0 to 1, and one '
            f"is {outside[0]:g}: use --algorithm.filter flat"
        )
    return sum(values) / len(values)


def reads_old_logprobs(options: PolicyOptions, updates: int) -> bool:
    """Whether a stage compares the policy with itself before the `updates` steps on a batch."""
    return updates > 1 or options.kl_in_reward > 0 or options.correction != "none"


def prepare(batch: Batch, models: Mapping[str, Scorer], options: PolicyOptions) -> Batch:
    """Add old logprobs, reference logprobs and correction weights if the options need them."""
    if batch.stale is not None or reads_old_logprobs(options, models["policy"].updates):
        old_logprobs = models["policy"].score(batch)
        if batch.stale is not None and options.correction == "none":
            # An earlier policy sampled the stale rows: their ratio starts from its probabilities.
            is_fresh = ~batch.stale[:, None]
            old_logprobs = old_logprobs.where(is_fresh, batch.sampled_logprobs)
        batch = replace(batch, old_logprobs=old_logprobs)

    if options.needs_reference and batch.ref_logprobs is None:
        batch = replace(batch, ref_logprobs=models["reference"].score(batch))

    if options.correction != "none":
        assert batch.old_logprobs is not None
        weights = losses.importance_weights(
            batch.old_logprobs,
            batch.sampled_logprobs,
            batch.mask,
            options.correction,
            options.correction_level,
            options.correction_cap,
        )
        batch = replace(batch, weights=weights)
    return batch


def shaped_rewards(batch: Batch, options: PolicyOptions) -> Tensor:
    """Rewards (B,) less the length penalty.

    The KL penalty is not subtracted here, because some algorithms need it per completion and others
    per token: see `kl_penalties`.
    """
    if not options.overlong:
        return batch.rewards
    lengths = batch.mask.sum(dim=1)
    penalty = advantages.overlong_penalty(lengths, batch.limits, options.overlong)
    return batch.rewards + options.overlong_penalty * penalty


def response_rewards(batch: Batch, options: PolicyOptions) -> Tensor:
    """Rewards (B,) less the length penalty and the KL penalties of all tokens."""
    rewards = shaped_rewards(batch, options)
    penalties = kl_penalties(batch, options)
    return rewards if penalties is None else rewards - penalties.sum(dim=1)


def token_rewards(batch: Batch, options: PolicyOptions) -> Tensor:
    """Rewards (B, T): the shaped reward on the last token, less the KL penalty of each token.

    If turns earned something of their own, it is on the last token of each turn.
    """
    at_the_end = shaped_rewards(batch, options)
    if batch.turn_rewards is None:
        rewards = advantages.at_end(at_the_end, batch.mask)
    else:
        penalty = advantages.at_end(at_the_end - batch.rewards, batch.mask)
        rewards = batch.turn_rewards + penalty
    penalties = kl_penalties(batch, options)
    return rewards if penalties is None else rewards - penalties


def kl_penalties(batch: Batch, options: PolicyOptions) -> Tensor | None:
    """What the reward of each token (B, T) loses for leaving the reference, or None if nothing."""
    if not options.kl_in_reward:
        return None
    assert batch.old_logprobs is not None
    assert batch.ref_logprobs is not None
    divergence = losses.kl(batch.old_logprobs, batch.ref_logprobs, "k1")
    return options.kl_in_reward * divergence * batch.mask


def step_mean(per_token: Tensor, batch: Batch, how: Aggregation, totals: Totals) -> Tensor:
    """This micro-batch's share of the mean of losses (B, T) over the whole optimizer step."""
    return losses.aggregate(
        per_token,
        batch.mask,
        how,
        tokens=totals.tokens,
        sequences=totals.sequences,
        max_length=totals.max_length,
    )


def policy_loss(
    outputs: Mapping[str, Tensor], batch: Batch, totals: Totals, options: PolicyOptions
) -> tuple[Tensor, Metrics]:
    """The policy's loss on one micro-batch: (scalar, metrics).

    `outputs` holds the policy's logprobs and entropy (B, T), and `batch` its advantages (B, T). The
    loss is the objective, weighted by the sampler's correction, plus the KL loss, less the entropy
    bonus. Each is averaged as `options.aggregate` says.
    """
    assert batch.advantages is not None
    logprobs = outputs["logprobs"]
    old_logprobs = logprobs.detach() if batch.old_logprobs is None else batch.old_logprobs

    surrogate, is_clipped = _objective(logprobs, old_logprobs, batch, options)
    if batch.weights is not None:
        surrogate = surrogate * batch.weights
    loss = step_mean(surrogate, batch, options.aggregate, totals)

    def token_mean(per_token: Tensor) -> tuple[Tensor, Tensor]:
        return (per_token.detach().float() * batch.mask).sum(), batch.mask.sum()

    metrics = {"clip_fraction": token_mean(is_clipped)}
    metrics |= _mismatch(old_logprobs, batch)
    if batch.weights is not None:
        metrics["correction"] = token_mean(batch.weights)

    if options.kl:
        assert batch.ref_logprobs is not None
        divergence = losses.kl(logprobs, batch.ref_logprobs, options.kl_estimator)
        loss = loss + options.kl * step_mean(divergence, batch, options.aggregate, totals)
        metrics["kl"] = token_mean(divergence)

    if options.entropy:
        bonus = step_mean(outputs["entropy"], batch, options.aggregate, totals)
        loss = loss - options.entropy * bonus
    return loss, metrics


def _objective(
    logprobs: Tensor, old_logprobs: Tensor, batch: Batch, options: PolicyOptions
) -> tuple[Tensor, Tensor]:
    """The chosen policy loss per token (B, T), and which tokens it clips (B, T)."""
    assert batch.advantages is not None
    if options.ratio == "sequence":
        old_logprobs = losses.sequence_ratio(logprobs, old_logprobs, batch.mask)

    if options.objective == "clip":
        return losses.clipped_surrogate(
            logprobs,
            old_logprobs,
            batch.advantages,
            options.clip_low,
            options.clip_high,
            options.dual_clip or None,
        )
    if options.objective == "cispo":
        return losses.cispo(
            logprobs, old_logprobs, batch.advantages, options.clip_low, options.clip_high
        )
    # REINFORCE. Its ratio corrects for samples of an earlier policy.
    return losses.importance_sampled(logprobs, old_logprobs, batch.advantages)


def _mismatch(old_logprobs: Tensor, batch: Batch) -> Metrics:
    """How far the sampler's logprobs are from the learner's, for the same weights and tokens.

    Stale rows are left out: an earlier policy sampled them, so their logprobs should differ.
    """
    fresh = batch.mask
    if batch.stale is not None:
        fresh = batch.mask & ~batch.stale[:, None]
        if not fresh.any():
            return {}
    distance = (old_logprobs - batch.sampled_logprobs).abs().float()
    return {"mismatch": ((distance * fresh).sum(), fresh.sum())}


def rows_without_gradient(token_advantages: Tensor, options: PolicyOptions) -> Tensor | None:
    """The rows (B,) whose advantages (B, T) are all zero, so that computing them can be skipped.

    None if a KL loss or an entropy bonus gives every row a gradient.
    """
    if options.kl or options.entropy:
        return None
    return (token_advantages == 0).all(1)
