"""Prepare a loaded model for fewer and larger operations. What it computes stays the same.

- An RMS norm is one kernel on CUDA instead of about seven, in the forward and the backward pass.
- The weights of layers that read the same input lie next to each other in memory. These layers can
  then be computed as one matrix product, and nothing is copied: training changes the weights in
  place.
"""

from __future__ import annotations

from functools import partial
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tinyzero.models.agreement import differs

NEIGHBOURS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""The layers of one module that read the same input, by their usual names in transformers."""


def fuse(lm: nn.Module) -> None:
    """Do both for all modules of a model that `lm` is made of."""
    for module in lm.modules():
        if is_rms_norm(module):
            module.forward = partial(fused_norm, module)
        for names in NEIGHBOURS:
            join([getattr(module, name, None) for name in names])


@torch.no_grad()
def is_rms_norm(module: Any) -> bool:
    """Whether a module computes x / rms(x) * weight, found out by trying.

    Some modules with this name compute x / rms(x) * (1 + weight), for example those of Gemma.
    """
    weight = getattr(module, "weight", None)
    if not hasattr(module, "variance_epsilon") or weight is None or weight.ndim != 1:
        return False
    if len(signature(module.forward).parameters) > 1:  # it also has a gate, as in Qwen3.5 or Mamba
        return False

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, len(weight), generator=generator).to(weight)
    theirs, ours = module(x).float(), rms_norm(x, module).float()
    rounding = 2 * torch.finfo(weight.dtype).eps
    return not differs(ours, theirs, rounding)


def rms_norm(x: Tensor, module: Any) -> Tensor:
    """RMS norm (arXiv:1910.07467) with the weight of `module`: (..., D) -> (..., D)."""
    return F.rms_norm(x, module.weight.shape, module.weight, module.variance_epsilon)


def fused_norm(module: Any, x: Tensor) -> Tensor:
    """`rms_norm` on CUDA, where it is one kernel, and what transformers computes elsewhere.

    In float32 both are the same. In bfloat16 transformers also rounds before it multiplies by the
    weight, and `rms_norm` does not.
    """
    if x.is_cuda:
        return rms_norm(x, module)
    theirs: Tensor = type(module).forward(module, x)
    return theirs


@torch.no_grad()
def join(layers: list[Any]) -> bool:
    """Put the weights of linear layers, and their biases, next to each other; whether it was done.

    Each parameter becomes some rows of one matrix, in this order. It stays the same object with the
    same values. Moving the model to another device separates the parameters again, which only costs
    speed.

    >>> layers = [nn.Linear(3, rows) for rows in (4, 2)]
    >>> join(layers), layers[1].weight.data_ptr() - layers[0].weight.data_ptr()
    (True, 48)
    """
    if not all(type(layer) is nn.Linear for layer in layers):
        return False
    weights = [layer.weight for layer in layers]
    biases = [layer.bias for layer in layers if layer.bias is not None]
    if len({(weight.shape[1], weight.dtype, weight.device) for weight in weights}) > 1:
        return False

    for parameters in (weights, biases):
        if parameters:
            rows = torch.cat(parameters).split([len(parameter) for parameter in parameters])
            for parameter, part in zip(parameters, rows, strict=True):
                parameter.data = part
    return True
