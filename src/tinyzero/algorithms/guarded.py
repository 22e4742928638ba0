"""An algorithm behind its guard: complete, named, and unable to take the run down.

`load_algorithm` wraps every algorithm in a `GuardedAlgorithm`, so nothing else guards a user's
code. A class with only `annotate` and `loss` gets the defaults of `Algorithm` for the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tinyzero.algorithms.base import Algorithm, Metrics
from tinyzero.errors import UserError, asking
from tinyzero.types import Group, Lesson, Scorer

if TYPE_CHECKING:
    from torch import Tensor

    from tinyzero.batching import Batch, Totals


class GuardedAlgorithm(Algorithm):
    """The algorithm `owner` called `name`. What it raises becomes a UserError that names its line."""

    def __init__(self, owner: Any, name: str, options: Mapping[str, Any]) -> None:
        self.owner, self.name, self.given = owner, name, dict(options)
        self.options = getattr(owner, "options", None)
        with asking(owner):
            self.roles = tuple(self._attribute("roles"))
            self.min_samples = int(self._attribute("min_samples"))
            self.refresh = int(self._attribute("refresh"))
            self.for_other_samplers = dict(self._attribute("for_other_samplers"))
            self.drops_groups = bool(self._attribute("drops_groups"))

    def __reduce__(self) -> tuple[Any, ...]:
        """It travels to another process as its name and options, and is loaded there."""
        from tinyzero.algorithms import load_algorithm

        return load_algorithm, (self.name, self.given)

    def check(self, max_tokens: int) -> None:
        with asking(self.owner):
            self._method("check")(max_tokens)

    def scorers(self, updates: int) -> tuple[str, ...]:
        with asking(self.owner):
            if hasattr(self.owner, "scorers"):
                return tuple(self.owner.scorers(updates))
            return super().scorers(updates)

    def keep(self, groups: list[Group]) -> list[Group]:
        with asking(self.owner):
            return list(self._method("keep")(groups))

    def annotate(self, batch: Batch, models: Mapping[str, Scorer]) -> tuple[Batch, Lesson]:
        with asking(self.owner):
            found = self.owner.annotate(batch, models)
        if not (isinstance(found, tuple) and len(found) == 2 and isinstance(found[1], Lesson)):
            raise UserError(
                f"annotate of {self.name} gives {type(found).__name__}: return (batch, Lesson())"
            )
        return found

    def loss(
        self, role: str, outputs: Mapping[str, Tensor], batch: Batch, totals: Totals
    ) -> tuple[Tensor, Metrics]:
        with asking(self.owner):
            scalar, metrics = self.owner.loss(role, outputs, batch, totals)
            learns = any(output.requires_grad for output in outputs.values())
            if scalar.ndim or (learns and not scalar.requires_grad):
                raise UserError(
                    f"the loss of {self.name} for the {role} is no scalar with a gradient: "
                    "return a sum over tokens of what depends on the outputs"
                )
            return scalar, dict(metrics)

    def _attribute(self, name: str) -> Any:
        """The owner's own, or the default of `Algorithm`."""
        return getattr(self.owner, name, getattr(Algorithm, name))

    def _method(self, name: str) -> Any:
        """The owner's own method, or the default of `Algorithm`."""
        return getattr(self.owner, name, None) or getattr(Algorithm, name).__get__(self.owner)
