"""A causal language model as training and sampling use it, and the critic with its value head."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint

from tinyzero.algorithms.losses import fp32_logits
from tinyzero.models.attention import causal_mask, packing_of
from tinyzero.models.cache import KeyValueCache, cache_shape


class Backbone(nn.Module):
    """A causal LM as the rest of the house sees it: tokens in, logits (or hidden states) out."""

    lm: Any  # transformers gives its models no common type that has their parts

    def __init__(self, lm: nn.Module, pack: bool = False) -> None:
        """With `pack`, `hidden` computes rows end to end where it is told their lengths."""
        super().__init__()
        self.lm, self.pack = lm, pack

    @property
    def core(self) -> Any:
        """The model without its head."""
        return self.lm.base_model

    @property
    def head(self) -> Any:
        """The linear layer from hidden states to logits."""
        return self.lm.get_output_embeddings()

    @property
    def config(self) -> Any:
        return self.lm.config

    @property
    def context(self) -> int:
        """The longest sequence the model takes, in tokens."""
        return int(self.config.max_position_embeddings)

    @property
    def cache_bytes(self) -> int:
        """Key-value cache of one token."""
        heads, width = cache_shape(self.config)
        return 2 * int(self.config.num_hidden_layers) * heads * width * self.dtype.itemsize

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def hidden(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Last hidden states (B, T, D) of right-padded tokens (B, T), of which the first `lengths` (B,) are real."""
        if self.pack and lengths is not None:
            return self._packed(tokens, lengths.tolist())
        mask = None if tokens.is_cuda else causal_mask(tokens.shape[1], self.dtype)
        result: Tensor = self.core(
            input_ids=tokens, attention_mask=mask, use_cache=False
        ).last_hidden_state
        return result

    def _packed(self, tokens: Tensor, lengths: list[int]) -> Tensor:
        """`hidden` of the real tokens only, in one row; zeros in the padding."""
        row = torch.cat([tokens[i, :n] for i, n in enumerate(lengths)])[None]
        positions = torch.cat([torch.arange(n, device=tokens.device) for n in lengths])[None]
        found = self.core(
            input_ids=row,
            position_ids=positions,
            use_cache=False,
            packing=packing_of(lengths, tokens.device),
        ).last_hidden_state[0]
        rows = pad_sequence(found.split(lengths), batch_first=True)
        return nn.functional.pad(rows, (0, 0, 0, tokens.shape[1] - rows.shape[1]))

    def logits_of(self, hidden: Tensor) -> Tensor:
        """fp32 logits (..., V) of hidden states (..., D), without gradient to low-precision weights."""
        result: Tensor = fp32_logits(
            hidden.flatten(0, -2), self.head.weight, self.head.bias
        ).unflatten(0, hidden.shape[:-1])
        return result

    def logits(self, tokens: Tensor) -> Tensor:
        """fp32 logits (B, T, V) of right-padded tokens (B, T); column t predicts token t+1."""
        return self.logits_of(self.hidden(tokens))

    def step(self, tokens: Tensor, cache: KeyValueCache) -> Tensor:
        """Hidden states (B, Q, D) of the next tokens (B, Q), which extend `cache`."""
        end = cache.column + tokens.shape[1]
        columns = torch.arange(cache.column, end, device=tokens.device)
        ahead = torch.arange(end, device=tokens.device) > columns[:, None]  # (Q, end)
        mask = cache.mask[:, None, None, :end].masked_fill(ahead, torch.finfo(cache.mask.dtype).min)
        hidden = self.core(
            input_ids=tokens,
            position_ids=(columns - cache.pads[:, None]).clamp(min=0),
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        cache.column = end
        result: Tensor = hidden
        return result


class ValueModel(nn.Module):
    """A backbone with a scalar head: the critic. The head starts at zero, so the first values are 0
    and the first advantages are the rewards."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(backbone.config.hidden_size, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.head.to(backbone.device)  # in fp32 whatever the backbone's precision

    def values(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        """(B, T): column t is the value of the state after reading token t."""
        result: Tensor = self.head(self.backbone.hidden(tokens, lengths).float()).squeeze(-1)
        return result


def recompute_layers(model: Backbone) -> None:
    """Activation checkpointing (arXiv:1604.06174): a layer's inside is computed again in the backward pass."""
    count = model.config.num_hidden_layers
    layers = next(
        m for m in model.core.modules() if isinstance(m, nn.ModuleList) and len(m) == count
    )
    for layer in layers:
        layer.forward = partial(_recomputed, layer.forward)


def _recomputed(forward: Callable[..., Any], *given: Any, **named: Any) -> Any:
    if not torch.is_grad_enabled():  # sampling and scoring keep nothing anyway
        return forward(*given, **named)
    return checkpoint(forward, *given, use_reentrant=False, **named)
