"""Samplers: torch (the learner's own weights), vllm (a copy in vLLM), scripted (no model at all)."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tinyzero.models import Backbone

WORTHWHILE = 100_000_000  # parameters; below, vLLM's start and its pushes cost more than its decoding saves


def choose(name: str, model: Backbone) -> tuple[str, str]:
    """torch or vllm for the sampler `name`, and why."""
    parameters = sum(p.numel() for p in model.parameters())
    if name != "auto":
        return name, "as asked for"
    if model.device.type != "cuda":
        return "torch", f"the model is on the {model.device.type.upper()}"
    if parameters < WORTHWHILE:
        return "torch", f"{parameters / 1e6:.1f} million parameters are few"
    if find_spec("vllm") is None:
        return "torch", "vLLM is not installed (pip install tinyzero[vllm])"
    return "vllm", "the model is on a GPU and vLLM is installed"
