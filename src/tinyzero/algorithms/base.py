"""The base class of algorithms, with a default for everything but the advantages and the loss.

An algorithm must define `annotate` and `loss`. A class that has these two methods and no base class
is an algorithm too: `load_algorithm` adds the defaults. `preset` makes an algorithm from another
one by changing the defaults of its options.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, create_model

from tinyzero.types import Group, Lesson, Scorer

if TYPE_CHECKING:
    from torch import Tensor

    from tinyzero.batching import Batch, Totals

Metrics = dict[str, tuple["Tensor", "Tensor"]]
"""{name: (sum, count)}; the mean over a whole step is the quotient of the two totals."""


class Algorithm:
    """How rewards become gradients. It has no state: everything that is learned is in the models.

    One step of training calls `keep`, then `annotate`, then `loss` for every micro-batch.
    A complete example is examples/my_algorithm.py.
    """

    Options: ClassVar[type[BaseModel] | None] = None
    """A pydantic model. Its fields are the algorithm's options: `--algorithm.NAME value`."""

    roles: tuple[str, ...] = ()
    """The models it needs besides the policy: any of "reference", "critic" and "prm"."""

    min_samples: int = 1
    """The fewest completions per prompt."""

    refresh: int = 0
    """Number of steps after which the policy becomes the new reference; 0 means never."""

    drops_groups: bool = False
    """Whether `keep` usually drops groups, so that more are sampled. Cost estimates use it."""

    for_other_samplers: Mapping[str, Any] = {}
    """Options that apply if the sampler computes other probabilities than the learner.

    They are ignored if the user has set one of them.
    """

    def __init__(self, options: Any = None) -> None:
        self.options: Any = self.Options() if options is None and self.Options else options

    def check(self, max_tokens: int) -> None:
        """Raise UserError if the options make no sense for completions of `max_tokens` tokens."""

    def scorers(self, updates: int) -> tuple[str, ...]:
        """The models that `annotate` asks to score a batch on which `updates` steps are taken.

        By default these are all models other than the policy. If there are several steps the policy
        scores the batch too, because its ratio to the policy before the first step is needed.
        """
        return ("policy", *self.roles) if updates > 1 else self.roles

    def keep(self, groups: list[Group]) -> list[Group]:
        """The groups to train on. Those that are left out are replaced, up to `rollout.refills`."""
        return groups

    def annotate(self, batch: Batch, models: Mapping[str, Scorer]) -> tuple[Batch, Lesson]:
        """Add advantages (B, T), and whatever else the losses need, to the batch.

        `models` holds the policy and the models in `roles`. The Lesson names models that are not to
        be trained on this batch; `Lesson()` trains all of them.
        """
        raise NotImplementedError

    def loss(
        self, role: str, outputs: Mapping[str, Tensor], batch: Batch, totals: Totals
    ) -> tuple[Tensor, Metrics]:
        """The scalar that the model called `role` minimises, and metrics as {name: (sum, count)}.

        `batch` is one micro-batch. The scalar is its share of the loss of the whole step: divide by
        the `totals` of the step, not by the number of tokens or rows in `batch`.
        """
        raise NotImplementedError


Kind = TypeVar("Kind", bound=Algorithm)


def preset(name: str, parent: type[Kind], **constants: Any) -> type[Kind]:
    """An algorithm that is `parent` with other default values for some of its options.

    The bounds and descriptions of the options are inherited. The docstring of the calling module
    describes the preset.

    Example: `ALGORITHM = preset("DAPO", GRPO, filter="flat", clip_high=0.28)`.
    """
    assert parent.Options is not None
    known = parent.Options.model_fields
    changed: dict[str, Any] = {
        option: (Annotated[known[option].annotation, known[option]], value)
        for option, value in constants.items()
    }

    module = sys._getframe(1).f_globals["__name__"]
    options = create_model(f"{name}Options", __base__=parent.Options, __module__=module, **changed)
    algorithm: type[Kind] = type(name, (parent,), {"Options": options, "__module__": module})
    return algorithm
