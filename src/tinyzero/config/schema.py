"""Every option of a run: its type, its bounds, its default and what it means."""

from __future__ import annotations

import os
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

MOST_ROWS = 2**20  # completions of a step


class Section(BaseModel):
    """A table of the recipe: unknown keys are errors, values are of their type and do not change."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=()
    )


class Named(BaseModel):
    """A task or an algorithm by name, with options that its own class checks."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str = Field(description="a known name, package.module:Name, or path/file.py:Name")

    @property
    def options(self) -> dict[str, Any]:
        """The table without the name."""
        return dict(self.model_extra or {})


class ModelSection(Section):
    name: str = Field("tiny", description="a bundled base such as tiny, a folder, or a hub id")
    prompt: str = Field(
        "compact",
        description="template: compact (bundled bases), chat (compact in messages), base (R1-Zero text), or instruct",
    )
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="auto (CUDA where there is one), cpu, cuda or cuda:N",
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="precision of the weights; under bfloat16 the optimizer keeps fp32 masters",
    )
    checkpointing: bool = Field(
        False,
        description="keep each layer's input only and compute the rest again backward: less memory, a third slower",
    )
    park: bool = Field(
        False, description="critic, PRM and reference wait in CPU memory while they are not used"
    )
    threads: int = Field(
        0, ge=0, le=256, description="CPU threads for torch; 0 leaves torch's choice"
    )


class RolloutSection(Section):
    prompts: int = Field(16, ge=1, le=16_384, description="problems a step")
    samples: int = Field(16, ge=1, le=16_384, description="completions a problem: the group")
    temperature: float = Field(
        1.0, ge=0.01, le=100, description="of sampling; the learner scores under the same"
    )
    max_tokens: int = Field(
        512, ge=1, le=2**20, description="limit on new tokens; longer answers are cut and counted"
    )
    refills: int = Field(
        4,
        ge=0,
        le=1_000,
        description="extra rounds of sampling for groups that the algorithm drops",
    )
    rows: int = Field(512, ge=1, le=65_536, description="completions decoded at once")
    too_long: Literal["skip", "error"] = Field(
        "skip", description="what happens to problems that do not fit into the model's context"
    )


class SamplerSection(Section):
    name: str = Field(
        "auto",
        description="torch (the learner's own weights), vllm (a copy in vLLM), package.module:Name, "
        "path/file.py:Name, or auto: torch, but for a model on a GPU that it has no slots for",
    )
    cache_gb: float = Field(
        0.0,
        ge=0,
        le=10_000,
        description="vLLM's key-value cache; 0 for what rollout.rows completions of full length take",
    )


class GradingSection(Section):
    """Where the rewards of a user's own task are computed. Bundled tasks need none of it."""

    workers: int = Field(2, ge=1, le=256, description="processes that grade answers")
    timeout: float = Field(
        10.0, ge=0.01, le=3600, description="seconds for an answer; one that takes longer is wrong"
    )
    memory: float = Field(
        4.0, ge=0.1, le=1024, description="GB that the grading of an answer may take"
    )


class OptimizerOptions(Section):
    """AdamW and its learning rate over the run."""

    learning_rate: float = Field(1e-6, gt=0, le=1e30, description="peak learning rate")
    warmup: int = Field(0, ge=0, le=10**9, description="optimizer steps of linear warm-up")
    schedule: Literal["constant", "linear"] = Field(
        "constant", description="after the warm-up: stay, or fall linearly"
    )
    final_share: float = Field(
        0.1, ge=0, le=1, description="share of the peak rate left at the end of a linear schedule"
    )
    beta1: float = Field(0.9, ge=0, lt=1, description="AdamW's first moment decay")
    beta2: float = Field(0.95, ge=0, lt=1, description="AdamW's second moment decay")
    weight_decay: float = Field(0.0, ge=0, le=100, description="AdamW's decoupled weight decay")
    grad_clip: float = Field(1.0, gt=0, le=1e12, description="largest L2 norm of the gradient")
    offload: bool = Field(
        False,
        description="fp32 masters and moments live in CPU memory, and the step is taken there",
    )


class LoraSection(Section):
    """Low-rank adapters (arXiv:2106.09685): the weights stay, and small products beside them are trained."""

    rank: int = Field(
        0,
        ge=0,
        le=65_536,
        description="of the adapters of policy, critic and PRM; 0 trains every weight",
    )
    alpha: int = Field(
        32, ge=1, le=10**6, description="the adapters' product is scaled by this over the rank"
    )
    targets: list[str] = Field(
        [],
        description="names of the layers that get one; empty for every linear layer but the head",
    )


