"""Samplers: torch (the learner's own weights), vllm (a copy in vLLM), scripted (no model at all)."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tinyzero.models import Backbone


def require_newer(version: int, held: int) -> None:
    """Raise ValueError unless weights of `version` are newer than those of version `held`."""
    if version <= held:
        raise ValueError(
            f"weights of version {version} are not newer than version {held}, held now"
        )


def choose(name: str, model: Backbone) -> tuple[str, str]:
    """torch or vllm for the sampler `name`, and why. Nothing measured on a GPU speaks for vLLM where both will do."""
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
