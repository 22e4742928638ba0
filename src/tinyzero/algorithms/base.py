"""What an algorithm may define: one base class with defaults, and presets of one.

An algorithm needs `annotate` and `loss`; everything else has a default. A class with these two
methods and no base class is an algorithm too: `load_algorithm` fills in the rest.
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


class Algorithm:
    """How rewards become gradients. Holds no state: what is learned lives in learners.

    Example: see examples/my_algorithm.py.
    """

    Options: ClassVar[type[BaseModel] | None] = None
    """A pydantic model; its fields are options of the command line, as `--algorithm.NAME value`."""

    roles: tuple[str, ...] = ()
    """The models it needs besides the policy: any of "reference", "critic" and "prm"."""

    min_samples: int = 1
    """Fewest completions a prompt."""

    refresh: int = 0
    """Steps after which the policy becomes the reference; 0 for never."""

    drops_groups: bool = False
    """Whether `keep` is expected to drop groups, so that more are drawn: for estimates of cost."""

    for_other_samplers: Mapping[str, Any] = {}
    """Options that a run takes if its sampler is not the learner itself and the user chose none of them."""

    def __init__(self, options: Any = None) -> None:
        self.options: Any = self.Options() if options is None and self.Options else options

    def check(self, max_tokens: int) -> None:
        """Raise UserError if an option does not go with answers of at most `max_tokens` tokens."""

    def scorers(self, updates: int) -> tuple[str, ...]:
        """The models that `annotate` asks to score a batch of which `updates` steps are taken.

        By default every other model, and the policy if there are several steps.
        """
        return ("policy", *self.roles) if updates > 1 else self.roles

    def keep(self, groups: list[Group]) -> list[Group]:
        """The groups worth training on; what is dropped is drawn anew, within a cap."""
        return groups

    def annotate(self, batch: Batch, models: Mapping[str, Scorer]) -> tuple[Batch, Lesson]:
        """Fill in advantages (B, T) and whatever the losses need (old logprobs, returns).

        The Lesson says which models are not to be trained on this batch; `Lesson()` is all of them.
        """
        raise NotImplementedError

    def loss(
        self, role: str, outputs: Mapping[str, Tensor], batch: Batch, totals: Totals
    ) -> tuple[Tensor, Metrics]:
        """The scalar that `role`'s learner minimises, and {metric: (sum, count)}.

        It is this micro-batch's share of the step's loss: divide by `totals`, not by what is here.
        """
        raise NotImplementedError


Kind = TypeVar("Kind", bound=Algorithm)


def preset(name: str, parent: type[Kind], **constants: Any) -> type[Kind]:
    """`parent` with other defaults. Bounds and descriptions of its options are inherited.

    Example: `ALGORITHM = preset("DAPO", GRPO, filter="flat", clip_high=0.28)`.
    """
    assert parent.Options is not None
    known = parent.Options.model_fields
    changed: dict[str, Any] = {
        option: (Annotated[known[option].annotation, known[option]], value)
        for option, value in constants.items()
    }
    module = sys._getframe(1).f_globals["__name__"]  # whose docstring describes the preset
    options = create_model(f"{name}Options", __base__=parent.Options, __module__=module, **changed)
    made: type[Kind] = type(name, (parent,), {"Options": options, "__module__": module})
    return made
