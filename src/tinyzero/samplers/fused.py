"""A fast decoding step on a CPU for models with the architecture of Llama or Qwen 2.

For a small model the time of a step is mostly overhead: transformers spends several milliseconds in
calls of modules, and one or two in arithmetic. Here the same computation, with the same weights,
takes as few operations as possible. For example, the projections of query, key and value are one
matrix product. Tests compare the step with that of transformers.

For a larger model the time is that of the matrix products. oneDNN computes these up to twice as
fast if the weights are first brought into its own order. That takes as long as decoding a few
tokens, and it needs memory for a copy of the weights.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from tinyzero.models import Backbone, KeyValueCache, has_fixed_rotary, merged_weight, signed_rotary
from tinyzero.samplers.memory import machine_memory

KINDS = ("qwen2", "llama")

# It pays to reorder weights from this many rows and numbers per hidden state on.
FEWEST_ROWS = 8
SMALLEST_WIDTH = 256


class Layer(NamedTuple):
    """The weights of one layer, with adapters merged and the first three projections joined."""

    norm: Tensor
    qkv: Tensor
    qkv_bias: Tensor | None
    out: Tensor
    out_bias: Tensor | None
    mlp_norm: Tensor
    gate: Tensor
    up: Tensor
    down: Tensor


class FusedStep:
    """A decoding step with copies of the weights. Build a new one whenever the weights change."""

    def __init__(self, model: Backbone, reorder: bool = False) -> None:
        """`reorder` brings the weights into oneDNN's own order."""
        self.core: Any = model.lm.model
        self.eps = float(model.config.rms_norm_eps)
        layers = [_layer(block) for block in self.core.layers]
        self.layers = [reordered(layer) for layer in layers] if reorder else layers

        self.head_bias = model.head.bias
        self.head = merged_weight(model.head)
        if reorder:
            self.head = torch.ops.mkldnn._reorder_linear_weight(self.head)
        self.cos, self.sin = signed_rotary(self.core, self.core.norm.weight, model.context)

    def logits(self, token: Tensor, cache: KeyValueCache) -> Tensor:
        """Read tokens (B,), which extend `cache`: logits (B, V) of the tokens after them."""
        return product(self(token, cache), self.head, self.head_bias)

    def __call__(self, token: Tensor, cache: KeyValueCache) -> Tensor:
        """Read tokens (B,), which extend `cache`: their hidden states (B, D).

        In the comments H counts query heads, G key-value heads, and W the numbers per head.
        """
        x = F.embedding(token, self.core.embed_tokens.weight)
        column = cache.column
        end = column + 1
        cache.make_room(end)
        groups = cache.keys.shape[2]
        width = cache.keys.shape[-1]

        positions = column - cache.pads
        cos = self.cos[positions, None]  # (B, 1, W)
        sin = self.sin[positions, None]
        mask = cache.mask[:, None, :end].repeat_interleave(groups, 0)  # (B * G, 1, end)

        for i, layer in enumerate(self.layers):
            normed = self._norm(x, layer.norm)
            joined = product(normed, layer.qkv, layer.qkv_bias).unflatten(-1, (-1, width))
            query_and_key = joined[:, :-groups]  # (B, H + G, W)
            rotated_half = query_and_key.roll(width // 2, -1)
            rotated = torch.addcmul(query_and_key * cos, rotated_half, sin)

            cache.keys[i, :, :, column] = rotated[:, -groups:]
            cache.values[i, :, :, column] = joined[:, -groups:]
            keys = cache.keys[i].flatten(0, 1)[:, :end]  # (B * G, end, W)
            values = cache.values[i].flatten(0, 1)[:, :end]

            query = rotated[:, :-groups].reshape(len(mask), -1, width)  # (B * G, H / G, W)
            scores = torch.baddbmm(mask, query, keys.transpose(1, 2), alpha=width**-0.5)
            mixed = torch.bmm(scores.softmax(-1), values).view(len(x), -1)
            x = add_product(x, mixed, layer.out)
            if layer.out_bias is not None:
                x += layer.out_bias

            normed = self._norm(x, layer.mlp_norm)
            gate = F.silu(product(normed, layer.gate), inplace=True)
            x = add_product(x, gate.mul_(product(normed, layer.up)), layer.down)

        cache.column = end
        return self._norm(x, self.core.norm.weight)

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        """RMS norm over the last dimension."""
        return weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps))


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x weightᵀ + bias: (B, D) -> (B, E), for a weight (E, D) in either order."""
    if weight.is_mkldnn:
        result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return result
    return F.linear(x, weight, bias)


def add_product(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """x + y weightᵀ: (B, E) and (B, D) -> (B, E), for a weight (E, D) in either order."""
    if weight.is_mkldnn:
        return product(y, weight).add_(x)
    return torch.addmm(x, y, weight.T)


def reordered(layer: Layer) -> Layer:
    """A layer whose matrices are in oneDNN's own order."""
    matrices = {
        name: torch.ops.mkldnn._reorder_linear_weight(weight)
        for name, weight in layer._asdict().items()
        if weight is not None and weight.ndim == 2
    }
    return layer._replace(**matrices)


def fused_step(model: Backbone, rows: int = 1) -> FusedStep | None:
    """The fast step for `rows` rows, or None if `model` is not supported.

    Its type, its device or its precision may not be.
    """
    config = model.config
    if config.model_type not in KINDS or not has_fixed_rotary(config):
        return None
    has_usual_mlp = config.hidden_act == "silu" and not getattr(config, "mlp_bias", False)
    if not has_usual_mlp or model.device.type != "cpu" or model.dtype != torch.float32:
        return None
    return FusedStep(model, reorder=rows >= FEWEST_ROWS and should_reorder(model))


def should_reorder(model: Backbone) -> bool:
    """Whether a model is large enough to gain from another order, and memory for a copy of it."""
    if model.config.hidden_size < SMALLEST_WIDTH or not torch.backends.mkldnn.is_available():
        return False
    size = sum(parameter.nbytes for parameter in model.parameters())
    return 8 * size < machine_memory(model.device)  # training needs most of it


def _layer(block: Any) -> Layer:
    """The weights of one layer of transformers' model."""
    attention = block.self_attn
    mlp = block.mlp
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    has_bias = attention.q_proj.bias is not None

    return Layer(
        norm=block.input_layernorm.weight,
        qkv=torch.cat([merged_weight(projection) for projection in projections]),
        qkv_bias=torch.cat([projection.bias for projection in projections]) if has_bias else None,
        out=merged_weight(attention.o_proj),
        out_bias=attention.o_proj.bias,
        mlp_norm=block.post_attention_layernorm.weight,
        gate=merged_weight(mlp.gate_proj),
        up=merged_weight(mlp.up_proj),
        down=merged_weight(mlp.down_proj),
    )
