"""Rows of a batch joined end to end, with what the rows of a group share computed only once.

The completions of a group continue the same prompt. In a causal model, the prompt's hidden states
do not depend on what follows. So the prompt is computed once, and each completion sees the prompt
and itself. The loss and its gradient are those of rows that are computed alone.

Example: two rows of a group that begin with P0 P1, and a row of another group.

    rows      P0 P1 A0 A1 | P0 P1 B0 | Q0 C0
    joined    P0 P1 A0 A1 B0 Q0 C0              7 tokens are computed instead of 9
    position   0  1  2  3  2  0  1
    A1 sees   P0 P1 A0 A1
    B0 sees   P0 P1 B0
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.masking_utils import eager_mask

from tinyzero.models.attention import (
    flash_attention,
    grouped_attention,
    has_flash,
    refuse_other_attention,
)

SHORTEST_SHARE = 0.75  # of the longest piece in a block, so that few queries are padding


class Piece(NamedTuple):
    """Neighbouring columns of the joined row: a prefix, the rest of a row, or all of it."""

    start: int
    """The first column."""
    length: int
    """The number of columns."""
    prefix_start: int = 0
    """The first column of the prefix that it continues."""
    prefix_length: int = 0
    """The number of columns of that prefix; 0 if it continues none."""

    @property
    def columns(self) -> list[int]:
        """Its columns."""
        return list(range(self.start, self.start + self.length))

    @property
    def seen(self) -> list[int]:
        """The columns that its last token sees: those of its prefix, then its own."""
        prefix_end = self.prefix_start + self.prefix_length
        return [*range(self.prefix_start, prefix_end), *self.columns]


class Block(NamedTuple):
    """Pieces whose attention is computed together on a CPU. They have equally long prefixes.

    Shorter pieces are padded on the right with any columns. What those compute is not read.
    """

    queries: Tensor
    """(N, Q) int64: columns of the tokens that look."""
    keys: Tensor
    """(N, K) int64: columns that they see, up to themselves."""


class Packing:
    """The pieces of a joined row. A token sees its piece up to itself, and its piece's prefix."""

    def __init__(self, pieces: Sequence[Piece], device: torch.device) -> None:
        """`pieces` follow each other without gaps."""
        self.pieces, self.device = pieces, device

    @cached_property
    def edges(self) -> Tensor:
        """(N + 1,) int32: the column at which each piece begins, and the end of the last one."""
        return self._edges([piece.length for piece in self.pieces])

    @cached_property
    def key_edges(self) -> Tensor:
        """(N + 1,) int32: likewise for the `keys`."""
        return self._edges([piece.prefix_length + piece.length for piece in self.pieces])

    @cached_property
    def keys(self) -> Tensor | None:
        """(M,) int64: columns that each piece sees, end to end; None if no piece has a prefix."""
        if not any(piece.prefix_length for piece in self.pieces):
            return None
        return self._index([column for piece in self.pieces for column in piece.seen])

    @property
    def longest_query(self) -> int:
        """Tokens of the longest piece."""
        return max(piece.length for piece in self.pieces)

    @property
    def longest_key(self) -> int:
        """The most tokens that a token sees."""
        return max(piece.prefix_length + piece.length for piece in self.pieces)

    @cached_property
    def blocks(self) -> list[Block]:
        """The pieces in blocks of similar length."""
        return [self._block(pieces) for pieces in self._similar]

    @cached_property
    def order(self) -> Tensor:
        """(U,) int64: for each column, its query's number among all queries of the `blocks`."""
        order = [0] * sum(piece.length for piece in self.pieces)
        first_query = 0
        for pieces in self._similar:
            for piece in pieces:
                order[piece.start : piece.start + piece.length] = range(
                    first_query, first_query + piece.length
                )
                first_query += pieces[0].length
        return self._index(order)

    @cached_property
    def _similar(self) -> list[list[Piece]]:
        """The pieces by length of their prefix, and then of similar length. Longest first."""
        similar: list[list[Piece]] = []
        for piece in sorted(self.pieces, key=lambda piece: (-piece.prefix_length, -piece.length)):
            longest = similar[-1][0] if similar else None
            fits = (
                longest is not None
                and longest.prefix_length == piece.prefix_length
                and piece.length >= SHORTEST_SHARE * longest.length
            )
            if fits:
                similar[-1].append(piece)
            else:
                similar.append([piece])
        return similar

    def _block(self, pieces: Sequence[Piece]) -> Block:
        longest = pieces[0].length
        padding = [[0] * (longest - piece.length) for piece in pieces]
        queries = [piece.columns + more for piece, more in zip(pieces, padding, strict=True)]
        keys = [piece.seen + more for piece, more in zip(pieces, padding, strict=True)]
        return Block(self._index(queries), self._index(keys))

    def _edges(self, lengths: Sequence[int]) -> Tensor:
        return to_device(torch.tensor([0, *accumulate(lengths)], dtype=torch.int32), self.device)

    def _index(self, numbers: Any) -> Tensor:
        return to_device(torch.tensor(numbers), self.device)


