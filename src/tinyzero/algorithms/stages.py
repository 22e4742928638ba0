"""What the algorithms share: the stages between rewards and the policy's gradient, each an option.

    filter     which groups are trained on                          `keep_groups`
    shape      rewards before they are compared                     `shaped_rewards`
    advantage  how much better than expected                        the algorithm's own
    weight     a sampler that differs from the learner              `prepare`
    loss       PPO's clip, CISPO or REINFORCE; a token's or a sequence's ratio; KL; entropy; aggregation   `policy_loss`

An algorithm is a choice at each stage, and a file beside this one. With one update a batch the ratio is 1 (but for
rows that waited, under a filter), every clip is inert, and all of them are policy gradient with another baseline and
another mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from tinyzero.algorithms import advantages, losses
from tinyzero.algorithms.base import Algorithm, Metrics
from tinyzero.algorithms.options import PolicyOptions
from tinyzero.errors import UserError
from tinyzero.types import Group, Scorer

if TYPE_CHECKING:
    from tinyzero.batching import Batch, Totals


class StagedAlgorithm(Algorithm):
    """An algorithm that is a choice at each stage: it adds its advantage, in `annotate`."""

    Options: ClassVar[type[PolicyOptions]] = PolicyOptions
    options: PolicyOptions

    def __init__(self, options: Any = None) -> None:
        super().__init__(options)
        o = self.options
        self.min_samples = 1 if o.filter == "none" else 2  # a filter compares them
        self.roles = ("reference",) if o.needs_reference else ()
        self.refresh, self.drops_groups = o.refresh, o.filter != "none"
        if o.correction == "none":
            self.for_other_samplers = {"correction": "truncate"}

    def check(self, max_tokens: int) -> None:
        """A penalty on length must begin within the answer."""
        overlong = self.options.overlong
        if overlong > max_tokens:
            raise UserError(
                f"algorithm.overlong is {overlong}, more than rollout.max_tokens {max_tokens}: "
                "the penalty would begin before the answer"
            )

    def scorers(self, updates: int) -> tuple[str, ...]:
        """The policy only if something reads its old logprobs."""
        return (*(("policy",) if reads_old_logprobs(self.options, updates) else ()), *self.roles)

    def keep(self, groups: list[Group]) -> list[Group]:
        """The filter's, of those that are groups still, should answers have been dropped."""
        return keep_groups(groups, self.options, self.min_samples)

    def loss(
        self, role: str, outputs: Mapping[str, Tensor], batch: Batch, totals: Totals
    ) -> tuple[Tensor, Metrics]:
        """The policy's."""
        return policy_loss(outputs, batch, totals, self.options)


def keep_groups(groups: list[Group], o: PolicyOptions, min_samples: int) -> list[Group]:
    """The filter: by the share of right answers, whatever the rewards.

    If an answer of a group is graded, neither right nor wrong, the rewards decide: whether they
    differ ("flat"), or their mean ("band"). Raises UserError if a band is asked of rewards that are
    not within 0 and 1.
    """
    groups = [g for g in groups if len(g) >= min_samples]
    if o.filter == "none":
        return groups
    if o.filter == "flat":
        return [g for g in groups if _differs(g)]
    return [g for g in groups if o.band_low <= _share(g) <= o.band_high]


def _is_graded(group: Group) -> bool:
    return any(r.reward.right is None for r in group)


def _differs(group: Group) -> bool:
    """Whether some answers of the group are better than others."""
    if _is_graded(group):
        return len({r.reward.value for r in group}) > 1
    return len({r.reward.right for r in group}) > 1


def _share(group: Group) -> float:
    """The share of right answers, or of graded ones the mean reward."""
    if not _is_graded(group):
        return sum(r.reward.right is True for r in group) / len(group)
    values = [r.reward.value for r in group]
    if outside := [v for v in values if not 0 <= v <= 1]:
        raise UserError(
            f'filter "band" needs right or wrong answers, or rewards from 0 to 1, and one is '
            f"{outside[0]:g}: take --algorithm.filter flat"
        )
    return sum(values) / len(values)


def reads_old_logprobs(o: PolicyOptions, updates: int) -> bool:
    """Whether anything compares with the policy of before the update, of which `updates` are taken."""
    return updates > 1 or o.kl_in_reward > 0 or o.correction != "none"


def prepare(batch: Batch, models: Mapping[str, Scorer], o: PolicyOptions) -> Batch:
    """Old and reference logprobs, and the sampler's correction, where the options ask for them."""
    if batch.stale is not None or reads_old_logprobs(o, models["policy"].updates):
        old = models["policy"].score(batch)
        if (
            batch.stale is not None and o.correction == "none"
        ):  # an older policy sampled them: their ratio is not 1
            old = old.where(~batch.stale[:, None], batch.sampled_logprobs)
        batch = replace(batch, old_logprobs=old)
    if o.needs_reference and batch.ref_logprobs is None:
        batch = replace(batch, ref_logprobs=models["reference"].score(batch))
    if o.correction != "none":
        assert batch.old_logprobs is not None
        weights = losses.importance_weights(
            batch.old_logprobs,
            batch.sampled_logprobs,
            batch.mask,
            o.correction,
            o.correction_level,
            o.correction_cap,
        )
        batch = replace(batch, weights=weights)
    return batch


