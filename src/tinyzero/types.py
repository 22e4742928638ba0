"""The data types that the parts of TinyZero exchange, and the protocols that you may implement.

Nothing here imports torch at run time, so a task, a reward or a scripted sampler can be written and
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
"""A chat message, such as `{"role": "user", "content": "What is 6 x 7?"}`."""


Prompt = str | Sequence[Message]


@dataclass(frozen=True)
class Problem:
    """One problem of a task: a pure function of the task's options, the split and an index.

    `fields` holds what the problem is made of, as JSON can hold it. `key` names what must not occur
    in two splits, such as the sorted numbers of a Countdown problem; problems that share a key form
    one cluster when an interval is computed.

    >>> Problem("3,5,12=24", {"numbers": [12, 3, 5], "target": 24}, "train", key="3,5,12").split
    'train'
    """

    id: str
    fields: Mapping[str, Any]
    split: Split
    key: str
    task: str = ""
    """The name of the task that drew it; `load_task` fills it in."""


@dataclass(frozen=True)
class SamplingParams:
    """How to sample. Training needs the full distribution: `top_p` 1 and `top_k` 0."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 512
    stop: tuple[str, ...] = ()
    """A completion ends with the first of these strings; a `Player` sets those of its task."""
    banned: tuple[int, ...] = ()
    """Token ids never drawn, for experiments that force a model to continue; not for training."""
    n: int = 1
    """Completions per prompt that a `Player` asks for. Samplers read their requests instead."""
    seed: int = 0
    """Determines the randomness, together with the group, the sample and the position."""


@dataclass(frozen=True)
class Request:
    """One prompt to complete, and which samples of its group to draw.

    `position` counts the tokens that these samples drew in earlier turns. The t-th new token draws
    its randomness at `position + t`, so two turns with nothing between them draw the same tokens as
    one long turn. A stop string ends a turn only if it lies within that turn. `max_tokens` allows
    these samples fewer new tokens than the params do. Raises ValueError if there is no sample.

    Example: `Request((5, 6), group=3, samples=(0, 1))` asks for two completions of one prompt.
    `Request((5, 6, 9), group=3, samples=(1,), position=1)` continues the second one after token 9.
    """

    prompt_ids: tuple[int, ...]
    group: int
    samples: tuple[int, ...] = (0,)
    position: int = 0
    max_tokens: int | None = None

    def limit(self, params: SamplingParams) -> int:
        """The most new tokens that each of these samples may have.

        >>> Request((5, 6), group=3, max_tokens=2).limit(SamplingParams(max_tokens=8))
        2
        """
        if self.max_tokens is None:
            return params.max_tokens
        return min(self.max_tokens, params.max_tokens)

    def __post_init__(self) -> None:
        if not self.samples:
            raise ValueError(f"the request of group {self.group} names no sample: give it one")


def requests_for(
    prompts: Iterable[Sequence[int]], samples: int = 1, first_group: int = 0
) -> list[Request]:
    """First turns: samples 0 to `samples - 1` of each prompt; prompt i is group `first_group + i`.

    >>> requests_for([[5, 6], [7]], samples=2)[1]
    Request(prompt_ids=(7,), group=1, samples=(0, 1), position=0, max_tokens=None)
    """
    numbers = tuple(range(samples))
    return [
        Request(tuple(prompt), group, numbers) for group, prompt in enumerate(prompts, first_group)
    ]


@dataclass(frozen=True)
class Turn:
    """Tokens `start` to `end` (excluded) of a completion, by the model or the environment."""

    start: int
    end: int
    by_model: bool = True
    text: str = ""
    """What was said, without the token that ended it and without what a chat template adds."""