class Joined(NamedTuple):
    """The rows (B, T) of a batch as one row of U columns, one for each token that is computed."""

    tokens: Tensor
    """(U,) int64."""
    positions: Tensor
    """(U,) int64: how many tokens come before each, in any row that holds it."""
    columns: Tensor
    """(B, T) int64: the column of each token; for padding any column."""
    packing: Packing


def shared_lengths(tokens: Tensor, lengths: Tensor, groups: Tensor | None) -> list[int]:
    """How many first tokens each row has in common with all rows of its group.

    Shapes: `tokens` (B, T), of which the first `lengths[i]` of row i are real, and `groups` (B,).
    It is 0 for a row that is alone in its group, and without `groups`.

    >>> tokens = torch.tensor([[5, 6, 1, 2], [5, 6, 3, 0], [5, 6, 1, 2]])
    >>> shared_lengths(tokens, torch.tensor([4, 3, 4]), torch.tensor([0, 0, 1]))
    [2, 2, 0]
    """
    shared = [0] * len(tokens)
    if groups is None:
        return shared

    for rows in rows_by_group(groups).values():
        if len(rows) > 1:
            is_same = (tokens[rows] == tokens[rows[0]]).all(0)
            common = int(is_same.cumprod(0).sum())
            for row in rows:
                shared[row] = min(common, int(lengths[rows].min()))
    return shared


def rows_by_group(groups: Tensor) -> dict[int, list[int]]:
    """The numbers of the rows of each group, by its number. `groups` is (B,)."""
    rows: dict[int, list[int]] = {}
    for row, group in enumerate(groups.tolist()):
        rows.setdefault(group, []).append(row)
    return rows


