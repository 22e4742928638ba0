"""The options of `tinyzero prefer`, which need no torch."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class PreferOptions(BaseModel):
    """How a reward model is trained."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    epochs: int = Field(default=3, ge=1, description="how often each pair is seen")
    batch: int = Field(default=16, ge=1, description="pairs per step")
    learning_rate: float = Field(
        default=1e-4, gt=0, description="highest learning rate; about 1e-5 for large models"
    )
    least_accuracy: float = Field(
        default=0.55,
        ge=0,
        le=1,
        description="held-out accuracy below which the model is rejected; 0 to save any model",
    )
    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="where to compute: auto, cpu, cuda or cuda:N",
    )
    seed: int = Field(default=0, ge=0, lt=2**32, description="order of the pairs")
