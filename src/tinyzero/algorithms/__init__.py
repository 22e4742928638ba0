"""Reinforcement learning algorithms by name, one file each.

The name is that of the file, with `++` for `_pp`: reinforce_pp_baseline.py holds
`reinforce++-baseline`. Each file ends with `ALGORITHM = ...`, so a new algorithm is one new file.
An algorithm outside the package is named as `path/file.py:Name`.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from typing import Any

from tinyzero.algorithms.base import Algorithm, preset
from tinyzero.algorithms.guarded import GuardedAlgorithm
from tinyzero.errors import UserError, constructing
from tinyzero.registry import Registry, validate

__all__ = ["NAMES", "REGISTRY", "Algorithm", "composition", "load_algorithm", "losses", "preset"]

# Modules of this folder that are not algorithms.
PARTS = ("advantages", "base", "guarded", "losses", "options", "stages")


def _import_later(name: str) -> None:
    """Let the module `name` of this package run only when something in it is used.

    The algorithms import the losses, which import torch. That takes seconds, and help should list
    the options of an algorithm at once.
    """
    spec = importlib.util.find_spec(f"{__name__}.{name}")
    assert spec is not None
    assert spec.loader is not None
    spec.loader = importlib.util.LazyLoader(spec.loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    setattr(sys.modules[__name__], name, module)
    spec.loader.exec_module(module)


_import_later("advantages")
_import_later("losses")

REGISTRY = Registry("algorithm", __name__, "ALGORITHM", PARTS, ("annotate", "loss"))
NAMES = REGISTRY.names()


def load_algorithm(name: str, options: Mapping[str, Any] | None = None) -> GuardedAlgorithm:
    """Build the algorithm called `name`, with `options` in place of its defaults.

    `name` is one of NAMES, `package.module:Name` or `path/file.py:Name`. Raises UserError if there
    is no such algorithm, if it lacks a method that an algorithm needs, or if an option is wrong.

    >>> load_algorithm("dapo", {"clip_high": 0.3}).options.clip_high
    0.3
    """
    kind = REGISTRY.find(name)
    options_model = getattr(kind, "Options", None)

    if options_model is None and options:
        unknown = ", ".join(f"algorithm.{key}" for key in options)
        raise UserError(f"algorithm {name} takes no options: remove {unknown}")

    arguments = []
    if options_model is not None:
        arguments = [validate(options_model, options or {}, "algorithm")]
    with constructing(f"algorithm {name}", arguments):
        owner = kind(*arguments)
    return GuardedAlgorithm(owner, name, options or {})


STAGES = {
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
"""The options of each stage, in the order in which the stages act.

The first option of a stage switches it on. Options of no stage belong to the advantage.
"""


def composition(name: str) -> tuple[str, str, dict[str, str]]:
    """What an algorithm is made of: (title with its source, formulas, {stage: its options}).

    Title and formulas come from the docstring of the algorithm's file. The options are shown with
    their defaults. Stages that are switched off and options without effect are left out.
    """
    kind = REGISTRY.find(name)
    algorithm: Any = kind(kind.Options())
    defaults = algorithm.options.model_dump(exclude_none=True)
    ignored = algorithm.options.without_effect
    values = {option: value for option, value in defaults.items() if option not in ignored}

    staged = {option for options in STAGES.values() for option in options}
    stages = {
        "models": ["policy", *algorithm.roles],
        "advantage": [f"{key} {value}" for key, value in values.items() if key not in staged],
    }
    for stage, options in STAGES.items():
        if values.get(options[0]) not in (None, 0, "none"):
            used = [option for option in options if values.get(option, 0) != 0]
            stages[stage] = [f"{option} {values[option]}" for option in used]

    title, *rest = (sys.modules[kind.__module__].__doc__ or name).splitlines()
    formulas = "\n".join(line.strip() for line in rest if line.startswith("    "))
    return title, formulas, {stage: ", ".join(choices) for stage, choices in stages.items()}