class UpdateSection(Section):
    minibatches: int = Field(
        1,
        ge=1,
        le=65_536,
        description="optimizer steps a pass over the batch; 1 is strictly on-policy",
    )
    epochs: int = Field(1, ge=1, le=1_000, description="passes over the batch")
    micro_tokens: int = Field(
        8192,
        ge=1,
        le=2**30,
        description="padded tokens computed at once; changes memory and speed, never the result",
    )
    pack: bool = Field(False, description="compute sequences end to end without padding")
    logit_rows: int = Field(
        2048,
        ge=1,
        le=2**30,
        description="tokens whose logits exist at once; changes memory and speed, never the result",
    )
    patience: int = Field(
        3,
        ge=1,
        le=10**6,
        description="updates in a row whose gradient is not finite before the run stops",
    )


class EvalSection(Section):
    every: int = Field(
        0, ge=0, le=10**7, description="steps between evaluations on dev; 0 for none"
    )
    problems: int = Field(256, ge=1, le=100_000, description="distinct dev problems")
    test_problems: int = Field(
        1024,
        ge=0,
        le=100_000,
        description="distinct test problems, scored at the first and the last step only; 0 for none",
    )
    samples: int = Field(1, ge=1, le=16_384, description="completions a problem at temperature 1")
    max_tokens: int = Field(
        0,
        ge=0,
        le=2**20,
        description="limit on new tokens when evaluated; 0 for that of the rollouts",
    )
    greedy: bool = Field(False, description="score the most likely completion too")

    @property
    def dev_problems(self) -> int:
        """Distinct dev problems of an evaluation; 0 where dev is never scored."""
        return self.problems if self.every else 0


class CheckpointSection(Section):
    every: int = Field(
        0, ge=0, le=10**7, description="steps between checkpoints; 0 saves at the end only"
    )
    keep: int = Field(3, ge=1, le=10_000, description="newest checkpoints kept")


class RunSection(Section):
    dir: str = Field("", description="the run's folder; empty for runs/RECIPE-ALGORITHM-SEED")
    rollouts_every: int = Field(
        10,
        ge=0,
        le=10**7,
        description="steps between rollouts written to rollouts.jsonl; 0 for none",
    )
    rollouts: int = Field(8, ge=1, le=100_000, description="rollouts written then")
    track: Literal["", "tensorboard", "wandb", "trackio"] = Field(
        "", description="send the metrics to tensorboard, wandb or trackio too; empty for none"
    )
    price: float = Field(
        0.0,
        ge=0,
        le=10**6,
        description="dollars an hour of the machine, for the cost shown; 0 shows none",
    )

    @field_validator("dir")
    @classmethod
    def _can_be_a_folder(cls, given: str) -> str:
        """A home is expanded here, for the shell leaves --run.dir=~/x as it is."""
        expanded = os.path.expanduser(given)
        if "\0" in given or expanded.startswith("~"):
            raise ValueError("no folder can have this name: give its path")
        return expanded


class Config(Section):
    """Everything that decides a run. Saved with it as config.toml, which repeats it elsewhere."""

    seed: int = Field(0, ge=0, lt=2**32, description="fixes everything but the data's splits")
    steps: int = Field(100, ge=1, le=10**7, description="optimizer batches")
    task: Named = Field(default_factory=lambda: Named(name="countdown"))
    algorithm: Named = Field(default_factory=lambda: Named(name="grpo"))
    model: ModelSection = Field(default_factory=ModelSection)
    rollout: RolloutSection = Field(default_factory=RolloutSection)
    sampler: SamplerSection = Field(default_factory=SamplerSection)
    grading: GradingSection = Field(default_factory=GradingSection)
    optimizer: OptimizerOptions = Field(default_factory=OptimizerOptions)
    critic: OptimizerOptions = Field(
        default_factory=OptimizerOptions,
        description="optimizer of the value model, where there is one",
    )
    prm: OptimizerOptions = Field(
        default_factory=OptimizerOptions,
        description="optimizer of the process reward model, where there is one",
    )
    update: UpdateSection = Field(default_factory=UpdateSection)
    lora: LoraSection = Field(default_factory=LoraSection)
    eval: EvalSection = Field(default_factory=EvalSection)
    checkpoint: CheckpointSection = Field(default_factory=CheckpointSection)
    run: RunSection = Field(default_factory=RunSection)

    @property
    def eval_tokens(self) -> int:
        """Limit on new tokens in evaluations, and wherever a trained model is used."""
        return self.eval.max_tokens or self.rollout.max_tokens

    @model_validator(mode="after")
    def _minibatches_fit(self) -> Config:
        rows = self.rollout.prompts * self.rollout.samples
        if rows > MOST_ROWS:
            raise ValueError(
                f"rollout.prompts {self.rollout.prompts} times rollout.samples {self.rollout.samples} is "
                f"above {MOST_ROWS:,} completions a step: lower one of them"
            )
        if self.update.minibatches > rows:
            raise ValueError(
                f"update.minibatches {self.update.minibatches} is above the {rows} completions of a step: lower it"
            )
        return self
