"""Decoding in slots, for a GPU: static shapes, so that a step is one CUDA graph.

Each slot holds one sequence's keys and values, read up to its own length; a sequence that ends leaves its slot to the
next that waits. The weights are the learner's, read where they are. Everything but the capture runs on a CPU too,
where tests hold it to the lock-step path.
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
PREFILL_TOKENS = 16384  # prompt tokens read at once
SMALLEST = 16  # slots that are still worth a graph of their own
ALIGNMENT = 64  # of a slot's length

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def supports(model: Backbone) -> bool:
    """Whether the step below is this model's own."""
    return model.config.model_type in KINDS and has_fixed_rotary(model.config)


class Slots:
    """`count` sequences of up to `length` tokens, and what the next step needs to know of each."""

    def __init__(self, model: Backbone, count: int, length: int) -> None:
        self.model, self.core, device = model, model.core, model.device
        self.count, self.length = count, -(-length // ALIGNMENT) * ALIGNMENT
        heads, width = cache_shape(model.config)
        shape = (model.config.num_hidden_layers, count, self.length, heads, width)
        self.keys = torch.zeros(shape, dtype=model.dtype, device=device)
        self.values = torch.zeros(shape, dtype=model.dtype, device=device)
        self.token = torch.zeros(count, dtype=torch.long, device=device)  # to be read next
        self.filled = torch.zeros(count, dtype=torch.long, device=device)  # tokens read before it
        self.position = torch.zeros(count, dtype=torch.long, device=device)  # of the next draw
        self.seeds = torch.zeros(count, dtype=torch.long, device=device)  # keys of the randomness
        self.cos, self.sin = signed_rotary(self.core, self.keys, self.length)
        self.starts = torch.arange(count + 1, dtype=torch.int32, device=device)
        self.attention = fastest_attention(self)
        self.graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        self.pool: Any = None  # the graphs' memory, which they share: one runs at a time
        self.capturing = device.type == "cuda"
        self.weights = weights_of(model)

    def fits(self, model: Backbone, count: int, length: int) -> bool:
        """Whether these slots do for so many sequences of that length; graphs read the weights where they were."""
        return self.count >= count and self.length >= length and self.weights == weights_of(model)

    def bucket(self, needed: int) -> int:
        """The fewest slots stepped together that hold `needed`: all, a half, a quarter, ..."""
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
        """Put prompt `which[i]` into slot `slots[i]`; logits (N, V) of the first tokens.

        Each prompt is read once.
        `seeds[i]` keys the randomness of its tokens, the first of which draws at `positions[i]`.
        """
        device, logits = self.token.device, []
        at_once = max(1, PREFILL_TOKENS // max(map(len, prompts)))
        for first in range(0, len(prompts), at_once):
            some = prompts[first : first + at_once]
            mine = (which >= first) & (which < first + at_once)
            into, source = slots[mine].to(device), (which[mine] - first).to(device)
            lengths, width = torch.tensor(list(map(len, some)), device=device), max(map(len, some))
            ids = torch.tensor([[*p, *[0] * (width - len(p))] for p in some], device=device)
            cache = KeyValueCache(
                self.model.config, torch.zeros(len(some)), width, self.model.dtype, device
            )
            hidden = self.model.step(ids, cache)[
                torch.arange(len(some), device=device), lengths - 1
            ]
            logits.append(self.model.logits_of(hidden)[source])
            self.keys[:, into, :width] = cache.keys[:, source].transpose(2, 3)
            self.values[:, into, :width] = cache.values[:, source].transpose(2, 3)
            self.filled[into] = lengths[source]
        self.position[slots.to(device)] = positions.to(device)
        self.seeds[slots.to(device)] = seeds.to(device)
        return torch.cat(logits)

    def draw(self, slots: Tensor, logits: Tensor, params: SamplingParams) -> tuple[Tensor, Tensor]:
        """The next token of some slots and its log-probability, (N,) each."""
        token, logprob = next_token(logits, self.seeds[slots], self.position[slots], params)
        self.token[slots] = token
        self.position[slots] += 1
        return token, logprob

    def step(self, count: int, params: SamplingParams) -> tuple[Tensor, Tensor]:
        """Read the token of each of the first `count` slots and draw the one after: ids and log-probabilities.

        Slots without a sequence are stepped too: it costs nothing, and nobody looks.
        """
        logits = self._replay(count) if self.capturing else self.forward(count)
        self.filled[:count] = (self.filled[:count] + 1).clamp(max=self.length - 1)
        return self.draw(torch.arange(count, device=self.token.device), logits, params)

    def gather(self, slots: Tensor) -> None:
        """Move the sequences in these slots to the first ones, in their order."""
        slots = slots.to(self.token.device)
        for state in (self.token, self.filled, self.position, self.seeds):
            state[: len(slots)] = state[slots]
        for layer in (*self.keys, *self.values):  # one at a time: the copy in between is small
            layer[: len(slots)] = layer[slots]

    def forward(self, count: int) -> Tensor:
        """fp32 logits (count, V) after the tokens of the first slots, whose keys and values are written."""
        core, at = self.core, self.filled[:count]
        cos, sin = self.cos[at, None], self.sin[at, None]  # (count, 1, width)
        rows = self.starts[:count] * self.length + at
        attend = self.attention(self, count, at + 1)
        x = F.embedding(self.token[:count], core.embed_tokens.weight)
        for i, block in enumerate(core.layers):
            a, normed = block.self_attn, norm(x, block.input_layernorm)
            width = a.head_dim
            query = a.q_proj(normed).view(count, -1, width)
            key = a.k_proj(normed).view(count, -1, width)
            if hasattr(a, "q_norm"):
                query, key = norm(query, a.q_norm), norm(key, a.k_norm)
            heads, turned = query.shape[1], torch.cat((query, key), 1)
            turned = torch.addcmul(turned * cos, turned.roll(width // 2, -1), sin)
            self.keys[i].flatten(0, 1).index_copy_(0, rows, turned[:, heads:])
            self.values[i].flatten(0, 1).index_copy_(
                0, rows, a.v_proj(normed).view(count, -1, width)
            )
            mixed = attend(turned[:, :heads], self.keys[i, :count], self.values[i, :count])
            x = x + a.o_proj(mixed.reshape(count, -1))
            x = x + block.mlp(norm(x, block.post_attention_layernorm))
        return self.model.logits_of(norm(x, core.norm))

    def _replay(self, count: int) -> Tensor:
        """`forward` as a graph, captured at the first use; eager from then on where that fails."""
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
        """A graph of `forward` and the logits it writes. It only writes what the step itself would."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # libraries set themselves up outside the capture
            for _ in range(2):
                self.forward(count)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool):
            logits = self.forward(count)
        self.pool = graph.pool()
        return graph, logits


def weights_of(model: Backbone) -> list[int]:
    """Where the model's weights lie."""
    return [p.data_ptr() for p in model.parameters()]


def norm(x: Tensor, module: Any) -> Tensor:
    """RMS norm in one kernel."""
    return F.rms_norm(x, module.weight.shape, module.weight, module.variance_epsilon)


def masked_attention(slots: Slots, count: int, used: Tensor) -> Attend:
    """Attention over the first `used` (count,) tokens of each slot, whole slots read and masked. Runs anywhere.

    query (count, H, D), keys and values (count, length, G, D) -> (count, H, D). The heads that share keys are the
    rows of one product.
    """
    mask = (torch.arange(slots.length, device=used.device) < used[:, None])[:, None, None]

    def attend(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        grouped = query.unflatten(1, (keys.shape[2], -1))  # (count, G, H / G, D)
        found = F.scaled_dot_product_attention(
            grouped, keys.transpose(1, 2), values.transpose(1, 2), mask
        )
        return found.flatten(1, 2)

    return attend


def flash_attention(slots: Slots, count: int, used: Tensor) -> Attend:
    """The same by PyTorch's variable-length flash attention, which reads no more of a slot than is used."""
    queries, sequences, used = (
        slots.starts[: count + 1],
        slots.starts[: count + 1] * slots.length,
        used.int(),
    )

    def attend(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        keys, values = keys.flatten(0, 1), values.flatten(0, 1)
        return attention.flash_attention(
            query, keys, values, queries, sequences, 1, slots.length, used=used
        )

    return attend


def fastest_attention(slots: Slots) -> Callable[[Slots, int, Tensor], Attend]:
    """Flash attention where weights in 16 bits are on a GPU and it is right there, else the masked one."""
    if not slots.keys.is_cuda or slots.keys.dtype not in (torch.bfloat16, torch.float16):
        return masked_attention
    if fault := fault_of(flash_attention, slots):
        warnings.warn(f"decoding without flash attention, which is slower: {fault}", stacklevel=2)
        return masked_attention
    return flash_attention


def fault_of(candidate: Callable[[Slots, int, Tensor], Attend], slots: Slots) -> str:
    """What keeps `candidate` from doing here what the masked one does; nothing where it does."""
    keys, count = slots.keys[0], min(slots.count, 4)
    heads = slots.model.config.num_attention_heads
    query = torch.randn(count, heads, keys.shape[-1], dtype=keys.dtype, device=keys.device)
    some, other = torch.randn_like(keys[:count]), torch.randn_like(keys[:count])
    used = torch.arange(1, count + 1, device=keys.device) * (slots.length // count)
    expected = masked_attention(slots, count, used)(query, some, other)
    try:
        found = candidate(slots, count, used)(query, some, other)
    except (
        RuntimeError,
        TypeError,
    ) as error:  # a device that lacks it, or a torch that calls it otherwise
        return str(error)
    right = torch.allclose(found.float(), expected.float(), atol=0.02, rtol=0.02)
    return "" if right else "its numbers are wrong"
