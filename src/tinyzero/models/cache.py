"""What a model keeps of the tokens that it has read, and tables of rotary position embeddings."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache


def cache_shape(config: Any) -> tuple[int, int]:
    """(key-value heads, numbers per head) of a model's attention."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(heads), int(width)


def has_fixed_rotary(config: Any) -> bool:
    """Whether a position has the same rotation in sequences of any length, and no window is used.

    Only then can the rotary tables be computed once.
    """
    depends_on_length = config.rope_parameters["rope_type"] in ("dynamic", "longrope")
    has_window = getattr(config, "use_sliding_window", False)
    return not depends_on_length and not has_window


def signed_rotary(core: Any, like: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Tables cos and sin (length, D) of rotary positions, with the dtype and device of `like`.

    The first half of each row of sin is negated. A head x is then rotated by

        x * cos + x.roll(D // 2, -1) * sin

    which is faster than the usual `rotate_half`, with its negation and concatenation.
    """
    positions = torch.arange(length, device=like.device)[None]
    cos, sin = core.rotary_emb(like, positions)  # (1, length, D)

    half = cos.shape[-1] // 2
    signed_sin = torch.cat((-sin[0, :, :half], sin[0, :, half:]), -1)
    return cos[0], signed_sin


BLOCK = 256  # columns


class KeyValueCache:
    """Keys and values of sequences that are read in step, allocated once and written in place.

    Prompts are padded on the left, so that all rows write the same column. The position of a token
    in its own sequence is its column less the padding of its row. Room for BLOCK more columns is
    added whenever it is needed, because most completions end long before their limit.
    """

    def __init__(
        self, config: Any, pads: Tensor, length: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        """`pads` (B,) are the columns before each row's first token, `length` is all columns.

        `pads` should be on the host, so that it need not wait for a GPU.
        """
        heads, width = cache_shape(config)
        self.length = length
        shape = (config.num_hidden_layers, len(pads), heads, 0, width)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)

        self.is_padded = bool(pads.any())
        self.pads = pads.to(device)
        is_padding = torch.arange(length, device=device) < self.pads[:, None]  # (B, length)
        self.mask = is_padding.to(dtype) * torch.finfo(dtype).min
        self.column = 0  # the next column to be written

    def make_room(self, end: int) -> None:
        """Have room for all columns before `end`."""
        missing = end - self.keys.shape[3]
        if missing > 0:
            added = min(max(missing, BLOCK), self.length - self.keys.shape[3])
            # one after the other, so that only one of them exists twice at a time
            self.keys = nn.functional.pad(self.keys, (0, 0, 0, added))
            self.values = nn.functional.pad(self.values, (0, 0, 0, added))

    def update(
        self, key: Tensor, value: Tensor, layer: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Store keys and values (B, G, Q, D) of a layer, and return all of them up to now.

        transformers calls this in every layer. They are written from `column` on; the caller moves
        `column` forward after the last layer.
        """
        end = self.column + key.shape[2]
        self.make_room(end)
        self.keys[layer, :, :, self.column : end] = key
        self.values[layer, :, :, self.column : end] = value
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def select(self, rows: Tensor) -> None:
        """Keep (or repeat) these rows, in this order."""
        self.keys = self.keys[:, rows]
        self.values = self.values[:, rows]
        self.pads = self.pads[rows]
        self.mask = self.mask[rows]

    def get_seq_length(self, *_: Any) -> int:
        """The number of columns written. transformers asks for it."""
        return self.column


class LibraryCache:
    """transformers' own cache, for models that keep more than keys and values of each token.

    Linear attention keeps a state of constant size, for example, and a convolution the last inputs.
    It is used like a `KeyValueCache`: prompts are padded on the left, and the model is told which
    columns are padding.
    """

    def __init__(self, config: Any, pads: Tensor, device: torch.device) -> None:
        """`pads` (B,) are the columns before each row's first token."""
        self.inner = DynamicCache(config=config)
        self.pads = pads.to(device)
        self.column = 0  # the next column to be read

    def is_real(self, end: int) -> Tensor | None:
        """(B, end) bool: the columns before `end` that are not padding; None if all are real."""
        if not self.pads.any():
            return None
        return torch.arange(end, device=self.pads.device) >= self.pads[:, None]

    def select(self, rows: Tensor) -> None:
        """Keep (or repeat) these rows, in this order."""
        self.inner.reorder_cache(rows)  # type: ignore[arg-type]  # any int64 tensor will do
        self.pads = self.pads[rows]
