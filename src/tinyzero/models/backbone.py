"""A causal language model as training and sampling see it, and the critic with its value head."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tinyzero.algorithms.losses import fp32_logits
from tinyzero.models.attention import causal_mask
from tinyzero.models.cache import KeyValueCache, LibraryCache, cache_shape
from tinyzero.models.packing import join_rows, to_device


def context_of(config: Any) -> int | None:
    """The longest sequence of a transformers configuration, in tokens; None if it has no limit.

    LongRoPE (Phi-3, Phi-4) turns all positions differently in a sequence that is longer than those
    of the first training. Keys that were cached before are then wrong, so that is the limit here.
    """
    limit = getattr(config, "max_position_embeddings", None)
    ropes = [getattr(config, "rope_parameters", None) or {}]
    ropes += [rope for rope in ropes[0].values() if isinstance(rope, dict)]
    shorter = [
        int(rope["original_max_position_embeddings"])
        for rope in ropes
        if rope.get("rope_type") == "longrope" and "original_max_position_embeddings" in rope
    ]
    return limit if limit is None else min([int(limit), *shorter])


class Backbone(nn.Module):
    """A causal language model of transformers: token ids in, logits or hidden states out."""

    lm: Any  # transformers has no common type for models with these parts

    def __init__(
        self,
        lm: nn.Module,
        pack: bool = False,
        share: bool = False,
        library_cache: bool = False,
    ) -> None:
        """`pack` and `share` change how `states` computes the rows of a batch, not the result.

        `pack` joins them, if their lengths are known. `share` computes what the rows of a group
        have in common once, if their groups are known too. `library_cache` reads tokens in step
        with transformers' own cache, which some architectures need.
        """
        super().__init__()
        self.lm = lm
        self.pack, self.share, self.library_cache = pack, share, library_cache

    @property
    def core(self) -> Any:
        """The model without its output layer."""
        return self.lm.base_model

    @property
    def head(self) -> Any:
        """The linear layer from hidden states to logits."""
        return self.lm.get_output_embeddings()

    @property
    def config(self) -> Any:
        """The model's configuration, an object of transformers."""
        return self.lm.config

    @property
    def context(self) -> int:
        """The longest sequence that the model accepts, in tokens; huge if there is no limit."""
        limit = context_of(self.config)
        return sys.maxsize if limit is None else limit

    @property
    def cache_bytes(self) -> int:
        """Bytes that one token takes in the key-value cache."""
        heads, width = cache_shape(self.config)
        layers = int(self.config.num_hidden_layers)
        return 2 * layers * heads * width * self.dtype.itemsize

    @property
    def device(self) -> torch.device:
        """The device that holds the weights."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the weights."""
        return next(self.parameters()).dtype

    def hidden(
        self, tokens: Tensor, lengths: Tensor | None = None, groups: Tensor | None = None
    ) -> Tensor:
        """The last hidden states (B, T, D) of tokens (B, T), which are padded on the right.

        The arguments are those of `states`. Hidden states of the padding are meaningless.
        """
        states, columns = self.states(tokens, lengths, groups)
        return states[to_device(columns, states.device)]

    def states(
        self, tokens: Tensor, lengths: Tensor | None = None, groups: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The last hidden states (U, D) of tokens (B, T), and which of them belongs to each token.

        `hidden(tokens)` is `states[columns]` with the (B, T) columns. The first `lengths[i]` tokens
        of row i are real. `groups` (B,) are the numbers of the rows' groups.

        All of them may be in CPU memory wherever the model is, and then so are the columns. The
        host reads `lengths` and `groups`, and waits for a GPU if they are there.
        """
        shares = self.share and groups is not None
        if lengths is None or not (self.pack or shares):
            inputs = to_device(tokens, self.device)
            mask = None if inputs.is_cuda else causal_mask(tokens.shape[1], self.dtype)
            hidden = self.core(
                input_ids=inputs, attention_mask=mask, use_cache=False
            ).last_hidden_state
            columns = torch.arange(tokens.numel(), device=tokens.device).view(tokens.shape)
            return hidden.flatten(0, 1), columns

        joined = join_rows(tokens, lengths, groups if self.share else None, self.device)
        # Our attention follows the packing and reads no mask. Without one, transformers would look
        # for joined rows in the positions, and the host would wait for a GPU.
        unread = torch.zeros(1, 1, 1, 1, device=self.device)
        hidden = self.core(
            input_ids=joined.tokens[None],
            position_ids=joined.positions[None],
            attention_mask=unread,
            use_cache=False,
            packing=joined.packing,
        ).last_hidden_state
        return hidden[0], joined.columns

    def logits_of(self, hidden: Tensor) -> Tensor:
        """float32 logits (..., V) of hidden states (..., D), for inference."""
        rows = hidden.flatten(0, -2)
        logits = fp32_logits(rows, self.head.weight, self.head.bias)
        result: Tensor = logits.unflatten(0, hidden.shape[:-1])
        return result

    def logits(self, tokens: Tensor) -> Tensor:
        """float32 logits (B, T, V) of right-padded tokens (B, T). Column t predicts token t + 1."""
        return self.logits_of(self.hidden(tokens))

    def new_cache(self, pads: Tensor, length: int) -> KeyValueCache | LibraryCache:
        """An empty cache of `length` columns for rows padded by `pads` (B,) on the left."""
        if self.library_cache:
            return LibraryCache(self.config, pads, self.device)
        return KeyValueCache(self.config, pads, length, self.dtype, self.device)

    def step(self, tokens: Tensor, cache: KeyValueCache | LibraryCache) -> Tensor:
        """Read the next tokens (B, Q), which extend `cache`: their hidden states (B, Q, D)."""
        end = cache.column + tokens.shape[1]
        columns = torch.arange(cache.column, end, device=tokens.device)

        past: Any = cache
        if isinstance(cache, LibraryCache):
            mask, past = cache.is_real(end), cache.inner
        else:
            mask = _mask(cache, columns, end)
        hidden: Tensor = self.core(
            input_ids=tokens,
            position_ids=(columns - cache.pads[:, None]).clamp(min=0),
            attention_mask=mask,
            past_key_values=past,
            use_cache=True,
        ).last_hidden_state
        cache.column = end
        return hidden


def _mask(cache: KeyValueCache, columns: Tensor, end: int) -> Tensor | None:
    """The mask (B, 1, Q, end) to add to the scores of the queries in `columns` (Q,).

    It is None for prompts without padding on a GPU. Plain causal attention is enough for them, and
    flash attention takes no mask.
    """
    if columns.is_cuda and cache.column == 0 and not cache.is_padded:
        return None
    is_future = torch.arange(end, device=columns.device) > columns[:, None]  # (Q, end)
    lowest = torch.finfo(cache.mask.dtype).min
    return cache.mask[:, None, None, :end].masked_fill(is_future, lowest)


class ValueModel(nn.Module):
    """The critic: a backbone whose head gives one number per token, the value.

    The head starts at zero. Therefore the first values are 0, and the first advantages are the
    returns.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(backbone.config.hidden_size, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.head.to(backbone.device)  # always float32, unlike the backbone

    @property
    def share(self) -> bool:
        """Whether what the rows of a group have in common is computed once."""
        return self.backbone.share

    def values(
        self, tokens: Tensor, lengths: Tensor | None = None, groups: Tensor | None = None
    ) -> Tensor:
        """Values (B, T) of tokens (B, T). Column t is the value after reading token t.

        The arguments are those of `Backbone.states`.
        """
        states, columns = self.backbone.states(tokens, lengths, groups)
        values: Tensor = self.head(states.float()).squeeze(-1)
        return values[to_device(columns, values.device)]


def recompute_layers(model: Backbone) -> None:
    """Activation checkpointing (arXiv:1604.06174): the backward pass computes each layer again.

    Only the input of each layer is kept in memory, instead of everything inside it.
    """
    count = model.config.num_hidden_layers
    lists = [module for module in model.core.modules() if isinstance(module, nn.ModuleList)]
    layers = next(modules for modules in lists if len(modules) == count)

    for layer in layers:
        layer.forward = partial(_recomputed, layer.forward)


def _recomputed(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a layer's `forward` so that its backward pass computes it again."""
    if not torch.is_grad_enabled():  # sampling and scoring keep no activations anyway
        return forward(*args, **kwargs)
    # Nothing in a layer is random: a model is in evaluation mode, in which dropout does nothing.
    return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)
