"""Options that every built-in algorithm has: one or more for each stage described in stages.py."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Filter = Literal["none", "flat", "band"]
Objective = Literal["clip", "cispo", "reinforce"]
LossEstimator = Literal["k2", "k3", "k3+"]
Level = Literal["token", "sequence"]
Aggregation = Literal["token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "constant-length"]
Center = Literal["mean", "leave_one_out", "none"]
Scale = Literal["group", "batch", "none"]


class PolicyOptions(BaseModel):
    """The options of the shared stages. Algorithms add their own, and change the defaults."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    by_token: ClassVar[bool] = False
    """Whether the tokens of one completion have different advantages."""

    filter: Filter = Field(
        "none",
        description=(
            "groups to drop and replace by new ones: none, all right or all wrong (flat), or those "
            "with a share of right answers outside a band"
        ),
    )
    band_low: float = Field(
        0.2, ge=0, le=1, description='lowest share of right answers kept by filter "band"'
    )
    band_high: float = Field(
        0.8, ge=0, le=1, description='highest share of right answers kept by filter "band"'
    )

    overlong: int = Field(
        0,
        ge=0,
        le=2**20,
        description="tokens before the length limit at which a length penalty begins; 0 for none",
    )
    overlong_penalty: float = Field(
        1.0, gt=0, le=1_000, description="reward lost by a completion that reaches the length limit"
    )
    kl_in_reward: float = Field(
        0.0, ge=0, le=1_000, description="weight of a KL penalty (k1) that is part of the reward"
    )

    correction: Literal["none", "truncate", "mask"] = Field(
        "none",
        description=(
            "weight tokens by learner/sampler probability if the two differ; large weights are "
            "truncated or masked"
        ),
    )
    correction_level: Level = Field(
        "token", description="correct by the ratio of each token, or of the whole sequence"
    )
    correction_cap: float = Field(
        2.0, gt=1, le=1e6, description="largest correction weight; above it truncate or mask"
    )

    objective: Objective = Field(
        "clip", description="policy loss per token: PPO's clip, CISPO's, or no clip (REINFORCE)"
    )
    ratio: Level = Field(
        "token", description="clip the probability ratio of each token, or of the whole sequence"
    )
    clip_low: float = Field(
        0.2, gt=0, le=1e6, description="lower bound of the probability ratio is 1 minus this"
    )
    clip_high: float = Field(
        0.2, gt=0, le=1e6, description="upper bound of the probability ratio is 1 plus this"
    )
    dual_clip: float = Field(
        0.0,
        ge=0,
        le=1e6,
        description="upper bound of the ratio for tokens with negative advantage; 0 for none",
    )

    kl: float = Field(
        0.0,
        ge=0,
        le=1_000,
        description="weight of the KL loss against the initial model; 0 needs no reference model",
    )
    kl_estimator: LossEstimator = Field(
        "k3", description="estimator of the KL loss from the sampled tokens"
    )
    refresh: int = Field(
        0,
        ge=0,
        le=10**7,
        description="steps after which the policy becomes the new reference; 0 for never",
    )
    entropy: float = Field(0.0, ge=0, le=1_000, description="weight of the entropy bonus")
    aggregate: Aggregation = Field(
        "token-mean", description="how the losses of all tokens are averaged into one number"
    )

    @property
    def needs_reference(self) -> bool:
        """Whether a KL term compares the policy with a reference model."""
        return self.kl > 0 or self.kl_in_reward > 0

    @property
    def without_effect(self) -> set[str]:
        """Names of options that change nothing, given the values of the others."""
        ignored_if = {
            "band_low band_high": self.filter != "band",
            "overlong_penalty": not self.overlong,
            "correction_level correction_cap": self.correction == "none",
            "clip_low clip_high": self.objective == "reinforce",
            "dual_clip": self.objective != "clip",
            "kl_estimator": not self.kl,
            "refresh": not self.needs_reference,
        }
        ignored: set[str] = set()
        for names, is_ignored in ignored_if.items():
            if is_ignored:
                ignored.update(names.split())
        return ignored

    @model_validator(mode="after")
    def _make_sense(self) -> PolicyOptions:
        """Reject options that would be ignored, and options that contradict each other."""
        if ignored := sorted(self.model_fields_set & self.without_effect):
            raise ValueError(
                f"{ignored[0]} has no effect with the other options as they are: "
                "remove it, or switch its stage on"
            )
        if self.filter == "band" and self.band_low > self.band_high:
            raise ValueError(
                f"band_low {self.band_low} is above band_high {self.band_high}, so no group would "
                "be kept: swap them"
            )
        if 0 < self.dual_clip <= 1 + self.clip_high:
            raise ValueError(
                f"dual_clip {self.dual_clip} is within the clip: make it larger than "
                f"1 + clip_high = {1 + self.clip_high:g}, or 0 for none"
            )

        if self.ratio == "sequence" and self.by_token:
            raise ValueError(
                'ratio "sequence" needs one advantage per completion, but this algorithm has one '
                'per token: use ratio "token"'
            )
        if self.ratio == "sequence" and self.aggregate != "seq-mean-token-mean":
            raise ValueError(
                f'aggregate "{self.aggregate}" does not go with ratio "sequence": '
                'use aggregate "seq-mean-token-mean"'
            )
        return self
