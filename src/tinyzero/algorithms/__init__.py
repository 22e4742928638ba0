"""Algorithms by name. Each is one short file beside this one; a user's own is `path/file.py:Name`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinyzero.plugins import load_object, suggest, validate
from tinyzero.types import Algorithm, UserError

ALGORITHMS = {
    "grpo": "tinyzero.algorithms.grpo:GRPO",
    "ppo": "tinyzero.algorithms.ppo:PPO",
}


def load_algorithm(name: str, options: Mapping[str, Any] | None = None) -> Algorithm:
    """The algorithm called `name` (a key of ALGORITHMS, `package.module:Name` or `path/file.py:Name`).

    Raises UserError on an unknown name, a class that is no algorithm, or a wrong option.
    """
    if name not in ALGORITHMS and ":" not in name:
        raise UserError(f"unknown algorithm {name!r}{suggest(name, ALGORITHMS)}")
    kind = load_object(ALGORITHMS.get(name, name))
    missing = [m for m in ("Options", "min_samples", "keep", "annotate", "loss") if not hasattr(kind, m)]
    if missing:
        raise UserError(
            f"algorithm {name} lacks {', '.join(missing)}: it needs Options, min_samples, keep, annotate and loss"
        )
    algorithm: Algorithm = kind(validate(kind.Options, options or {}, "algorithm"))
    if not hasattr(algorithm, "roles"):
        raise UserError(f"algorithm {name} lacks roles: the names of the models it needs besides the policy, or ()")
    return algorithm
