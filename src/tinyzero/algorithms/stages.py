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
from typing import TYPE_CHECKING

from torch import Tensor

from tinyzero.algorithms import advantages, losses
from tinyzero.algorithms.options import PolicyOptions
from tinyzero.types import Group, Scorer

if TYPE_CHECKING:
    from tinyzero.batching import Batch, Totals

Metrics = dict[str, tuple[Tensor, Tensor]]


def keep_groups(groups: list[Group], o: PolicyOptions, min_samples: int) -> list[Group]:
    """The filter: by the share of right answers, whatever the rewards."""
    groups = [g for g in groups if len(g) >= min_samples]
    if o.filter == "none":
        return groups
    right = [sum(r.reward.right is True for r in g) / len(g) for g in groups]
    if o.filter == "flat":
        return [g for g, share in zip(groups, right, strict=True) if 0 < share < 1]
    return [g for g, share in zip(groups, right, strict=True) if o.band_low <= share <= o.band_high]


def fewest_samples(o: PolicyOptions) -> int:
    """Completions a prompt that an algorithm without a group baseline needs: a filter compares them."""
    return 1 if o.filter == "none" else 2


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

    metrics = {"entropy": token_mean(outputs["entropy"]), "clip_fraction": token_mean(clipped)}
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
