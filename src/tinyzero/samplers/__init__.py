"""Samplers by name: `torch` uses the learner's own weights, and `vllm` a copy of them.

Each file ends with `SAMPLER = ...`, so a new sampler is one new file. A sampler outside the package
is named as `path/file.py:Name`. It is a class with the methods of `types.Sampler`, and with

    shares_weights = False                  # True: it reads the learner's model and gets no weights

    @classmethod
    def for_model(cls, model, spec): ...    # build it from the policy and a SamplerSpec

After every step `load_weights(weights, version)` is called. If the sampler shares weights,
`weights` is empty. If it does not, its probabilities may differ a little from the learner's, and
the algorithm corrects for the difference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from tinyzero.errors import UserError, brief
from tinyzero.registry import Registry
from tinyzero.types import Sampler

__all__ = [
    "NAMES",
    "REGISTRY",
    "SamplerSpec",
    "check_name",
    "choose",
    "load_sampler",
    "torch",
]

if TYPE_CHECKING:
    from tinyzero.models import Backbone

# Modules of this folder that a run cannot name as its sampler. (A script is written in code.)
PARTS = ("draw", "drawn", "fused", "memory", "rooms", "scripted", "slot_schedule", "slots")
NEEDS = ("for_model", "shares_weights", "generate", "stream", "load_weights")
REGISTRY = Registry("sampler", __name__, "SAMPLER", PARTS, NEEDS)
NAMES = REGISTRY.names()


@dataclass(frozen=True)
class SamplerSpec:
    """What a run tells its sampler in addition to the model. A sampler uses the fields it needs."""

    decode: Callable[[Sequence[int]], str]
    """From token ids to text, including special tokens."""
    end_ids: frozenset[int]
    """Tokens that end a completion."""
    model_name: str = ""
    """Where the model was loaded from: a bundled name, a folder or a hub id."""
    rows: int = 512
    """Completions that are decoded at the same time."""
    max_tokens: int = 512
    """The largest number of new tokens that will be requested."""
    cache_gb: float = 0.0
    """Size of the sampler's own key-value cache in 1e9 bytes; 0 for `rows` times `max_tokens`."""


def check_name(name: str) -> None:
    """Raise UserError unless `name` is auto, one of NAMES, or the name of a sampler class."""
    if name not in ("auto", *NAMES):
        REGISTRY.find(name)


def load_sampler(name: str, model: Backbone, spec: SamplerSpec) -> Sampler:
    """Build the sampler called `name` for `model`.

    `name` is one of NAMES, `package.module:Name` or `path/file.py:Name`. Raises UserError if there
    is no such sampler, if the class lacks a method, or if it cannot be built.
    """
    kind = REGISTRY.find(name)
    try:
        sampler: Sampler = kind.for_model(model, spec)
    except UserError:
        raise
    except Exception as error:
        if name in NAMES:
            raise  # the traceback of a built-in sampler is more useful than one line
        raise UserError(f"sampler {name} cannot be built: {brief(error)}") from error

    needed = {
        "version": "set it to 0, the version of its weights",
        "decode": "set it to spec.decode",
    }
    for attribute, remedy in needed.items():
        if not hasattr(sampler, attribute):
            raise UserError(f"sampler {name} lacks {attribute}: {remedy} in for_model")
    return sampler


def require_newer(version: int, held: int) -> None:
    """Raise ValueError unless weights of `version` are newer than those of version `held`."""
    if version <= held:
        raise ValueError(
            f"weights of version {version} are not newer than those of version {held}, which are "
            "already loaded"
        )


def choose(name: str, model: Backbone) -> tuple[str, str]:
    """The sampler that `name` stands for with `model`, and why. Only `auto` leaves a choice.

    If both built-in samplers support a model, `auto` is torch: none of our measurements on a GPU
    favours vLLM.
    """
    if name != "auto":
        return name, "as asked for"
    if model.device.type != "cuda":
        return "torch", f"the model is on the {model.device.type.upper()}"

    from tinyzero.samplers.slots import supports

    if supports(model):
        return "torch", "it decodes this model in slots, from the learner's own weights"

    why = f"the torch sampler has no slots for this {model.config.model_type} model"
    if find_spec("vllm") is None:
        return "torch", f"vLLM is not installed (pip install tinyzero[vllm]), though {why}"
    return "vllm", why
