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

from tinyzero.models import Backbone, SlotCache

KINDS = ("qwen2", "llama")


class Layer(NamedTuple):
    """A layer's weights as the step reads them."""

    norm: Tensor
    qkv: Tensor
    qkv_bias: Tensor | None
    out: Tensor
    out_bias: Tensor | None
    mlp_norm: Tensor
    gate_up: Tensor
    down: Tensor


class FusedStep:
    """The weights joined once, and the step that uses them. Made anew whenever the weights change."""

    def __init__(self, model: Backbone) -> None:
        self.core: Any = model.lm.model
        self.eps = float(model.config.rms_norm_eps)
        self.layers = [_layer(block) for block in self.core.layers]

    def __call__(self, token: Tensor, positions: Tensor, window: int, cache: SlotCache) -> Tensor:
        """Hidden states (B, D) of tokens (B,) at `positions` (B,), which extend `cache`; attention sees the first
        `window` columns, each row those up to its own position."""
        x = F.embedding(token, self.core.embed_tokens.weight)
        cos, sin = self.core.rotary_emb(x, positions[:, None])  # (B, 1, head)
        groups, head = cache.keys.shape[2], cache.keys.shape[-1]
        unseen = (torch.arange(window) > positions[:, None])[:, None, None]  # (B, 1, 1, window)
        some_unseen = bool(unseen.any())
        for i, layer in enumerate(self.layers):
            joined = F.linear(self._norm(x, layer.norm), layer.qkv, layer.qkv_bias).unflatten(-1, (-1, head))
            turned, value = joined[:, :-groups], joined[:, -groups:]
            half = head // 2
            turned = turned * cos + torch.cat((-turned[..., half:], turned[..., :half]), -1) * sin
            query, key = turned[:, :-groups], turned[:, -groups:]
            cache.keys[i][cache.rows, :, positions] = key
            cache.values[i][cache.rows, :, positions] = value
            scores = query.unflatten(1, (groups, -1)) * head**-0.5 @ cache.keys[i, :, :, :window].transpose(-1, -2)
            if some_unseen:
                scores.masked_fill_(unseen, torch.finfo(scores.dtype).min)
            mixed = (scores.softmax(-1) @ cache.values[i, :, :, :window]).flatten(1)
            x = x + F.linear(mixed, layer.out, layer.out_bias)
            gate, up = F.linear(self._norm(x, layer.mlp_norm), layer.gate_up).chunk(2, -1)
            x = x + F.linear(F.silu(gate) * up, layer.down)
        return self._norm(x, self.core.norm.weight)

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps))


def fused_step(model: Backbone) -> FusedStep | None:
    """The step for `model`, or None where it would not be the model's own: by its kind, device or precision."""
    config = model.config
    plain = config.model_type in KINDS and config.hidden_act == "silu" and not getattr(config, "mlp_bias", False)
    windowed = getattr(config, "use_sliding_window", False)
    if not plain or windowed or model.device.type != "cpu" or model.dtype != torch.float32:
        return None
    return FusedStep(model)


def _layer(block: Any) -> Layer:
    a, m = block.self_attn, block.mlp
    projections = (a.q_proj, a.k_proj, a.v_proj)
    return Layer(
        norm=block.input_layernorm.weight,
        qkv=torch.cat([p.weight for p in projections]),
        qkv_bias=torch.cat([p.bias for p in projections]) if a.q_proj.bias is not None else None,
        out=a.o_proj.weight,
        out_bias=a.o_proj.bias,
        mlp_norm=block.post_attention_layernorm.weight,
        gate_up=torch.cat((m.gate_proj.weight, m.up_proj.weight)),
        down=m.down_proj.weight,
    )
