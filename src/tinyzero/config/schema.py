"""Every option of a run: its type, its bounds, its default and what it means."""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

MOST_ROWS = 2**20  # completions per step


class Section(BaseModel):
    """A table of the recipe. Unknown keys are errors, types are strict, values cannot change."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=()
    )


class Named(BaseModel):
    """A task or an algorithm by name, with options that its own class checks."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str = Field(
        description="a bundled one, or your own as package.module:Name or path/file.py:Name"
    )

    @property
    def options(self) -> dict[str, Any]:
        """The table without the name."""
        return dict(self.model_extra or {})


def parts_of(options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The tables `[[task.of]]` of a mixture, from the options of the task; else nothing."""
    entries = options.get("of")
    return [e for e in entries if isinstance(e, dict)] if isinstance(entries, list) else []


class ModelSection(Section):
    """The language model that is trained, and the machine that it runs on."""

    name: str = Field(
        "tiny", description="a bundled base such as tiny, a folder with a model, or a hub id"
    )
    prompt: str = Field(
        "compact",
        description="prompt template: compact (bundled bases), chat (compact as chat messages), "
        "base (R1-Zero's text), instruct (the same through the model's chat template) or "
        "instruct-short (a short chat with worked examples, for models below 1 billion)",
    )
    device: str = Field(
        "auto", description="cpu, cuda, cuda:N, or auto (CUDA if there is a GPU, else the CPU)"
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="precision of the weights; with bfloat16 the optimizer keeps float32 copies",
    )
    checkpointing: bool = Field(
        False,
        description="recompute activations in the backward pass: less memory, a third slower",
    )
    park: bool = Field(
        False,
        description="keep critic, reward model and reference in CPU memory while they are unused",
    )
    date: str = Field(
        "",
        description="what a chat template takes for today, as in 2026-11-27; empty for the day on "
        "which the run starts",
    )
    threads: int = Field(
        0, ge=0, le=256, description="CPU threads that torch uses; 0 leaves the choice to torch"
    )

    @field_validator("device")
    @classmethod
    def _is_a_device(cls, device: str) -> str:
        """Reject any other name now, because torch would do so only after the model is loaded."""
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
            raise ValueError("use auto, cpu, cuda, or cuda:N for one of several GPUs")
        return device

    @field_validator("date")
    @classmethod
    def _is_a_date(cls, date: str) -> str:
        try:
            written = datetime.date.fromisoformat(date).isoformat() if date else ""
        except ValueError:
            raise ValueError("write year, month and day, as in 2026-11-27") from None
        return written


class RolloutSection(Section):
    """How many completions are sampled in each step, and how."""

    prompts: int = Field(16, ge=1, le=16_384, description="problems per step")
    samples: int = Field(
        16, ge=1, le=16_384, description="completions per problem (the group size)"
    )
    temperature: float = Field(
        1.0, ge=0.01, le=100, description="sampling temperature; training uses the same one"
    )
    max_tokens: int = Field(
        512,
        ge=1,
        le=2**20,
        description="most tokens in a completion; longer ones are cut off",
    )
    refills: int = Field(
        4,
        ge=0,
        le=1_000,
        description="extra rounds of sampling to replace groups that the algorithm drops",
    )
    rows: int = Field(512, ge=1, le=65_536, description="completions that are decoded at once")
    too_long: Literal["skip", "error"] = Field(
        "skip",
        description="what to do with a problem that does not fit into the model's context",
    )


class SamplerSection(Section):
    """What generates the completions."""

    name: str = Field(
        "auto",
        description="torch (the trained weights themselves), vllm (a copy of them in vLLM), your "
        "own as package.module:Name or path/file.py:Name, or auto (torch if it can run the model)",
    )
    cache_gb: float = Field(
        0.0,
        ge=0,
        le=10_000,
        description="gigabytes of vLLM's key-value cache; 0 reserves what rollout.rows "
        "completions of full length need",
    )


class GradingSection(Section):
    """How your own task, or one that runs programs, grades. Other bundled tasks do not need it."""

    workers: int = Field(2, ge=1, le=256, description="processes that grade answers")
    timeout: float = Field(
        10.0,
        ge=0.01,
        le=3600,
        description="seconds to grade one answer; an answer that takes longer counts as wrong",
    )
    memory: float = Field(
        4.0, ge=0.1, le=1024, description="gigabytes of memory that grading one answer may use"
    )
    sandbox: Literal["auto", "bwrap", "landlock", "plain"] = Field(
        "auto",
        description="for tasks that run what a model wrote: bwrap (bubblewrap), landlock, auto "
        "(the stronger one that works here), or plain, which limits time and memory but not what "
        "a program may read, write or connect to",
    )


class OptimizerOptions(Section):
    """AdamW and its learning rate over the run."""

    learning_rate: float = Field(1e-6, gt=0, le=1e30, description="peak learning rate")
    warmup: int = Field(
        0, ge=0, le=10**9, description="optimizer steps over which the learning rate rises linearly"
    )
    schedule: Literal["constant", "linear"] = Field(
        "constant", description="learning rate after the warm-up: constant, or falling linearly"
    )
    final_share: float = Field(
        0.1,
        ge=0,
        le=1,
        description="fraction of the peak learning rate that a linear schedule ends with",
    )
    beta1: float = Field(0.9, ge=0, lt=1, description="AdamW's decay of the first moment")
    beta2: float = Field(0.95, ge=0, lt=1, description="AdamW's decay of the second moment")
    weight_decay: float = Field(0.0, ge=0, le=100, description="AdamW's decoupled weight decay")
    grad_clip: float = Field(
        1.0,
        gt=0,
        le=1e12,
        description="largest L2 norm of the gradient; larger ones are scaled down",
    )
    offload: bool = Field(
        False,
        description="keep the optimizer's state in CPU memory and take its steps on the CPU",
    )


class LoraSection(Section):
    """Low-rank adapters (arXiv:2106.09685). A rank above 0 trains them instead of the weights."""

    rank: int = Field(
        0,
        ge=0,
        le=65_536,
        description="rank of the adapters of policy, critic and reward model; 0 trains all "
        "weights. Switching adapters on raises the recipe's learning rates tenfold, unless you "
        "give them",
    )
    alpha: int = Field(
        32, ge=1, le=10**6, description="scale of the adapters: their product times alpha / rank"
    )
    targets: list[str] = Field(
        [],
        description="names of the layers that get an adapter; empty for every linear layer except "
        "the head",
    )


class UpdateSection(Section):
    """How the model learns from the completions of a step."""

    minibatches: int = Field(
        1,
        ge=1,
        le=65_536,
        description="optimizer steps per pass over the completions; 1 is strictly on-policy",
    )
    epochs: int = Field(1, ge=1, le=1_000, description="passes over the completions of a step")
    micro_tokens: int = Field(
        8192,
        ge=1,
        le=2**30,
        description="tokens per forward pass, padding included; changes memory and speed only",
    )
    pack: bool = Field(
        False, description="put sequences end to end instead of padding them to one length"
    )
    logit_rows: int = Field(
        2048,
        ge=1,
        le=2**30,
        description="tokens whose logits are in memory at once; changes memory and speed only",
    )
    patience: int = Field(
        3,
        ge=1,
        le=10**6,
        description="the run stops after this many updates in a row without a finite gradient",
    )


class EvalSection(Section):
    """When and how the model is scored on problems that it is not trained on."""

    every: int = Field(
        0, ge=0, le=10**7, description="steps between evaluations on dev problems; 0 for none"
    )
    problems: int = Field(256, ge=1, le=100_000, description="distinct dev problems per evaluation")
    test_problems: int = Field(
        1024,
        ge=0,
        le=100_000,
        description="distinct test problems, scored before the first step and after the last; "
        "0 for none",
    )
    samples: int = Field(
        1, ge=1, le=16_384, description="completions per problem, which pass@k is computed from"
    )
    temperature: float = Field(
        0.0,
        ge=0,
        le=100,
        description="sampling temperature of evaluations; 0 for rollout.temperature",
    )
    max_tokens: int = Field(
        0,
        ge=0,
        le=2**20,
        description="most tokens in a completion of an evaluation; 0 for rollout.max_tokens",
    )
    greedy: bool = Field(False, description="score the single most likely completion too")

    @field_validator("temperature")
    @classmethod
    def _can_be_sampled(cls, temperature: float) -> float:
        """Reject what the command line rejects too: logits are divided by it."""
        if 0 < temperature < 0.01:
            raise ValueError("use 0 for rollout.temperature, or 0.01 or more")
        return temperature

    @property
    def dev_problems(self) -> int:
        """Distinct dev problems per evaluation; 0 if dev is never scored."""
        return self.problems if self.every else 0


class CurriculumSection(Section):
    """How the level of the problems follows the share of right answers, if the task has levels."""

    rule: Literal["none", "threshold", "linear"] = Field(
        "none",
        description="none (all of the task's problems), threshold (whole levels, after `window` "
        "steps each) or linear (a little after each step, with problems of two levels in between)",
    )
    up: float = Field(
        0.7, gt=0, le=1, description="share of right answers from which problems become harder"
    )
    down: float = Field(
        0.2, ge=0, lt=1, description="share of right answers up to which problems become easier"
    )
    window: int = Field(
        4, ge=1, le=10_000, description="steps that decide whether the level changes by one"
    )

    @model_validator(mode="after")
    def _is_a_range(self) -> CurriculumSection:
        if self.down >= self.up:
            raise ValueError(
                f"curriculum.down {self.down:g} is not below curriculum.up {self.up:g}: "
                "lower the first or raise the second"
            )
        return self


class CheckpointSection(Section):
    """When the run is saved, so that it can be resumed."""

    every: int = Field(
        0, ge=0, le=10**7, description="steps between checkpoints; 0 saves only at the end"
    )
    keep: int = Field(3, ge=1, le=10_000, description="how many of the newest checkpoints to keep")


class RunSection(Section):
    """The run's folder and what is recorded in it."""

    dir: str = Field("", description="the run's folder; empty for runs/RECIPE-ALGORITHM-SEED")
    rollouts_every: int = Field(
        10,
        ge=0,
        le=10**7,
        description="steps between rollouts that are written to rollouts.jsonl; 0 for none",
    )
    rollouts: int = Field(
        8, ge=1, le=100_000, description="rollouts written to rollouts.jsonl each time"
    )
    track: Literal["", "tensorboard", "wandb", "trackio"] = Field(
        "", description="where to send the metrics as well; empty for nowhere"
    )
    price: float = Field(
        0.0,
        ge=0,
        le=10**6,
        description="price of the machine in dollars per hour, to show what the run costs; "
        "0 shows no cost",
    )

    @field_validator("dir")
    @classmethod
    def _can_be_a_folder(cls, folder: str) -> str:
        """Expand `~` here, because the shell leaves it alone in --run.dir=~/x."""
        expanded = os.path.expanduser(folder)
        if re.search("[\0-\x1f\x7f\ud800-\udfff]", folder) or expanded.startswith("~"):
            raise ValueError("no folder can have this name: give its path")
        return expanded


class Config(Section):
    """Everything that decides a run. It is saved as config.toml, which can repeat the run."""

    seed: int = Field(
        0, ge=0, lt=2**32, description="seed of everything random, except how problems are split"
    )
    steps: int = Field(
        100, ge=1, le=10**7, description="training steps, each on a new batch of completions"
    )
    task: Named = Field(
        default_factory=lambda: Named(name="countdown"),
        description="The problems, and how answers are rewarded.",
    )
    algorithm: Named = Field(
        default_factory=lambda: Named(name="grpo"),
        description="How rewards become gradients.",
    )
    model: ModelSection = Field(default_factory=ModelSection)
    rollout: RolloutSection = Field(default_factory=RolloutSection)
    sampler: SamplerSection = Field(default_factory=SamplerSection)
    grading: GradingSection = Field(default_factory=GradingSection)
    curriculum: CurriculumSection = Field(default_factory=CurriculumSection)
    optimizer: OptimizerOptions = Field(
        default_factory=OptimizerOptions, description="The optimizer of the policy (AdamW)."
    )
    critic: OptimizerOptions = Field(
        default_factory=OptimizerOptions,
        description="The optimizer of the value model, for algorithms that have one.",
    )
    prm: OptimizerOptions = Field(
        default_factory=OptimizerOptions,
        description="The optimizer of the process reward model, for algorithms that have one.",
    )
    update: UpdateSection = Field(default_factory=UpdateSection)
    lora: LoraSection = Field(default_factory=LoraSection)
    eval: EvalSection = Field(default_factory=EvalSection)
    checkpoint: CheckpointSection = Field(default_factory=CheckpointSection)
    run: RunSection = Field(default_factory=RunSection)

    @property
    def eval_tokens(self) -> int:
        """Most tokens in a completion, in evaluations and wherever a trained model is used."""
        return self.eval.max_tokens or self.rollout.max_tokens

    @property
    def eval_temperature(self) -> float:
        """Sampling temperature in evaluations, and wherever a trained model is used."""
        return self.eval.temperature or self.rollout.temperature

    @model_validator(mode="after")
    def _minibatches_fit(self) -> Config:
        completions = self.rollout.prompts * self.rollout.samples
        if completions > MOST_ROWS:
            raise ValueError(
                f"rollout.prompts {self.rollout.prompts} times rollout.samples "
                f"{self.rollout.samples} is above {MOST_ROWS:,} completions per step: lower one"
            )

        if self.update.minibatches > completions:
            raise ValueError(
                f"update.minibatches {self.update.minibatches} is above the {completions} "
                "completions per step: lower it"
            )
        return self