def join_rows(
    tokens: Tensor,
    lengths: Tensor,
    groups: Tensor | None = None,
    device: torch.device | None = None,
) -> Joined:
    """Join the real tokens of rows (B, T). What the rows of a group begin with is there once.

    The first `lengths[i]` tokens of row i are real. Without `groups` (B,) nothing is shared. The
    result is for a model on `device`, by default that of `tokens`, where `columns` always are.
    Tensors in CPU memory are best: the host need not wait for a GPU then.
    """
    given, device = tokens.device, device or tokens.device
    tokens, lengths = tokens.cpu(), lengths.cpu()
    groups = torch.arange(len(tokens)) if groups is None else groups.cpu()
    shared, ends = shared_lengths(tokens, lengths, groups), lengths.tolist()

    pieces: list[Piece] = []
    chosen: list[Tensor] = []  # the tokens of each piece
    positions: list[Tensor] = []
    columns = torch.zeros(tokens.shape, dtype=torch.long)
    size = 0

    def add(row: int, begin: int, end: int, prefix: int) -> None:
        nonlocal size
        pieces.append(Piece(size, end - begin, prefix, begin))
        chosen.append(tokens[row, begin:end])
        positions.append(torch.arange(begin, end))
        columns[row, begin:end] = torch.arange(size, size + end - begin)
        size += end - begin

    for rows in rows_by_group(groups).values():
        common, prefix = shared[rows[0]], size
        if common:
            add(rows[0], 0, common, 0)
        for row in rows:
            columns[row, :common] = torch.arange(prefix, prefix + common)
            if ends[row] > common:
                add(row, common, ends[row], prefix if common else 0)

    return Joined(
        to_device(torch.cat(chosen), device),
        to_device(torch.cat(positions), device),
        to_device(columns, given),
        Packing(pieces, device),
    )


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor`, which is in CPU memory or on `device`, on that device. The host does not wait.

    Ordinary CPU memory may be changed right afterwards, because CUDA copies it first.
    """
    return tensor.to(device, non_blocking=True)


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    packing: Packing | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """The attention function that transformers calls: that of joined rows if there is a Packing.

    Shapes and errors are those of `grouped_attention`.
    """
    if packing is None:
        return grouped_attention(module, query, key, value, attention_mask, scaling, **more)
    return packed_attention(query, key, value, packing, scaling, **more), None


def padding_mask(attention_mask: Tensor | None = None, **more: Any) -> Tensor | None:
    """The mask function that transformers calls: a mask only if some columns are padding.

    Without a mask our attention is causal. `attention_mask` (B, K) bool is True at real columns.
    """
    if attention_mask is None:
        return None
    mask: Tensor = eager_mask(attention_mask=attention_mask, **more)
    return mask


def packed_attention(
    query: Tensor, key: Tensor, value: Tensor, packing: Packing, scaling: float, **more: Any
) -> Tensor:
    """Causal attention within each piece of a joined row of U tokens, and to the piece's prefix.

    Shapes: `query` (1, H, U, D), `key` and `value` (1, G, U, D), result (1, U, H, D). If flash
    attention supports the tensors, it computes all pieces at once. Otherwise each block of similar
    pieces is computed alone. Keys of a prefix are repeated for each piece that continues it. This
    costs little, because there are few numbers per token in keys and values.
    """
    rows = tuple(tensor[0].transpose(0, 1) for tensor in (query, key, value))  # (U, heads, D)
    if has_flash(query, key, value):
        refuse_other_attention(more)
        window = more.get("sliding_window")
        return _flash(rows[0], rows[1], rows[2], packing, scaling, window)[None]

    outputs = []
    for block in packing.blocks:
        q, k, v = (
            _gather(tensor, index).transpose(1, 2)
            for tensor, index in zip(rows, (block.queries, block.keys, block.keys), strict=True)
        )
        output, _ = grouped_attention(nn.Identity(), q, k, v, None, scaling, **more)
        outputs.append(output.flatten(0, 1))
    return _gather(torch.cat(outputs), packing.order)[None]


def _flash(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    packing: Packing,
    scaling: float,
    window: int | None,
) -> Tensor:
    """Flash attention (U, H, D) of `query` (U, H, D), `key` and `value` (U, G, D)."""
    if packing.keys is not None:
        key, value = _gather(key, packing.keys), _gather(value, packing.keys)
    return flash_attention(
        query,
        key,
        value,
        packing.edges,
        packing.edges if packing.keys is None else packing.key_edges,
        packing.longest_query,
        packing.longest_key,
        causal=True,
        scaling=scaling,
        window=window,
    )


def _gather(rows: Tensor, index: Tensor) -> Tensor:
    """`rows[index]` for `rows` (U, heads, D) and an index of any shape.

    The backward pass of `embedding` adds up in fp32 and always in the same order, also on a GPU.
    """
    chosen: Tensor = nn.functional.embedding(index, rows.flatten(1)).unflatten(-1, rows.shape[1:])
    return chosen
