"""One decode step of llama-shaped models on a CPU, in as few operations as it takes.

A small model's step is mostly the cost of calling things: transformers spends several milliseconds
in modules around one or two of arithmetic. This is the same computation on the same weights with
projections that read one input joined into one product. Tests hold it to the model's own step.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from tinyzero.models import Backbone, KeyValueCache, has_fixed_rotary, merged_weight, signed_rotary

KINDS = ("qwen2", "llama")


class Layer(NamedTuple):
    """A layer's weights as the step reads them."""

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
    """The weights as the step reads them. Made anew whenever the weights change."""

    def __init__(self, model: Backbone) -> None:
        self.core: Any = model.lm.model
        self.eps = float(model.config.rms_norm_eps)
        self.layers = [_layer(block) for block in self.core.layers]
        self.cos, self.sin = signed_rotary(self.core, self.layers[0].norm, model.context)

    def __call__(self, token: Tensor, cache: KeyValueCache) -> Tensor:
        """Hidden states (B, D) of tokens (B,), which extend `cache`."""
        x = F.embedding(token, self.core.embed_tokens.weight)
        positions = cache.column - cache.pads
        cos, sin = self.cos[positions, None], self.sin[positions, None]  # (B, 1, head)
        column, end = cache.column, cache.column + 1
        groups, head = cache.keys.shape[2], cache.keys.shape[-1]
        mask = cache.mask[:, None, :end].repeat_interleave(groups, 0)  # (B * G, 1, end)
        for i, layer in enumerate(self.layers):
            joined = F.linear(self._norm(x, layer.norm), layer.qkv, layer.qkv_bias).unflatten(
                -1, (-1, head)
            )
            turned, value = joined[:, :-groups], joined[:, -groups:]
            turned = torch.addcmul(turned * cos, turned.roll(head // 2, -1), sin)
            query, key = turned[:, :-groups], turned[:, -groups:]
            cache.keys[i, :, :, column] = key
            cache.values[i, :, :, column] = value
            keys, values = (
                cache.keys[i].flatten(0, 1)[:, :end],
                cache.values[i].flatten(0, 1)[:, :end],
            )
            query = query.reshape(len(mask), -1, head)
            scores = torch.baddbmm(
                mask, query, keys.transpose(1, 2), alpha=head**-0.5
            )  # (B * G, H / G, end)
            mixed = torch.bmm(scores.softmax(-1), values).view(len(x), -1)
            x = torch.addmm(x, mixed, layer.out.T)
            if layer.out_bias is not None:
                x += layer.out_bias
            normed = self._norm(x, layer.mlp_norm)
            inner = F.silu(F.linear(normed, layer.gate), inplace=True).mul_(
                F.linear(normed, layer.up)
            )
            x = torch.addmm(x, inner, layer.down.T)
        cache.column = end
        return self._norm(x, self.core.norm.weight)

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps))


def fused_step(model: Backbone) -> FusedStep | None:
    """The step for `model`, or None where it would not be the model's own: by its kind, device or precision."""
    config = model.config
    if config.model_type not in KINDS or not has_fixed_rotary(config):
        return None
    plain = config.hidden_act == "silu" and not getattr(config, "mlp_bias", False)
    if not plain or model.device.type != "cpu" or model.dtype != torch.float32:
        return None
    return FusedStep(model)


def _layer(block: Any) -> Layer:
    a, m = block.self_attn, block.mlp
    projections = (a.q_proj, a.k_proj, a.v_proj)
    return Layer(
        norm=block.input_layernorm.weight,
        qkv=torch.cat([merged_weight(p) for p in projections]),
        qkv_bias=torch.cat([p.bias for p in projections]) if a.q_proj.bias is not None else None,
        out=merged_weight(a.o_proj),
        out_bias=a.o_proj.bias,
        mlp_norm=block.post_attention_layernorm.weight,
        gate=merged_weight(m.gate_proj),
        up=merged_weight(m.up_proj),
        down=merged_weight(m.down_proj),
    )
