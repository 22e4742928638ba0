"""Causal attention with grouped heads, computed in the way that is fastest for the device.

In the shapes, B counts sequences, H query heads, G key-value heads, Q queries, K keys, and D the
numbers per head. H is a multiple of G: each key-value head serves H / G query heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.backends.cuda import SDPAParams, can_use_flash_attention
from torch.nn.functional import scaled_dot_product_attention

from tinyzero.errors import UserError

QUERY_BLOCK = 128  # queries that are computed together on a CPU


def grouped_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    **more: Any,
) -> tuple[Tensor, None]:
    """The attention function that transformers calls: (softmax(q kᵀ scaling + mask) v, None).

    Shapes: `query` (B, H, Q, D), `key` and `value` (B, G, K, D), result (B, Q, H, D). The mask is
    added to the scores and has a shape that broadcasts to (B, 1, Q, K). Without a mask, attention
    is causal, and the last query sees all keys. `more` may hold settings of the model, such as a
    `sliding_window`: then a query sees only that many keys, its own included.

    On a CPU all heads that share keys are the rows of one matrix product, so that keys are not
    copied for each head. Raises UserError if the model needs another kind of attention.
    """
    refuse_other_attention(more)
    B, H, Q, D = query.shape
    G, K = key.shape[1], key.shape[2]

    window = more.get("sliding_window")
    if window and window < K:
        attention_mask = window_mask(Q, K, window, query, attention_mask)
    if query.is_cuda:
        return fused_attention(query, key, value, attention_mask, scaling), None

    if attention_mask is None and Q > 1:
        attention_mask = causal_mask(K, query.dtype)[:, :, K - Q :]
    query = (query * scaling).view(B, G, H // G, Q, D)

    # A block of queries only needs the keys up to its end: this saves half of a causal square.
    outputs = []
    for start in range(0, Q, QUERY_BLOCK):
        rows = slice(start, min(start + QUERY_BLOCK, Q))
        seen = K - Q + rows.stop
        outputs.append(_attend(query[..., rows, :], key, value, attention_mask, rows, seen))
    return torch.cat(outputs, dim=3).view(B, H, Q, D).transpose(1, 2), None


def fused_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float
) -> Tensor:
    """`grouped_attention` with PyTorch's fused kernels, which are the fastest on CUDA.

    Without a mask it is causal, and the last query sees all keys.
    """
    Q, K = query.shape[2], key.shape[2]
    if mask is None and 1 < Q < K:  # is_causal would align the first query with the first key
        mask = causal_mask(K, query.dtype)[:, :, K - Q :].to(query.device)

    group_size = query.shape[1] // key.shape[1]
    if group_size > 1 and (mask is not None or query.dtype == torch.float32):
        # Flash attention supports neither masks nor float32, and the memory-efficient kernel does
        # not support grouped heads: repeat the keys, so that the latter can be used.
        key = key.repeat_interleave(group_size, 1)
        value = value.repeat_interleave(group_size, 1)
        group_size = 1

    result = scaled_dot_product_attention(
        query,
        key,
        value,
        mask,
        is_causal=mask is None and Q > 1,
        scale=scaling,
        enable_gqa=group_size > 1,
    )
    return result.transpose(1, 2)


def has_flash(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether flash attention supports these tensors: 16-bit numbers, on a GPU that has it.

    Shapes: `query` (B, H, L, D), `key` and `value` (B, G, L, D).
    """
    has_groups = query.shape[1] != key.shape[1]
    params = SDPAParams(query, key, value, None, 0.0, True, has_groups)
    return query.is_cuda and query.shape[-1] % 8 == 0 and can_use_flash_attention(params)


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
    window: int | None = None,
) -> Tensor:
    """PyTorch's flash attention for sequences of different lengths that are joined end to end.

    Shapes: `query` (N, H, D), `key` and `value` (M, G, D), result (N, H, D), where N and M are the
    total numbers of queries and keys. Sequence i has the queries from `query_edges[i]` up to
    `query_edges[i + 1]`, and its keys are given by `key_edges` likewise. If `used` is given, only
    the first `used[i]` keys of a sequence count, and there is no gradient. All three are int32.
    With a `window`, a query sees only that many keys, its own included.

    This calls the operator below PyTorch's `varlen_attn`, because in torch 2.11 the latter supports
    neither grouped heads nor `used`. The operator has the same arguments in torch 2.11 and 2.13.
    """
    result: Tensor = torch.ops.aten._flash_attention_forward(
        query,
        key,
        value,
        query_edges,
        key_edges,
        longest_query,
        longest_key,
        0.0,  # dropout
        causal,
        False,  # do not return the dropout mask
        scale=scaling,
        window_size_left=window - 1 if window else None,
        window_size_right=0 if window else None,
        seqused_k=used,
    )[0]
    return result


def _attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, rows: slice, seen: int
) -> Tensor:
    """Attention of R queries over the first `seen` keys.

    `query` and the result are (B, G, H / G, R, D). `rows` are the rows of the mask for these
    queries.
    """
    B, G, N, R, D = query.shape
    scores = query.reshape(B, G, N * R, D) @ key[:, :, :seen].transpose(-1, -2)

    if mask is not None:
        masked = scores.view(B, G, N, R, seen) + mask[:, :, None, rows, :seen]
        scores = masked.view(B, G, N * R, seen)
    return (scores.softmax(-1) @ value[:, :, :seen]).view(B, G, N, R, D)


def refuse_other_attention(options: Mapping[str, Any]) -> None:
    """Raise UserError if the model needs a kind of attention that is not implemented here.

    If that were ignored, training would change a model other than the one that was loaded.
    """
    if options.get("softcap") or options.get("s_aux") is not None:
        raise UserError("this model's attention (soft caps or sinks) is not supported")


def window_mask(queries: int, keys: int, window: int, like: Tensor, mask: Tensor | None) -> Tensor:
    """`mask`, or a causal one, that also hides what lies outside a sliding window.

    The last of the queries (Q) sees the last of the keys (K). The result broadcasts to
    (B, 1, Q, K), with the dtype and device of `like`.

    >>> window_mask(2, 4, 2, torch.zeros(1), None)[0, 0] == 0
    tensor([[False,  True,  True, False],
            [False, False,  True,  True]])
    """
    key_columns = torch.arange(keys, device=like.device)
    query_columns = torch.arange(keys - queries, keys, device=like.device)[:, None]
    is_hidden = (key_columns > query_columns) | (key_columns <= query_columns - window)

    if mask is None:
        mask = torch.zeros(1, 1, 1, 1, dtype=like.dtype, device=like.device)
    return mask.masked_fill(is_hidden, torch.finfo(like.dtype).min)


def causal_mask(length: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A mask (1, 1, length, length) to add to scores: 0 if seen, else the lowest number.

    Rows are padded on the right, so a real token never sees padding and no other mask is needed.

    >>> causal_mask(3)[0, 0] == 0
    tensor([[ True, False, False],
            [ True,  True, False],
            [ True,  True,  True]])
    """
    lowest = torch.full((length, length), torch.finfo(dtype).min, dtype=dtype)
    return lowest.triu(1)[None, None]
