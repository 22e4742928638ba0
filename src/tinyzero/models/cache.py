"""The keys and values of the tokens read so far, and the rotary tables they are rotated by."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def cache_shape(config: Any) -> tuple[int, int]:
    """(key-value heads, numbers a head) of a model's attention."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return int(heads), int(
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )


def has_fixed_rotary(config: Any) -> bool:
    """Whether positions turn heads by the same angles in sequences of any length, and every token is seen."""
    growing = config.rope_parameters["rope_type"] in ("dynamic", "longrope")
    return not growing and not getattr(config, "use_sliding_window", False)


def signed_rotary(core: Any, like: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """cos and sin (length, D) of a model's rotary positions, of the type and on the device of `like`.

    sin has the sign of rotate_half, so that a roll takes the place of a negation and a concatenation.
    """
    cos, sin = core.rotary_emb(
        like, torch.arange(length, device=like.device)[None]
    )  # (1, length, D)
    half = cos.shape[-1] // 2
    return cos[0], torch.cat((-sin[0, :, :half], sin[0, :, half:]), -1)


class KeyValueCache:
    """Keys and values of sequences that are read in lock-step, allocated once and written in place.

    Prompts are padded on the left: every row writes the same column, and its position in its own
    sequence is that column less its padding.
    """

    def __init__(
        self, config: Any, pads: Tensor, length: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        """`pads` (B,): columns before each row's first token; `length`: columns in all."""
        heads, width = cache_shape(config)
        shape = (config.num_hidden_layers, len(pads), heads, length, width)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.pads = pads.to(device)
        lowest = torch.finfo(dtype).min
        self.mask = (torch.arange(length, device=device) < self.pads[:, None]).to(
            dtype
        ) * lowest  # (B, length)
        self.column = 0  # the next to be written

    def update(
        self, key: Tensor, value: Tensor, layer: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """transformers' cache call: store (B, G, Q, D) from `column` on, return everything up to its end."""
        end = self.column + key.shape[2]
        self.keys[layer, :, :, self.column : end] = key
        self.values[layer, :, :, self.column : end] = value
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def select(self, rows: Tensor) -> None:
        """Keep (or repeat) these rows, in this order."""
        self.keys, self.values = self.keys[:, rows], self.values[:, rows]
        self.pads, self.mask = self.pads[rows], self.mask[rows]

    def get_seq_length(self, *_: Any) -> int:
        return self.column
