"""The options that any algorithm can have, one for each choice at each stage (see stages.py)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tinyzero.algorithms import losses

Filter = Literal["none", "flat", "band"]
Objective = Literal["clip", "cispo", "reinforce"]
LossEstimator = Literal["k2", "k3", "k3+"]


class PolicyOptions(BaseModel):
    """The stages that any algorithm can have."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    by_token: ClassVar[bool] = False  # whether advantages differ from token to token of a response

    filter: Filter = Field(
        "none",
        description="groups dropped and drawn anew: none, those all right or all wrong, or those outside a band",
    )
    band_low: float = Field(
        0.2, ge=0, le=1, description="lowest share of right answers that the band keeps"
    )
    band_high: float = Field(
        0.8, ge=0, le=1, description="highest share of right answers that the band keeps"
    )
    overlong: int = Field(
        0,
        ge=0,
        le=2**20,
        description="tokens before the limit where a penalty on length begins; 0 for none",
    )
    overlong_penalty: float = Field(1.0, gt=0, le=1_000, description="the penalty at the limit")
    kl_in_reward: float = Field(
        0.0, ge=0, le=1_000, description="weight of the KL penalty (k1) inside the reward"
    )
    correction: Literal["none", "truncate", "mask"] = Field(
        "none",
        description="for a sampler that differs from the learner: weight tokens by the ratio, cut or masked",
    )
    correction_level: losses.Level = Field(
        "token", description="the ratio of a token, or of the whole sequence"
    )
    correction_cap: float = Field(2.0, gt=1, le=1e6, description="the largest ratio")
    objective: Objective = Field(
        "clip", description="the policy loss of a token: PPO's clip, CISPO's, or the ratio as it is"
    )
    ratio: losses.Level = Field(
        "token", description="clip the ratio of a token, or of the whole sequence"
    )
    clip_low: float = Field(0.2, gt=0, le=1e6, description="the ratio is clipped below at 1 - this")
    clip_high: float = Field(
        0.2, gt=0, le=1e6, description="the ratio is clipped above at 1 + this"
    )
    dual_clip: float = Field(
        0.0,
        ge=0,
        le=1e6,
        description="where the advantage is negative the ratio counts up to this; 0 for no bound",
    )
    kl: float = Field(
        0.0,
        ge=0,
        le=1_000,
        description="weight of the KL loss to the frozen start; 0 needs no reference model",
    )
    kl_estimator: LossEstimator = Field(
        "k3", description="how the KL loss is estimated from the sampled tokens"
    )
    refresh: int = Field(
        0,
        ge=0,
        le=10**7,
        description="steps after which the policy becomes the reference; 0 for never",
    )
    entropy: float = Field(0.0, ge=0, le=1_000, description="weight of the entropy bonus")
    aggregate: losses.Aggregation = Field(
        "token-mean", description="how token losses become one number"
    )

    @property
    def needs_reference(self) -> bool:
        return self.kl > 0 or self.kl_in_reward > 0

    @property
    def without_effect(self) -> set[str]:
        """Options that change nothing beside the others as they are."""
        idle = {
            "band_low band_high": self.filter != "band",
            "overlong_penalty": not self.overlong,
            "correction_level correction_cap": self.correction == "none",
            "clip_low clip_high": self.objective == "reinforce",
            "dual_clip": self.objective != "clip",
            "kl_estimator": not self.kl,
            "refresh": not self.needs_reference,
        }
        return {name for names, holds in idle.items() if holds for name in names.split()}

    @model_validator(mode="after")
    def _make_sense(self) -> PolicyOptions:
        """An option that was given and would be ignored is a mistake, as is one that contradicts another."""
        if idle := sorted(self.model_fields_set & self.without_effect):
            raise ValueError(
                f"{idle[0]} has no effect beside the other options: leave it out, or switch its stage on"
            )
        if self.filter == "band" and self.band_low > self.band_high:
            raise ValueError(
                f"band_low {self.band_low} is above band_high {self.band_high}: no group would be kept"
            )
        if 0 < self.dual_clip <= 1 + self.clip_high:
            raise ValueError(
                f"dual_clip {self.dual_clip} is within the clip: make it 0, or more than 1 + clip_high"
            )
        if self.ratio == "sequence" and self.by_token:
            raise ValueError(
                'ratio "sequence" is for one advantage a response, and here each token has its own'
            )
        if self.ratio == "sequence" and self.aggregate != "seq-mean-token-mean":
            raise ValueError(
                f'aggregate "{self.aggregate}" is not the mean over sequences that ratio "sequence" is for'
            )
        return self
