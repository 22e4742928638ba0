"""Algorithms by name: the files beside this one. A user's own is `path/file.py:Name`.

A name is its file's, with `++` for `_pp`: `reinforce++-baseline` is reinforce_pp_baseline.py.
Each file ends with `ALGORITHM = ...`, so a new one is one new file.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from tinyzero.algorithms.base import Algorithm, preset
from tinyzero.algorithms.guarded import GuardedAlgorithm
from tinyzero.errors import UserError, building
from tinyzero.registry import Registry, validate

__all__ = ["NAMES", "REGISTRY", "Algorithm", "composition", "load_algorithm", "losses", "preset"]

PARTS = ("advantages", "base", "guarded", "losses", "options", "stages")
REGISTRY = Registry("algorithm", __name__, "ALGORITHM", PARTS, ("annotate", "loss"))
NAMES = REGISTRY.names()


def load_algorithm(name: str, options: Mapping[str, Any] | None = None) -> GuardedAlgorithm:
    """The algorithm called `name` (one of NAMES, `package.module:Name` or `path/file.py:Name`).

    Raises UserError on an unknown name, a class that is no algorithm, or a wrong option.
    """
    kind = REGISTRY.find(name)
    model = getattr(kind, "Options", None)
    if model is None and options:
        unknown = ", ".join(f"algorithm.{key}" for key in options)
        raise UserError(f"algorithm {name} takes no options: remove {unknown}")
    given = [] if model is None else [validate(model, options or {}, "algorithm")]
    with building(f"algorithm {name}", given):
        owner = kind(*given)
    return GuardedAlgorithm(owner, name, options or {})


STAGES = {  # in the order in which they act; the first option of a stage switches it on
    "filter": ("filter", "band_low", "band_high"),
    "length": ("overlong", "overlong_penalty"),
    "KL in the reward": ("kl_in_reward",),
    "reward model": ("beta", "norm", "update"),
    "weight": ("correction", "correction_level", "correction_cap"),
    "loss": ("objective", "ratio", "clip_low", "clip_high", "dual_clip", "aggregate"),
    "KL loss": ("kl", "kl_estimator"),
    "reference": ("refresh",),
    "entropy": ("entropy",),
    "lambda by length": ("lam_alpha",),
    "critic": ("value_clip", "value_warmup", "critic_lam"),
}


def composition(name: str) -> tuple[str, str, dict[str, str]]:
    """An algorithm's title with its source, its formulas, and what it does at each stage: options with their defaults.

    Stages that are off and options without effect are left out; options of no stage are the advantage's.
    """
    kind = REGISTRY.find(name)
    algorithm: Any = kind(kind.Options())
    given = algorithm.options.model_dump(exclude_none=True)
    values = {k: v for k, v in given.items() if k not in algorithm.options.without_effect}
    placed = {option for options in STAGES.values() for option in options}
    stages = {
        "models": ["policy", *algorithm.roles],
        "advantage": [
            f"{option} {value}" for option, value in values.items() if option not in placed
        ],
    }
    for stage, options in STAGES.items():
        if values.get(options[0]) not in (None, 0, "none"):
            stages[stage] = [
                f"{option} {values[option]}" for option in options if values.get(option, 0) != 0
            ]
    title, *rest = (sys.modules[kind.__module__].__doc__ or name).splitlines()
    formulas = "\n".join(line.strip() for line in rest if line.startswith("    "))
    return title, formulas, {stage: ", ".join(choices) for stage, choices in stages.items()}
