"""TinyZero: reinforcement learning of language models on answers that a program can check.

The Python API, for scripts and notebooks:

    import tinyzero

    run = tinyzero.train("laptop", steps=20, seed=1)
    run.metrics["accuracy"]                     # a plain list, one number per step
    run.plot("accuracy", "response_length")     # a matplotlib figure
    tinyzero.evaluate(run, problems=256)["pass@1"]

`train`, `evaluate`, `sample`, `check_task`, `load_task`, `recipes` and `Run` are defined and
documented in tinyzero/api.py. Importing this package imports neither torch nor transformers.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinyzero.api import Run, check_task, evaluate, load_task, recipes, sample, train

__version__ = "0.2.0.dev0"
__all__ = ["Run", "check_task", "evaluate", "load_task", "recipes", "sample", "train"]


class _Package(ModuleType):
    """This package, in which `train` and `evaluate` are the API's functions.

    There are modules of the same names. Without this class, importing one of them would replace the
    function.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in __all__ and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("tinyzero.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
