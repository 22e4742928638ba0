"""Samplers by name: torch (the learner's own weights) and vllm (a copy). Your own is `path/file.py:Name`.

Each file ends with `SAMPLER = ...`, so a new sampler is one new file. It is a class with what
`types.Sampler` asks for, and with one way to be built:

    shares_weights = False                      # True: it reads the model itself, and is handed no weights

    @classmethod
    def for_model(cls, model, spec): ...        # the policy, and a SamplerSpec

After every step `load_weights(weights, version)` is called, without weights if it shares them. A
sampler that does not share them gets a correction for the difference, as vllm does.
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

PARTS = ("draw", "fused", "slots", "scripted")  # a script is no setting: it is built in code
NEEDS = ("for_model", "shares_weights", "generate", "stream", "load_weights")
REGISTRY = Registry("sampler", __name__, "SAMPLER", PARTS, NEEDS)
NAMES = REGISTRY.names()


@dataclass(frozen=True)
class SamplerSpec:
    """What a run tells its sampler, besides the model. A sampler reads what it needs of it."""

    decode: Callable[[Sequence[int]], str]
    """Token ids to text, special tokens included."""
    end_ids: frozenset[int]
    """Tokens that end a completion."""
    model_name: str = ""
    """What the model was loaded from: a bundled name, a folder or a hub id."""
    rows: int = 512
    """Completions decoded at once."""
    max_tokens: int = 512
    """The most new tokens that will be asked for."""
    cache_gb: float = 0.0
    """Size of a key-value cache of its own, in 1e9 bytes; 0 for what `rows` of `max_tokens` take."""


def check_name(name: str) -> None:
    """Raise UserError unless `name` is auto, one of NAMES, or names a class that is a sampler."""
    if name not in ("auto", *NAMES):
        REGISTRY.find(name)


def load_sampler(name: str, model: Backbone, spec: SamplerSpec) -> Sampler:
    """The sampler called `name` (one of NAMES, `package.module:Name` or `path/file.py:Name`) of `model`.

    Raises UserError on an unknown name, a class that is no sampler, or one that cannot be built.
    """
    kind = REGISTRY.find(name)
    try:
        sampler: Sampler = kind.for_model(model, spec)
    except UserError:
        raise
    except Exception as error:
        if name in NAMES:
            raise  # our own: its traceback is what helps
        raise UserError(f"sampler {name} cannot be built: {brief(error)}") from error
    for attribute, meaning in {
        "version": "the version of the weights it holds, at first 0",
        "decode": "spec.decode",
    }.items():
        if not hasattr(sampler, attribute):
            raise UserError(f"sampler {name} lacks {attribute}: {meaning}")
    return sampler


def require_newer(version: int, held: int) -> None:
    """Raise ValueError unless weights of `version` are newer than those of version `held`."""
    if version <= held:
        raise ValueError(
            f"weights of version {version} are not newer than version {held}, held now"
        )


def choose(name: str, model: Backbone) -> tuple[str, str]:
    """What `auto` comes to for `model`, or `name` itself, and why.

    Nothing measured on a GPU speaks for vLLM if both will do.
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
