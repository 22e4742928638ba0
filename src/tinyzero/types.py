"""The nouns that travel between rooms, and the small protocols a newcomer implements.

Nothing here imports torch at run time: a task, a reward or a scripted sampler can be written and
tested without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from tinyzero.batching import Batch, Totals


Split = Literal["train", "dev", "test"]


SPLITS: tuple[Split, ...] = ("train", "dev", "test")


FinishReason = Literal["stop", "length", "abort"]
Failure = Literal["raised", "timeout"]


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
    task: str = ""
    """The name of the task that drew it, filled in by `load_task`."""


@dataclass(frozen=True)
class SamplingParams:
    """How to sample. Training demands the full distribution: top_p 1 and top_k 0."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 512
    stop: tuple[str, ...] = ()
    """A completion ends with the first of these; a `Player` gives those of its task."""
    banned: tuple[int, ...] = ()
    """Token ids that are never drawn, for experiments that force a model to go on; not for training."""
    n: int = 1
    """Completions that a Player asks for of each prompt. Samplers read their requests instead."""
    seed: int = 0
    """Keys the randomness, together with the group, the sample and the position."""


@dataclass(frozen=True)
class Request:
    """One prompt to complete, and the samples of a group that share it.

    `position` counts the tokens that these samples drew in earlier turns. It continues their
    randomness, so two turns with nothing between them draw the same tokens as one turn: the t-th
    new token draws at `position + t`. A stop string ends a turn only if it lies within that turn.
    Raises ValueError without a sample.
    Example: `Request((5, 6), group=3, samples=(0, 1))` asks for two completions of one prompt, and
    `Request((5, 6, 9), group=3, samples=(1,), position=1)` continues the second one after token 9.
    """

    prompt_ids: tuple[int, ...]
    group: int
    samples: tuple[int, ...] = (0,)
    position: int = 0

    def __post_init__(self) -> None:
        if not self.samples:
            raise ValueError(f"the request of group {self.group} names no sample: give it one")


def requests_for(
    prompts: Iterable[Sequence[int]], samples: int = 1, first_group: int = 0
) -> list[Request]:
    """First turns: samples 0 to `samples - 1` of each prompt; prompt i is group `first_group + i`."""
    numbers = tuple(range(samples))
    return [Request(tuple(p), group, numbers) for group, p in enumerate(prompts, first_group)]


@dataclass(frozen=True)
class Turn:
    """Columns `start` to `end` of a completion's tokens, written by the model or by the environment."""

    start: int
    end: int
    by_model: bool = True


@dataclass(frozen=True)
class Completion:
    """What a sampler made of one prompt; the three sequences are of equal length.

    `text` is what the model wrote up to and including the stop string. Nothing sampled is ever cut
    from `token_ids`. Tokens that an environment added between turns have `loss_mask` False; a
    completion of one turn has none. `turns` is empty for a completion of a single turn.
    """

    token_ids: tuple[int, ...]
    loss_mask: tuple[bool, ...]
    sampled_logprobs: tuple[float, ...]
    text: str
    finish_reason: FinishReason
    first_version: int = 0
    last_version: int = 0
    turns: tuple[Turn, ...] = ()

    @property
    def length(self) -> int:
        """Tokens that the model wrote."""
        if not self.turns:
            return len(self.token_ids)
        return sum(turn.end - turn.start for turn in self.turns if turn.by_model)


BY_VALUE: Any = object()
"""The default of `Reward.right`: see there how the value decides."""


@dataclass(frozen=True)
class Reward:
    """What one completion earned: `value` is trained on, `parts` are logged as `reward/NAME`.

    `right` is True, False or None. None marks a graded reward, such as a reward model's 2.3, which
    is neither right nor wrong. If it is not given, the part `answer` decides, if there is one: 1 is
    right and less is wrong. Without that part a value of exactly 1 is right, exactly 0 is wrong, and
    anything else is None. So a task that pays something for a wrong answer says so:
    `Reward(0.1, {"format": 1.0}, right=False)`.

    `failure` says why no reward could be computed: "raised" or "timeout". The value is then 0 and
    the answer is wrong, because the model chose to write it.
    """

    value: float
    parts: Mapping[str, float] = field(default_factory=dict)
    right: bool | None = BY_VALUE
    failure: Failure | None = None

    def __post_init__(self) -> None:
        if self.right is BY_VALUE:
            object.__setattr__(self, "right", self._right_by_value())

    def _right_by_value(self) -> bool | None:
        if "answer" in self.parts:
            return bool(self.parts["answer"] >= 1)
        return True if self.value == 1 else False if self.value == 0 else None


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


Done = Callable[[int, list[Completion]], None]
"""Takes the number of a request and its completions."""


class Sampler(Protocol):
    """Turns prompts into completions with the weights it was last given."""

    version: int
    decode: Callable[[Sequence[int]], str]
    shares_weights: bool
    """It reads the learner's own weights, or has none: `load_weights` is given nothing but the version."""

    def generate(
        self, requests: Sequence[Request], params: SamplingParams, done: Done | None = None
    ) -> list[list[Completion]]:
        """One completion for each sample of each request, in order, of up to `params.max_tokens` tokens.

        What a token becomes depends on its logits and on (`params.seed`, group, sample, position)
        alone, so the other requests do not matter. `done(i, completions)` is called once for each
        request i as soon as all of its samples have ended, in whatever order that is, so that grading
        need not wait for the rest.
        """
        ...

    def stream(self, prompt: Sequence[int], params: SamplingParams) -> Iterator[str]:
        """The first completion of one prompt as text that grows, token by token."""
        ...

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Take new weights. `version` must be larger than the one held, else ValueError."""
        ...


class Scorer(Protocol):
    """A model as `annotate` sees it."""

    updates: int
    """Optimizer steps it takes on a batch; above 1 the ratio to the old logprobs matters."""

    batches: int
    """Batches it was trained on."""

    def score(self, batch: Batch) -> torch.Tensor:
        """Logprobs or values (B, T) of the response tokens, without gradient."""
        ...


class Learner(Scorer, Protocol):
    """One trained (or frozen) model: the policy, the critic, the reference or a reward model.

    It is constructed with its loss. `update` may raise NonFiniteError.
    """

    trained: bool
    """False for a frozen model, which only scores."""

    device: torch.device
    """What it computes on."""

    def update(self, batch: Batch, totals: Sequence[Totals] | None = None) -> dict[str, float]:
        """Take `updates` optimizer steps on `batch`; returns averaged metrics.

        `totals` are those of each minibatch if these rows are only a part of them, as on one of
        several ranks; None if the batch is whole.
        """
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

    def save(self, folder: Path) -> None:
        """Write everything `update` depends on into `folder`: tensors and counters, no code."""
        ...

    def load(self, folder: Path) -> None:
        """The inverse of `save`. Raises UserError if the folder does not hold this learner's state."""
        ...


@dataclass(frozen=True)
class Lesson:
    """What `annotate` decided about the models, beside the batch.

    Example: a critic that warms up is trained alone: `Lesson(skip=("policy",))`.
    """

    skip: tuple[str, ...] = ()
    """Roles that are not to be trained on this batch."""

    trained: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Roles that `annotate` has trained on this batch itself, with their metrics."""


class LossFunction(Protocol):
    """(outputs, batch, totals) -> (scalar to minimise, {metric: (sum, count)})."""

    def __call__(
        self, outputs: Mapping[str, torch.Tensor], batch: Batch, totals: Totals
    ) -> tuple[torch.Tensor, dict[str, tuple[torch.Tensor, torch.Tensor]]]: ...
