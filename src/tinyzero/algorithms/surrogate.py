"""What the policy of every algorithm here minimises: clipped surrogate + KL to a reference - entropy.

PPO (Schulman et al., 2017, eq. 7) with the aggregation, the clip range and the KL estimator as options.
With one update a batch the ratio is 1, the clip is inert, and this is plain policy gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from tinyzero import losses
from tinyzero.batching import Batch, Totals

Metrics = dict[str, tuple[Tensor, Tensor]]
Aggregation = Literal["token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "constant-length"]


class SurrogateOptions(BaseModel):
    """The policy loss."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    clip_low: float = Field(0.2, gt=0, description="the ratio is clipped below at 1 - this")
    clip_high: float = Field(0.2, gt=0, description="the ratio is clipped above at 1 + this")
    kl: float = Field(0.0, ge=0, description="weight of the KL loss to the frozen start; 0 needs no reference model")
    kl_estimator: Literal["k2", "k3", "k3+"] = Field(
        "k3", description="how the KL loss is estimated from the sampled tokens"
    )
    entropy: float = Field(0.0, ge=0, description="weight of the entropy bonus")
    aggregate: Aggregation = Field("seq-mean-token-mean", description="how token losses become one number")


def policy_loss(
    outputs: Mapping[str, Tensor], batch: Batch, totals: Totals, o: SurrogateOptions
) -> tuple[Tensor, Metrics]:
    """(scalar, metrics) of the policy on one micro-batch. `batch` must hold advantages (B, T)."""
    assert batch.advantages is not None
    logprobs, mask = outputs["logprobs"], batch.mask
    old = logprobs.detach() if batch.old_logprobs is None else batch.old_logprobs
    surrogate, clipped = losses.clipped_surrogate(logprobs, old, batch.advantages, o.clip_low, o.clip_high)

    def mean(per_token: Tensor) -> Tensor:
        return losses.aggregate(
            per_token, mask, o.aggregate, tokens=totals.tokens, sequences=totals.sequences, max_length=totals.max_length
        )

    loss = mean(surrogate)
    count = mask.sum()

    def token_mean(per_token: Tensor) -> tuple[Tensor, Tensor]:
        return (per_token.detach().float() * mask).sum(), count

    metrics = {"entropy": token_mean(outputs["entropy"]), "clip_fraction": token_mean(clipped)}
    if o.kl:
        assert batch.ref_logprobs is not None
        divergence = losses.kl(logprobs, batch.ref_logprobs, o.kl_estimator)
        loss = loss + o.kl * mean(divergence)  # added: the divergence is to be small
        metrics["kl"] = token_mean(divergence)
    if o.entropy:
        loss = loss - o.entropy * mean(outputs["entropy"])
    return loss, metrics


def rows_without_gradient(advantages: Tensor, o: SurrogateOptions) -> Tensor | None:
    """(B,) rows whose advantages are all zero, where nothing else (KL, entropy) pulls on them."""
    return None if o.kl or o.entropy else (advantages == 0).all(1)
