"""The wrapper around every algorithm, which reports mistakes in it as one line.

`load_algorithm` adds it. An algorithm may raise anything or return the wrong thing; the wrapper
turns this into a UserError that names the file and line, so no other code has to. It also adds the
defaults of `Algorithm` to a class that only has `annotate` and `loss`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tinyzero.algorithms.base import Algorithm, Metrics
from tinyzero.errors import UserError, guarding
from tinyzero.types import Group, Lesson, Scorer

if TYPE_CHECKING:
    from torch import Tensor

    from tinyzero.batching import Batch, Totals


class GuardedAlgorithm(Algorithm):
    """The algorithm `owner`, loaded as `name`. Its exceptions become UserErrors."""

    def __init__(self, owner: Any, name: str, options: Mapping[str, Any]) -> None:
        """`options` are those that the user has set; other processes load the algorithm by them."""
        self.owner = owner
        self.name = name
        self.given = dict(options)
        self.options = getattr(owner, "options", None)

        with guarding(owner):
            self.roles = tuple(self._attribute("roles"))
            self.min_samples = int(self._attribute("min_samples"))
            self.refresh = int(self._attribute("refresh"))
            self.for_other_samplers = dict(self._attribute("for_other_samplers"))
            self.drops_groups = bool(self._attribute("drops_groups"))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the name and the options: another process loads the algorithm from them."""
        from tinyzero.algorithms import load_algorithm

        return load_algorithm, (self.name, self.given)

    def check(self, max_tokens: int) -> None:
        with guarding(self.owner):
            self._method("check")(max_tokens)

    def scorers(self, updates: int) -> tuple[str, ...]:
        with guarding(self.owner):
            if hasattr(self.owner, "scorers"):
                return tuple(self.owner.scorers(updates))
            return super().scorers(updates)

    def keep(self, groups: list[Group]) -> list[Group]:
        with guarding(self.owner):
            return list(self._method("keep")(groups))

    def annotate(self, batch: Batch, models: Mapping[str, Scorer]) -> tuple[Batch, Lesson]:
        with guarding(self.owner):
            result: tuple[Batch, Lesson] = self.owner.annotate(batch, models)

        is_pair = isinstance(result, tuple) and len(result) == 2
        if not (is_pair and isinstance(result[1], Lesson)):
            raise UserError(
                f"annotate of {self.name} returns {type(result).__name__}: "
                "return (batch, Lesson()) instead"
            )
        return result

    def loss(
        self, role: str, outputs: Mapping[str, Tensor], batch: Batch, totals: Totals
    ) -> tuple[Tensor, Metrics]:
        with guarding(self.owner):
            scalar, metrics = self.owner.loss(role, outputs, batch, totals)

            is_training = any(output.requires_grad for output in outputs.values())
            if scalar.ndim or (is_training and not scalar.requires_grad):
                raise UserError(
                    f"the loss of {self.name} for the {role} is not a scalar with a gradient: "
                    "return a sum over tokens that depends on the outputs"
                )
            return scalar, dict(metrics)

    def _attribute(self, name: str) -> Any:
        """The owner's attribute, or the default of `Algorithm` if it has none."""
        return getattr(self.owner, name, getattr(Algorithm, name))

    def _method(self, name: str) -> Any:
        """The owner's method, or the default of `Algorithm` if it has none."""
        return getattr(self.owner, name, None) or getattr(Algorithm, name).__get__(self.owner)