@dataclass(frozen=True)
class Completion:
    """What a sampler wrote for one prompt.

    `token_ids`, `loss_mask` and `sampled_logprobs` have the same length. `text` is what the model
    wrote, up to and including the stop string; nothing that was sampled is cut from `token_ids`.
    `loss_mask` is False for tokens that an environment added between turns. `turns` is empty for a
    completion of a single turn. The versions are those of the weights that drew the first and the
    last token.

    Example: the model wrote two tokens, a tool answered with one, and the model wrote a last one.

    >>> completion = Completion(
    ...     token_ids=(5, 6, 7, 8),
    ...     loss_mask=(True, True, False, True),
    ...     sampled_logprobs=(-0.1, -0.7, 0.0, -0.2),
    ...     text="6*7= ok",
    ...     finish_reason="stop",
    ...     turns=(
    ...         Turn(0, 2, text="6*7="),
    ...         Turn(2, 3, by_model=False, text="42"),
    ...         Turn(3, 4, text=" ok"),
    ...     ),
    ... )
    >>> completion.length, completion.environment_length, completion.transcript
    (3, 1, '6*7=42 ok')
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
        """Number of tokens that the model wrote."""
        if not self.turns:
            return len(self.token_ids)
        return sum(turn.end - turn.start for turn in self.turns if turn.by_model)

    @property
    def environment_length(self) -> int:
        """Number of tokens that the environment wrote between turns."""
        return len(self.token_ids) - self.length

    @property
    def transcript(self) -> str:
        """What the model and the environment wrote, in order. Only `text` may be rewarded."""
        return "".join(turn.text for turn in self.turns) if self.turns else self.text


BY_VALUE: Any = object()
"""The default of `Reward.right`: the value decides, as the docstring of `Reward` describes."""


@dataclass(frozen=True)
class Reward:
    """What one completion earned: `value` is trained on, `parts` are logged as `reward/NAME`.

    `right` says whether the answer is right. None marks a graded reward, such as a reward model's
    2.3, which is neither right nor wrong. If `right` is not given, it is decided like this:

    1. If there is a part `answer`, 1 is right and anything less is wrong.
    2. Otherwise a value of exactly 1 is right, exactly 0 is wrong, and anything else is None.

    So a task that gives a wrong answer some reward must pass `right=False`.

    `failure` says why no reward could be computed: "raised" or "timeout". The value is then 0 and
    the answer counts as wrong, because the model chose to write it.

    `turns` divides the value among the turns of the model, in order, and adds up to it. It is empty
    if everything is earned at the end. Algorithms with a critic use it, the others only the value.

    >>> Reward(1.0).right, Reward(0.0).right, Reward(2.3).right
    (True, False, None)
    >>> Reward(0.1, {"format": 1.0}, right=False).right
    False
    """

    value: float
    parts: Mapping[str, float] = field(default_factory=dict)
    right: bool | None = BY_VALUE
    failure: Failure | None = None
    turns: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.right is BY_VALUE:
            object.__setattr__(self, "right", self._right_by_value())

    def _right_by_value(self) -> bool | None:
        if "answer" in self.parts:
            return bool(self.parts["answer"] >= 1)
        if self.value == 1:
            return True
        return False if self.value == 0 else None


@dataclass(frozen=True)
class Rollout:
    """A problem, the prompt that posed it, one completion and its reward.

    `group` is the number of the draw: the completions of one draw share it, and a problem that is
    drawn twice gets two numbers.

    >>> problem = Problem("6x7", {"a": 6, "b": 7}, "train", key="6,7")
    >>> completion = Completion((9, 2), (True, True), (-0.1, -0.3), text="42", finish_reason="stop")
    >>> rollout = Rollout(problem, (4, 5), completion, Reward(1.0), group=0)
    >>> rollout.reward.right
    True
    """

    problem: Problem
    prompt_ids: tuple[int, ...]
    completion: Completion
    reward: Reward
    group: int


Group = list[Rollout]
"""The rollouts of one draw of a problem."""


@dataclass(frozen=True)
class EvalResult:
    """One evaluation: flat `metrics`, as in eval.jsonl, and the rollouts behind them."""

    metrics: Mapping[str, Any]
    groups: Sequence[Group]


Done = Callable[[int, list[Completion]], None]
"""Called with the number of a request and its completions."""


class Sampler(Protocol):
    """Turns prompts into completions, with the weights it was last given."""

    version: int
    decode: Callable[[Sequence[int]], str]
    shares_weights: bool
    """True if it has no weights of its own. Then `load_weights` gets only a version."""

    def generate(
        self, requests: Sequence[Request], params: SamplingParams, done: Done | None = None
    ) -> list[list[Completion]]:
        """Completions of at most `params.max_tokens` tokens: one per sample of each request.

        Requests and samples are answered in order. What a token becomes depends only on its logits
        and on (`params.seed`, group, sample, position), so the other requests do not matter.
        `done(i, completions)` is called once for each request i as soon as all of its samples have
        ended, in any order, so that grading need not wait for the rest.
        """
        ...

    def stream(self, prompt: Sequence[int], params: SamplingParams) -> Iterator[str]:
        """The first completion of one prompt as text that grows, token by token."""
        ...

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Take new weights. Raises ValueError unless `version` is larger than the one held."""
        ...


class Scorer(Protocol):
    """The part of a model that an algorithm's `annotate` may use."""

    updates: int
    """Optimizer steps it takes per batch; above 1, the ratio to the old logprobs matters."""

    batches: int
    """Batches it was trained on so far."""

    def score(self, batch: Batch) -> torch.Tensor:
        """Logprobs or values (B, T) of the response tokens, without gradient."""
        ...


class Learner(Scorer, Protocol):
    """One trained (or frozen) model: the policy, the critic, the reference or a reward model.

    It is made with its loss. `update` may raise NonFiniteError.
    """

    trained: bool
    """False for a frozen model, which only scores."""

    device: torch.device
    """The device it computes on."""

    def update(self, batch: Batch, totals: Sequence[Totals] | None = None) -> dict[str, float]:
        """Take `updates` optimizer steps on `batch`; returns averaged metrics.

        `totals` has the totals of each minibatch if this batch is only a part of it, as on one of
        several ranks. None means that the batch is complete.
        """
        ...

    def skip(self, updates: int) -> None:
        """Count `updates` that were not taken, so that a schedule stays in step with the run."""
        ...

    def named_weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Weights with their Hugging Face names."""
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
        """The inverse of `save`. Raises UserError if the folder holds another learner's state."""
        ...


@dataclass(frozen=True)
class Lesson:
    """What `annotate` decided about training the models on a batch.

    Example: while a critic warms up, the policy waits.

    >>> Lesson(skip=("policy",)).skip
    ('policy',)
    """

    skip: tuple[str, ...] = ()
    """Roles that are not trained on this batch."""

    trained: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Roles that `annotate` has already trained on this batch itself, with their metrics."""


class LossFunction(Protocol):
    """(outputs, batch, totals) -> (scalar to minimise, {metric: (sum, count)})."""

    def __call__(
        self, outputs: Mapping[str, torch.Tensor], batch: Batch, totals: Totals
    ) -> tuple[torch.Tensor, dict[str, tuple[torch.Tensor, torch.Tensor]]]: ...
