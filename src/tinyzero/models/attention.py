"""Causal attention with grouped heads, by whichever way is the fastest where the tensors are.

Shapes: B sequences, H query heads, G key-value heads, Q queries, K keys, D numbers a head.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.backends.cuda import SDPAParams, can_use_flash_attention
from torch.nn.functional import scaled_dot_product_attention

from tinyzero.errors import UserError

QUERY_BLOCK = 128


def grouped_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    **more: Any,
) -> tuple[Tensor, None]:
    """softmax(q k^T * scaling + mask) v with grouped heads, as two matrix products.

    query (B, H, Q, D); key, value (B, G, K, D) with H a multiple of G; mask additive, broadcastable to
    (B, 1, Q, K). All heads of a group share one product, so a single KV head is not copied H times.
    Returns (B, Q, H, D).
    """
    _refuse_other_attention(key.shape[2], more)
    B, H, Q, D = query.shape
    G, K = key.shape[1], key.shape[2]
    if packing := more.get("packing"):
        return packed_attention(query, key, value, packing, scaling), None
    if query.is_cuda:
        return fused_attention(query, key, value, attention_mask, scaling), None
    if attention_mask is None and Q > 1:
        attention_mask = causal_mask(Q, query.dtype)
    query = (query * scaling).view(B, G, H // G, Q, D)
    # a block of queries needs the keys up to its end only: half of a causal square is never computed
    blocks = [slice(i, min(i + QUERY_BLOCK, Q)) for i in range(0, Q, QUERY_BLOCK)]
    out = [_attend(query[..., b, :], key, value, attention_mask, b, K - Q + b.stop) for b in blocks]
    return torch.cat(out, dim=3).view(B, H, Q, D).transpose(1, 2), None


def fused_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float
) -> Tensor:
    """The same by PyTorch's fused kernels, which are the fastest on CUDA; without a mask it is causal."""
    groups, causal = query.shape[1] // key.shape[1], mask is None and query.shape[2] > 1
    if groups > 1 and (mask is not None or query.dtype == torch.float32):
        # flash attention takes neither a mask nor fp32, and the memory-efficient kernel no grouped heads
        key, value, groups = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1), 1
    found = scaled_dot_product_attention(
        query, key, value, mask, is_causal=causal, scale=scaling, enable_gqa=groups > 1
    )
    return found.transpose(1, 2)


class Packing(NamedTuple):
    """Sequences end to end in one row, none of which sees another."""

    lengths: list[int]
    edges: Tensor
    """(N + 1,) int32: where each begins, and the end."""


def packing_of(lengths: list[int], device: torch.device) -> Packing:
    """For sequences of these lengths."""
    return Packing(
        lengths, torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)
    )


def packed_attention(
    query: Tensor, key: Tensor, value: Tensor, packing: Packing, scaling: float
) -> Tensor:
    """Causal attention within each sequence: (1, H, L, D), (1, G, L, D) twice -> (1, L, H, D).

    All at once where flash attention takes them; else each sequence by itself, so nothing is computed that is masked.
    """
    if has_flash(query, key, value):
        q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
        edges, longest = packing.edges, max(packing.lengths)
        return flash_attention(
            q, k, v, edges, edges, longest, longest, causal=True, scaling=scaling
        )[None]
    runs = zip(*(x.split(packing.lengths, dim=2) for x in (query, key, value)), strict=True)
    found = [grouped_attention(nn.Identity(), q, k, v, None, scaling)[0] for q, k, v in runs]
    return torch.cat(found, dim=1)


def has_flash(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether flash attention takes (B, H, L, D), (B, G, L, D) twice: bf16 or fp16, on a GPU that has it."""
    asked = SDPAParams(query, key, value, None, 0.0, True, query.shape[1] != key.shape[1])
    return query.is_cuda and query.shape[-1] % 8 == 0 and can_use_flash_attention(asked)


def flash_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_edges: Tensor,
    key_edges: Tensor,
    longest_query: int,
    longest_key: int,
    causal: bool = False,
    scaling: float | None = None,
    used: Tensor | None = None,
) -> Tensor:
    """PyTorch's flash attention of sequences end to end: (N, H, D), (M, G, D) twice -> (N, H, D).

    Sequence i has the queries from `query_edges[i]` to the next, its keys likewise, of which the first `used[i]` count;
    all three are int32. This is the operator below `varlen_attn`, which in torch 2.11 takes neither grouped heads nor
    `used`; every argument here is in the operator of 2.11 and of 2.13. It is differentiable, unless `used` is given.
    """
    found: Tensor = torch.ops.aten._flash_attention_forward(
        query,
        key,
        value,
        query_edges,
        key_edges,
        longest_query,
        longest_key,
        0.0,  # dropout
        causal,
        False,  # no mask of the dropout
        scale=scaling,
        seqused_k=used,
    )[0]
    return found


def _attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, rows: slice, seen: int
) -> Tensor:
    """Attention of some query rows (B, G, H/G, R, D) over the first `seen` keys."""
    B, G, N, R, D = query.shape
    scores = query.reshape(B, G, N * R, D) @ key[:, :, :seen].transpose(-1, -2)
    if mask is not None:
        scores = (scores.view(B, G, N, R, seen) + mask[:, :, None, rows, :seen]).view(
            B, G, N * R, seen
        )
    return (scores.softmax(-1) @ value[:, :, :seen]).view(B, G, N, R, D)


def _refuse_other_attention(length: int, options: dict[str, Any]) -> None:
    """Attention that this is not must be an error: it would train another model than the one loaded."""
    window = options.get("sliding_window")
    if options.get("softcap") or options.get("s_aux") is not None or (window and length > window):
        raise UserError(
            "this model's attention (soft-capped, with sinks, or a sliding window) is not supported"
        )


def causal_mask(length: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """(1, 1, length, length) additive mask: 0 on and below the diagonal, the lowest number above.

    Rows are padded on the right, so a real token never sees padding and no other mask is needed.
    """
    return torch.full((length, length), torch.finfo(dtype).min, dtype=dtype).triu(1)[None, None]
