"""Decoding in slots, for a GPU: all shapes are fixed, so that a step is one CUDA graph.

Each slot holds the keys and values of one sequence, which are read up to the sequence's own length.
When a sequence ends, the next one takes its slot. The weights are the learner's, and are not
copied. Everything but the CUDA graphs also runs on a CPU, where tests compare it with decoding in
step.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tinyzero.models import (
    Backbone,
    KeyValueCache,
    attention,
    cache_shape,
    has_fixed_rotary,
    signed_rotary,
)
from tinyzero.samplers.draw import next_token
from tinyzero.types import SamplingParams

KINDS = ("qwen2", "qwen3", "llama")
PREFILL_TOKENS = 16384  # prompt tokens that are read at the same time
SMALLEST = 16  # the fewest slots that are worth their own CUDA graph
ALIGNMENT = 64  # the length of a slot is a multiple of this

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From query (count, H, D), keys and values (count, length, G, D) to the result (count, H, D).

H counts query heads, G key-value heads, and D the numbers per head.
"""


def supports(model: Backbone) -> bool:
    """Whether `Slots.forward` computes what `model` computes."""
    return model.config.model_type in KINDS and has_fixed_rotary(model.config)


class Slots:
    """Room for `count` sequences of up to `length` tokens, and the state of each."""

    def __init__(self, model: Backbone, count: int, length: int) -> None:
        device = model.device
        self.model = model
        self.core = model.core
        self.count = count
        self.length = -(-length // ALIGNMENT) * ALIGNMENT  # rounded up

        heads, width = cache_shape(model.config)
        shape = (model.config.num_hidden_layers, count, self.length, heads, width)
        self.keys = torch.zeros(shape, dtype=model.dtype, device=device)
        self.values = torch.zeros(shape, dtype=model.dtype, device=device)

        # For each slot: the token to be read next, the number of tokens read before it, and the
        # position and key of the next draw.
        self.token = torch.zeros(count, dtype=torch.long, device=device)
        self.filled = torch.zeros(count, dtype=torch.long, device=device)
        self.position = torch.zeros(count, dtype=torch.long, device=device)
        self.seeds = torch.zeros(count, dtype=torch.long, device=device)

        self.cos, self.sin = signed_rotary(self.core, self.keys, self.length)
        self.starts = torch.arange(count + 1, dtype=torch.int32, device=device)
        self.attention = fastest_attention(self)

        self.graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        self.pool: Any = None  # memory that all graphs share, since only one runs at a time
        self.capturing = device.type == "cuda"
        self.weights = weights_of(model)

    def fits(self, model: Backbone, count: int, length: int) -> bool:
        """Whether there is room for `count` sequences of `length` tokens of this model.

        The weights must still be at the same addresses, because CUDA graphs read them there.
        """
        is_large_enough = self.count >= count and self.length >= length
        return is_large_enough and self.weights == weights_of(model)

    def bucket(self, needed: int) -> int:
        """The smallest of all, half, a quarter, ... of the slots that is at least `needed`."""
        count = self.count
        while count > SMALLEST and (count + 1) // 2 >= needed:
            count = (count + 1) // 2
        return count

    def enter(
        self,
        slots: Tensor,
        prompts: Sequence[Sequence[int]],
        which: Tensor,
        seeds: Tensor,
        positions: Tensor,
    ) -> Tensor:
        """Read prompts into slots: logits (N, V) of the first token of each slot.

        Slot `slots[i]` gets the prompt `prompts[which[i]]`, with `which` ascending. Several slots
        may share a prompt, which is read once. `seeds[i]` is the key of the slot's randomness, and
        `positions[i]` the position of its first draw. `slots`, `which`, `seeds` and `positions` are
        (N,) int64.
        """
        device = self.token.device
        prompts_at_once = max(1, PREFILL_TOKENS // max(map(len, prompts)))

        logits = []
        for first in range(0, len(prompts), prompts_at_once):
            is_here = (which >= first) & (which < first + prompts_at_once)
            logits.append(
                self._enter_some(
                    slots[is_here].to(device),
                    prompts[first : first + prompts_at_once],
                    (which[is_here] - first).to(device),
                )
            )

        slots = slots.to(device)
        self.position[slots] = positions.to(device)
        self.seeds[slots] = seeds.to(device)
        return torch.cat(logits)

    def _enter_some(self, slots: Tensor, prompts: Sequence[Sequence[int]], which: Tensor) -> Tensor:
        """Read a few prompts at once, and copy their keys and values into the slots."""
        device = self.token.device
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
        width = max(map(len, prompts))
        padded = [[*prompt, *[0] * (width - len(prompt))] for prompt in prompts]

        no_pads = torch.zeros(len(prompts))
        cache = KeyValueCache(self.model.config, no_pads, width, self.model.dtype, device)
        hidden = self.model.step(torch.tensor(padded, device=device), cache)
        last_hidden = hidden[torch.arange(len(prompts), device=device), lengths - 1]

        self.keys[:, slots, :width] = cache.keys[:, which].transpose(2, 3)
        self.values[:, slots, :width] = cache.values[:, which].transpose(2, 3)
        self.filled[slots] = lengths[which]
        return self.model.logits_of(last_hidden)[which]

    def draw(self, slots: Tensor, logits: Tensor, params: SamplingParams) -> tuple[Tensor, Tensor]:
        """The next token (N,) of `slots` (N,), drawn from `logits` (N, V), and its logprob (N,)."""
        token, logprob = next_token(logits, self.seeds[slots], self.position[slots], params)
        self.token[slots] = token
        self.position[slots] += 1
        return token, logprob

    def step(self, count: int, params: SamplingParams) -> tuple[Tensor, Tensor]:
        """Read the token of each of the first `count` slots, and draw the token after it.

        Returns ids and log-probabilities, (count,) each. Free slots are stepped as well, because
        the shapes are fixed; the caller ignores what they draw.
        """
        logits = self._replay(count) if self.capturing else self.forward(count)
        self.filled[:count] = (self.filled[:count] + 1).clamp(max=self.length - 1)
        return self.draw(torch.arange(count, device=self.token.device), logits, params)

    def gather(self, slots: Tensor) -> None:
        """Move the sequences in `slots` to the first slots, in this order."""
        slots = slots.to(self.token.device)
        for state in (self.token, self.filled, self.position, self.seeds):
            state[: len(slots)] = state[slots]
        for layer in (
            *self.keys,
            *self.values,
        ):  # layer by layer, so that the temporary copy is small
            layer[: len(slots)] = layer[slots]

    def forward(self, count: int) -> Tensor:
        """float32 logits (count, V) of the first slots, after reading their tokens.

        The keys and values of these tokens are added to the slots.
        """
        core = self.core
        filled = self.filled[:count]
        cos = self.cos[filled, None]  # (count, 1, width)
        sin = self.sin[filled, None]
        cache_rows = self.starts[:count] * self.length + filled  # of all slots joined end to end
        attend = self.attention(self, count, filled + 1)

        x = F.embedding(self.token[:count], core.embed_tokens.weight)
        for i, block in enumerate(core.layers):
            layer = block.self_attn
            width = layer.head_dim
            normed = norm(x, block.input_layernorm)
            query = layer.q_proj(normed).view(count, -1, width)
            key = layer.k_proj(normed).view(count, -1, width)
            value = layer.v_proj(normed).view(count, -1, width)
            if hasattr(layer, "q_norm"):
                query = norm(query, layer.q_norm)
                key = norm(key, layer.k_norm)

            heads = query.shape[1]
            joined = torch.cat((query, key), 1)
            rotated = torch.addcmul(joined * cos, joined.roll(width // 2, -1), sin)
            self.keys[i].flatten(0, 1).index_copy_(0, cache_rows, rotated[:, heads:])
            self.values[i].flatten(0, 1).index_copy_(0, cache_rows, value)

            mixed = attend(rotated[:, :heads], self.keys[i, :count], self.values[i, :count])
            x = x + layer.o_proj(mixed.reshape(count, -1))
            x = x + block.mlp(norm(x, block.post_attention_layernorm))
        return self.model.logits_of(norm(x, core.norm))

    def _replay(self, count: int) -> Tensor:
        """`forward` as a CUDA graph, which is captured at the first use.

        If capturing fails, a warning says so and `forward` is called directly from then on.
        """
        if count not in self.graphs:
            try:
                self.graphs[count] = self._capture(count)
            except RuntimeError as error:
                warnings.warn(
                    f"decoding without CUDA graphs, which is slower: {error}", stacklevel=2
                )
                self.capturing = False
                return self.forward(count)
        graph, logits = self.graphs[count]
        graph.replay()
        return logits

    def _capture(self, count: int) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        """A CUDA graph of `forward`, and the tensor to which it writes the logits.

        `forward` runs several times here. This is harmless: it writes the same keys and values
        again.
        """
        warm_up = torch.cuda.Stream()
        warm_up.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(warm_up):  # libraries initialise themselves, outside of the capture
            for _ in range(2):
                self.forward(count)
        torch.cuda.current_stream().wait_stream(warm_up)

        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool):
            logits = self.forward(count)
        self.pool = graph.pool()
        return graph, logits


def weights_of(model: Backbone) -> list[int]:
    """The addresses of the model's weights."""
    return [parameter.data_ptr() for parameter in model.parameters()]


def norm(x: Tensor, module: Any) -> Tensor:
    """RMS norm with the weight of `module`, in one kernel."""
    return F.rms_norm(x, module.weight.shape, module.weight, module.variance_epsilon)


def masked_attention(slots: Slots, count: int, used: Tensor) -> Attend:
    """Attention over the first `used` (count,) tokens of each slot, on any device.

    Whole slots are read, and what is not used is masked. Heads that share keys are the rows of one
    matrix product.
    """
    is_used = torch.arange(slots.length, device=used.device) < used[:, None]
    mask = is_used[:, None, None]

    def attend(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        grouped = query.unflatten(1, (keys.shape[2], -1))  # (count, G, H / G, D)
        result = F.scaled_dot_product_attention(
            grouped, keys.transpose(1, 2), values.transpose(1, 2), mask
        )
        return result.flatten(1, 2)

    return attend


def flash_attention(slots: Slots, count: int, used: Tensor) -> Attend:
    """`masked_attention` with flash attention, which reads only the used part of a slot."""
    query_edges = slots.starts[: count + 1]
    key_edges = query_edges * slots.length
    used = used.int()

    def attend(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        return attention.flash_attention(
            query,
            keys.flatten(0, 1),
            values.flatten(0, 1),
            query_edges,
            key_edges,
            longest_query=1,
            longest_key=slots.length,
            used=used,
        )

    return attend


def fastest_attention(slots: Slots) -> Callable[[Slots, int, Tensor], Attend]:
    """Flash attention for 16-bit models on a GPU, if it works there, else `masked_attention`."""
    if not slots.keys.is_cuda or slots.keys.dtype not in (torch.bfloat16, torch.float16):
        return masked_attention
    if fault := fault_of(flash_attention, slots):
        warnings.warn(f"decoding without flash attention, which is slower: {fault}", stacklevel=2)
        return masked_attention
    return flash_attention


def fault_of(candidate: Callable[[Slots, int, Tensor], Attend], slots: Slots) -> str:
    """Why `candidate` cannot replace `masked_attention` on this device; empty if it can."""
    cached = slots.keys[0]
    count = min(slots.count, 4)
    heads = slots.model.config.num_attention_heads

    query = torch.randn(count, heads, cached.shape[-1], dtype=cached.dtype, device=cached.device)
    keys = torch.randn_like(cached[:count])
    values = torch.randn_like(cached[:count])
    used = torch.arange(1, count + 1, device=cached.device) * (slots.length // count)

    expected = masked_attention(slots, count, used)(query, keys, values)
    try:
        result = candidate(slots, count, used)(query, keys, values)
    except (RuntimeError, TypeError) as error:  # the device, or this version of torch, lacks it
        return str(error)
    is_right = torch.allclose(result.float(), expected.float(), atol=0.02, rtol=0.02)
    return "" if is_right else "its numbers are wrong"
