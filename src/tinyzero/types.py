"""The nouns that travel between rooms, and the small protocols a newcomer implements.

Nothing here imports torch at run time: a task, a reward or a scripted sampler can be written and
tested without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch

    from tinyzero.batching import Batch, Totals


Split = Literal["train", "dev", "test"]


SPLITS: tuple[Split, ...] = ("train", "dev", "test")


FinishReason = Literal["stop", "length", "abort"]


Message = Mapping[str, str]


Prompt = str | Sequence[Message]


@dataclass(frozen=True)
class Problem:
    """One problem: a pure function of (data seed, split, index).

    `fields` are what JSON can hold. `key` names what must not cross splits (for Countdown the sorted numbers);
    problems that share a key are one cluster when an interval is computed.
    Example: `Problem("3,5,12=24", {"numbers": [12, 3, 5], "target": 24}, "train", "3,5,12")`.
    """

    id: str
    fields: Mapping[str, Any]
    split: Split
    key: str


@dataclass(frozen=True)
class SamplingParams:
    """How to sample. Training demands the full distribution: top_p 1 and top_k 0."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 512
    stop: tuple[str, ...] = ("</answer>",)
    banned: tuple[int, ...] = ()
    """Token ids that are never drawn, for experiments that force a model to go on; not for training."""
    n: int = 1
    """Completions a prompt."""
    seed: int = 0
    """Keys the randomness, together with the group and the sample."""


@dataclass(frozen=True)
class Completion:
    """What a sampler made of one prompt; the five sequences are of equal length.

    `text` decodes `token_ids` up to and including the stop string; nothing sampled is ever cut
    from `token_ids`, and nothing unsampled is appended.
    """

    token_ids: tuple[int, ...]
    loss_mask: tuple[bool, ...]
    sampled_logprobs: tuple[float, ...]
    text: str
    finish_reason: FinishReason
    first_version: int = 0
    last_version: int = 0


@dataclass(frozen=True)
class Reward:
    """`value` is what is trained on; `parts` are logged by name, each as `reward/NAME`."""

    value: float
    parts: Mapping[str, float] = field(default_factory=dict)

    @property
    def right(self) -> bool:
        """Whether the answer was right: the part `answer`, or the whole reward where there is no such part."""
        return self.parts.get("answer", self.value) >= 1.0


@dataclass(frozen=True)
class Rollout:
    """A prompt, its completion and its reward. `group` is the number of the draw, not of the text."""

    problem: Problem
    prompt_ids: tuple[int, ...]
    completion: Completion
    reward: Reward
    group: int


Group = list[Rollout]


@dataclass(frozen=True)
class EvalResult:
    """One evaluation: flat `metrics` as written to eval.jsonl, and the rollouts behind them."""

    metrics: Mapping[str, Any]
    groups: Sequence[Group]


@runtime_checkable
class Task(Protocol):
    """A family of problems and the check of an answer. No torch, no tokens: text only."""

    def problem(self, split: Split, index: int) -> Problem:
        """The problem at `index` of `split`; the same arguments give the same problem for ever."""
        ...

    def prompt(self, problem: Problem, template: str) -> Prompt:
        """The text (or chat messages) that poses `problem`. Raises `UserError` on a template it lacks."""
        ...

    def reward(self, problem: Problem, text: str) -> Reward:
        """Judge a completion's text. Must never raise, run long, or run what the model wrote."""
        ...

    def solution(self, problem: Problem) -> str:
        """A full completion that scores 1.0: the grader is tested against it."""
        ...


@runtime_checkable
class Posable(Protocol):
    """What a task offers besides so that a person can pose its problems."""

    rules: str
    """One sentence that tells a newcomer what is asked."""

    def pose(self, line: str) -> Problem:
        """The problem that a person typed. Raises `UserError` where it is none, or one without a solution."""
        ...

    def line(self, problem: Problem) -> str:
        """What to type for `problem`: `pose` reads it back."""
        ...


class Sampler(Protocol):
    """Turns prompts into completions with the weights it was last given."""

    version: int

    def generate(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, first_group: int = 0
    ) -> list[list[Completion]]:
        """`params.n` completions for each prompt, in order; prompt i is group `first_group + i`, which
        keys its randomness together with `params.seed`."""
        ...

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Take new weights. `version` must be larger than the one held, else ValueError."""
        ...


class Learner(Protocol):
    """One trained (or frozen) model: the policy, the critic, the reference or a reward model."""

    batches: int
    """Batches it was trained on."""

    def score(self, batch: Batch) -> torch.Tensor:
        """Logprobs or values (B, T) of the response tokens, without gradient."""
        ...

    def update(
        self, batch: Batch, loss: LossFunction, minibatches: int = 1, epochs: int = 1
    ) -> dict[str, float]:
        """Take `minibatches * epochs` optimizer steps on `batch`; returns averaged metrics."""
        ...

    def skip(self, updates: int) -> None:
        """Count `updates` that were not taken, so that a schedule goes on with the run."""
        ...

    def named_weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Weights under their Hugging Face names."""
        ...

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Take over another learner's `named_weights`."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class LossFunction(Protocol):
    """(outputs, batch, totals) -> (scalar to minimise, {metric: (sum, count)})."""

    def __call__(
        self, outputs: Mapping[str, torch.Tensor], batch: Batch, totals: Totals
    ) -> tuple[torch.Tensor, dict[str, tuple[torch.Tensor, torch.Tensor]]]: ...


class Algorithm(Protocol):
    """How rewards become gradients. Holds no state: what is learned lives in learners.

    `roles` names the models it needs besides the policy: any of "reference", "critic" and "prm".
    """

    roles: tuple[str, ...]
    min_samples: int
    """Fewest completions a prompt."""

    def keep(self, groups: list[Group]) -> list[Group]:
        """The groups worth training on; `collect` refills what is dropped, within a cap."""
        ...

    def annotate(self, batch: Batch, models: Mapping[str, Learner]) -> Batch:
        """Fill in advantages (B, T) and whatever the losses need (old or reference logprobs, returns)."""
        ...

    def loss(
        self, role: str, outputs: Mapping[str, torch.Tensor], batch: Batch, totals: Totals
    ) -> tuple[torch.Tensor, dict[str, tuple[torch.Tensor, torch.Tensor]]]:
        """The scalar that `role`'s learner minimises, already divided by global totals."""
        ...
