"""What a GPU computes in one kernel is compared with a slower way before a model learns with it.

Flash attention of joined rows is a private operator of PyTorch. What it has to do most carefully is
a piece that continues a prefix, which has more keys than queries: its last query sees its last key.
A kernel that aligned the first query with the first key would hide most of the prompt, and training
would change another model than the one that is sampled from.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tinyzero.algorithms.losses import product_fault
from tinyzero.errors import first_line
from tinyzero.models import attention, packing
from tinyzero.models.agreement import differs
from tinyzero.models.backbone import Backbone
from tinyzero.models.cache import cache_shape

LARGEST_GAP = 0.03  # relative; kernels in bfloat16 differ from float32 by about 0.5 %
WINDOW = 100  # keys of a sliding window, for models that have one

# Lengths of pieces. A kernel computes 64 or 128 tokens at a time, so some pieces are longer.
PREFIX, RESTS, ALONE = 150, (140, 70, 1), 9


def attention_fault(model: Backbone, shared: bool) -> str:
    """Why `model` cannot use flash attention for joined rows on its device; empty if it can.

    It is also empty if the device or the precision has no flash attention, because then it is not
    used. With `shared`, pieces continue a prefix. Values and gradients, with the heads and the
    precision of `model`, are compared with those in float32. Everything else in it is left out.
    """
    rows = _packing(shared, model.device)
    size = sum(piece.length for piece in rows.pieces)
    keys, width = cache_shape(model.config)
    queries = int(model.config.num_attention_heads)

    numbers = torch.Generator().manual_seed(0)
    shapes = [(1, heads, size, width) for heads in (queries, keys, keys)]
    given = [
        torch.randn(shape, generator=numbers).to(model.device, model.dtype) for shape in shapes
    ]
    if not attention.has_flash(given[0], given[1], given[2]):
        return ""

    has_window = getattr(model.config, "sliding_window", None)
    for window in (None, WINDOW) if has_window else (None,):
        if fault := _difference(given, rows, window):
            return fault
    return ""


def _packing(shared: bool, device: torch.device) -> packing.Packing:
    """Pieces of several lengths: rows that are alone, or first a prefix and what continues it."""
    pieces = [packing.Piece(0, PREFIX)]
    for length in (*RESTS, ALONE):
        last = pieces[-1]
        prefix = (0, PREFIX) if shared and length != ALONE else (0, 0)
        pieces.append(packing.Piece(last.start + last.length, length, *prefix))
    return packing.Packing(pieces, device)


def _difference(given: Sequence[Tensor], rows: packing.Packing, window: int | None) -> str:
    """How attention in the precision of `given` differs from float32; empty if it does not."""
    exact = _attended([tensor.float() for tensor in given], rows, window)
    try:
        fast = _attended(given, rows, window)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError) as error:  # another version of torch calls it differently
        return f"flash attention fails: {first_line(error)}"

    parts = ("values", "gradient of queries", "gradient of keys", "gradient of values")
    for part, one, other in zip(parts, fast, exact, strict=True):
        if differs(one.float(), other, LARGEST_GAP):
            return f"flash attention is wrong on this device ({part})"
    return ""


@torch.enable_grad()
def _attended(
    given: Sequence[Tensor], rows: packing.Packing, window: int | None
) -> tuple[Tensor, ...]:
    """The result of attention, and the gradients of the queries, keys and values."""
    inputs = [tensor.detach().requires_grad_() for tensor in given]
    scaling = given[0].shape[-1] ** -0.5
    result = packing.packed_attention(
        inputs[0], inputs[1], inputs[2], rows, scaling, sliding_window=window
    )
    pull = torch.arange(result.numel(), device=result.device).float().sin()
    gradients = torch.autograd.grad(result, inputs, pull.view(result.shape).to(result.dtype))
    return result.detach(), *gradients


def head_fault(model: Backbone) -> str:
    """Why the head's gradient is added in two operations on a GPU; empty if it takes one."""
    if not is_on_gpu(model) or model.dtype == torch.float32:
        return ""
    return product_fault(model.device, model.dtype)


def is_on_gpu(model: Backbone) -> bool:
    """Whether the weights are on a GPU."""
    return model.device.type == "cuda"