def shaped_rewards(batch: Batch, o: PolicyOptions) -> Tensor:
    """(B,) rewards with the penalty on length; the KL's is `kl_penalties`, since algorithms place it differently."""
    if not o.overlong:
        return batch.rewards
    lengths = batch.mask.sum(dim=1)
    return batch.rewards + o.overlong_penalty * advantages.overlong_penalty(
        lengths, batch.limits, o.overlong
    )


def response_rewards(batch: Batch, o: PolicyOptions) -> Tensor:
    """(B,) the shaped reward, less the KL penalties of all its tokens."""
    rewards, penalties = shaped_rewards(batch, o), kl_penalties(batch, o)
    return rewards if penalties is None else rewards - penalties.sum(dim=1)


def token_rewards(batch: Batch, o: PolicyOptions) -> Tensor:
    """(B, T) the shaped reward on the last token, less each token's KL penalty."""
    rewards, penalties = (
        advantages.at_end(shaped_rewards(batch, o), batch.mask),
        kl_penalties(batch, o),
    )
    return rewards if penalties is None else rewards - penalties


def kl_penalties(batch: Batch, o: PolicyOptions) -> Tensor | None:
    """(B, T) what each token's reward loses for leaving the reference, or None where nothing."""
    if not o.kl_in_reward:
        return None
    assert batch.old_logprobs is not None
    assert batch.ref_logprobs is not None
    return o.kl_in_reward * losses.kl(batch.old_logprobs, batch.ref_logprobs, "k1") * batch.mask


def step_mean(per_token: Tensor, batch: Batch, how: losses.Aggregation, totals: Totals) -> Tensor:
    """This micro-batch's share of the mean of (B, T) losses over the whole optimizer step."""
    return losses.aggregate(
        per_token,
        batch.mask,
        how,
        tokens=totals.tokens,
        sequences=totals.sequences,
        max_length=totals.max_length,
    )


def policy_loss(
    outputs: Mapping[str, Tensor], batch: Batch, totals: Totals, o: PolicyOptions
) -> tuple[Tensor, Metrics]:
    """(scalar, metrics) of the policy on one micro-batch. `batch` must hold advantages (B, T)."""
    assert batch.advantages is not None
    logprobs, mask = outputs["logprobs"], batch.mask
    before = logprobs.detach() if batch.old_logprobs is None else batch.old_logprobs
    old = losses.sequence_ratio(logprobs, before, mask) if o.ratio == "sequence" else before
    if o.objective == "clip":
        surrogate, clipped = losses.clipped_surrogate(
            logprobs, old, batch.advantages, o.clip_low, o.clip_high, o.dual_clip or None
        )
    elif o.objective == "cispo":
        surrogate, clipped = losses.cispo(logprobs, old, batch.advantages, o.clip_low, o.clip_high)
    else:  # REINFORCE, which the ratio makes right where the samples are an older policy's
        surrogate, clipped = losses.importance_sampled(logprobs, old, batch.advantages)
    if batch.weights is not None:
        surrogate = surrogate * batch.weights

    loss = step_mean(surrogate, batch, o.aggregate, totals)
    count = mask.sum()

    def token_mean(per_token: Tensor) -> tuple[Tensor, Tensor]:
        return (per_token.detach().float() * mask).sum(), count

    metrics = {"clip_fraction": token_mean(clipped)}
    fresh = mask if batch.stale is None else mask & ~batch.stale[:, None]
    if fresh.any():  # the learner's logprobs of before the update, against those of the same weights in the sampler
        metrics["mismatch"] = (
            ((before - batch.sampled_logprobs).abs().float() * fresh).sum(),
            fresh.sum(),
        )
    if batch.weights is not None:
        metrics["correction"] = token_mean(batch.weights)
    if o.kl:
        assert batch.ref_logprobs is not None
        divergence = losses.kl(logprobs, batch.ref_logprobs, o.kl_estimator)
        loss = loss + o.kl * step_mean(
            divergence, batch, o.aggregate, totals
        )  # added: the divergence is to be small
        metrics["kl"] = token_mean(divergence)
    if o.entropy:
        loss = loss - o.entropy * step_mean(outputs["entropy"], batch, o.aggregate, totals)
    return loss, metrics


def rows_without_gradient(found: Tensor, o: PolicyOptions) -> Tensor | None:
    """(B,) rows whose advantages are all zero, where nothing else (KL, entropy) pulls on them."""
    return None if o.kl or o.entropy else (found == 0).all(1)
