"""Decoding in slots, for a GPU: all shapes are fixed, so that a step is one CUDA graph.

Each slot decodes one sequence, whose keys and values lie in a room of the cache (rooms.py) and are
read up to the sequence's own length. When a sequence ends, the next one takes its slot. The
weights are the learner's, and are not copied. Everything but the CUDA graphs also runs on a CPU,
where tests compare it with decoding in step.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
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
from tinyzero.samplers.rooms import Layout
from tinyzero.types import SamplingParams

KINDS = ("qwen2", "qwen3", "llama")
PREFILL_TOKENS = 16384  # prompt tokens that are read at the same time
WORST_GAP = 0.02  # relative; bf16 rounds by up to 0.004
SMALLEST = 16  # the fewest slots that are worth their own CUDA graph

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From query (count, H, D), keys and values (tokens, G, D) of a layer to the result (count, H, D).

H counts query heads, G key-value heads, D the numbers per head, and tokens those of all rooms.
"""
Attention = Callable[["Slots", Tensor, Tensor], Attend]
"""Attention over the first `used` (count,) tokens of the rooms that begin at `starts` (count,)."""


def supports(model: Backbone) -> bool:
    """Whether `Slots.forward` computes what `model` computes."""
    return model.config.model_type in KINDS and has_fixed_rotary(model.config)


class Slots:
    """The sequences that are decoded together, one per slot, and the cache with their rooms."""

    def __init__(self, model: Backbone, layout: Layout) -> None:
        device = model.device
        self.model = model
        self.core = model.core
        self.layout = layout
        self.count = layout.count
        self.length = layout.length

        heads, width = cache_shape(model.config)
        shape = (model.config.num_hidden_layers, layout.tokens, heads, width)
        self.keys = torch.zeros(shape, dtype=model.dtype, device=device)
        self.values = torch.zeros(shape, dtype=model.dtype, device=device)

        # For each slot: the token to be read next, the number of tokens read before it, and the
        # position and key of the next draw.
        self.token = torch.zeros(self.count, dtype=torch.long, device=device)
        self.filled = torch.zeros(self.count, dtype=torch.long, device=device)
        self.position = torch.zeros(self.count, dtype=torch.long, device=device)
        self.seeds = torch.zeros(self.count, dtype=torch.long, device=device)

        # For each slot: the first token of its room, and 1 if it is decoded, else 0.
        self.placed = torch.zeros(self.count, 2, dtype=torch.long, device=device)
        self.assign_rooms(torch.tensor([[layout.start(room), 1] for room in range(self.count)]))

        self.cos, self.sin = signed_rotary(self.core, self.keys, self.length)
        self.edges = torch.arange(self.count + 1, dtype=torch.int32, device=device)
        self.faults: list[str] = []  # what makes decoding slower than it should be
        self.attention = fastest_attention(self)

        self.graphs: dict[Any, tuple[torch.cuda.CUDAGraph, tuple[Tensor, Tensor]]] = {}
        self.pool: Any = None  # memory that all graphs share, since only one runs at a time
        self.capturing = device.type == "cuda"
        self.weights = weights_of(model)
        self.products = [Products(block) for block in self.core.layers]

    def fits(self, model: Backbone, layout: Layout) -> bool:
        """Whether these slots have this layout and read this model.

        The weights must still be at the same addresses, because CUDA graphs read them there.
        """
        return self.layout == layout and self.weights == weights_of(model)

    def assign_rooms(self, placed: Tensor) -> None:
        """Say where the rooms of the first slots begin, and which of these slots are decoded.

        `placed` (slots, 2) int64 is on the host: the first token of a slot's room, and 1 or 0.
        A slot that is not decoded keeps its state. It is computed all the same, because the shapes
        are fixed. It then reads and writes the spare tokens at the beginning of the cache.
        """
        if self.placed.is_cuda:
            placed = placed.pin_memory()  # so that the host need not wait for the copy
        self.placed[: len(placed)].copy_(placed, non_blocking=True)

    def bucket(self, needed: int) -> int:
        """The smallest of all, half, a quarter, ... of the slots that is at least `needed`."""
        count = self.count
        while count > SMALLEST and (count + 1) // 2 >= needed:
            count = (count + 1) // 2
        return count

    def buckets(self) -> list[int]:
        """All numbers of slots that are ever stepped together, in descending order."""
        counts = [self.count]
        while (smaller := self.bucket(-(-counts[-1] // 2))) < counts[-1]:
            counts.append(smaller)
        return counts

    def lengths(self) -> Tensor:
        """(count,) the tokens that fit into each room, in the order of the rooms."""
        layout = self.layout
        lengths = [layout.length] * layout.long + [layout.short_length] * layout.short
        return torch.tensor(lengths, device=self.token.device)

    def enter(
        self,
        slots: Tensor,
        prompts: Sequence[Sequence[int]],
        which: Tensor,
        seeds: Tensor,
        positions: Tensor,
    ) -> Tensor:
        """Read prompts into the rooms of slots: logits (N, V) of the first token of each slot.

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

        # Shorter prompts are padded, and their padding may be longer than a short room.
        columns = torch.arange(width, device=device)
        cache_rows = self.placed[slots, :1] + columns  # (N, width)
        cache_rows = torch.where(columns < lengths[which][:, None], cache_rows, 0)
        self.keys[:, cache_rows] = cache.keys[:, which].transpose(2, 3)
        self.values[:, cache_rows] = cache.values[:, which].transpose(2, 3)
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

        Returns ids and log-probabilities, (count,) each. What slots draw that are not decoded
        (`assign_rooms`) has no meaning. On a GPU the whole step is one CUDA graph.
        """
        if self.capturing:
            return self._replay(count, params)
        return self._step(count, params)

    def _step(self, count: int, params: SamplingParams) -> tuple[Tensor, Tensor]:
        """`step`, operation by operation."""
        logits = self.forward(count)
        token, logprob = next_token(logits, self.seeds[:count], self.position[:count], params)

        active = self.placed[:count, 1]
        self.token[:count] = torch.where(active > 0, token, self.token[:count])
        self.filled[:count] = (self.filled[:count] + active).clamp(max=self.length - 1)
        self.position[:count] += active
        return token, logprob

    def gather(self, slots: Tensor) -> None:
        """Let the first slots decode the sequences in `slots`, in this order. Rooms stay."""
        slots = slots.to(self.token.device)
        for state in (self.token, self.filled, self.position, self.seeds, self.placed):
            state[: len(slots)] = state[slots]
        self.placed[len(slots) :] = 0

    def move(self, old: int, new: int, tokens: int) -> None:
        """Copy the keys and values of `tokens` tokens from token `old` of the cache to `new`."""
        for cache in (self.keys, self.values):
            cache[:, new : new + tokens] = cache[:, old : old + tokens]

    def forward(self, count: int) -> Tensor:
        """float32 logits (count, V) of the first slots, after reading their tokens.

        The keys and values of these tokens are added to the slots.
        """
        core = self.core
        active = self.placed[:count, 1]
        filled = self.filled[:count] * active
        starts = self.placed[:count, 0] * active

        cos = self.cos[filled, None]  # (count, 1, width)
        sin = self.sin[filled, None]
        cache_rows = starts + filled
        attend = self.attention(self, starts, filled + 1)

        groups = self.keys.shape[2]
        x = F.embedding(self.token[:count], core.embed_tokens.weight)
        for i, block in enumerate(core.layers):
            layer = block.self_attn
            width = layer.head_dim
            normed = norm(x, block.input_layernorm)
            projected = self.products[i].project(normed).view(count, -1, width)
            query_and_key, value = projected[:, :-groups], projected[:, -groups:]
            heads = query_and_key.shape[1] - groups
            if hasattr(layer, "q_norm"):
                query = norm(query_and_key[:, :heads], layer.q_norm)
                key = norm(query_and_key[:, heads:], layer.k_norm)
                query_and_key = torch.cat((query, key), 1)

            rotated_half = query_and_key.roll(width // 2, -1)
            rotated = torch.addcmul(query_and_key * cos, rotated_half, sin)
            self.keys[i].index_copy_(0, cache_rows, rotated[:, heads:])
            self.values[i].index_copy_(0, cache_rows, value)

            mixed = attend(rotated[:, :heads], self.keys[i], self.values[i])
            x = x + layer.o_proj(mixed.reshape(count, -1))
            x = x + self.products[i].feed(norm(x, block.post_attention_layernorm))
        return self.model.logits_of(norm(x, core.norm))

    def _replay(self, count: int, params: SamplingParams) -> tuple[Tensor, Tensor]:
        """`_step` as a CUDA graph, which is captured at the first use.

        If capturing fails, a warning says so and `_step` is called directly from then on. Raises
        torch.OutOfMemoryError if there is no memory for it.
        """
        # The parameters that a draw depends on; the seed is in `seeds`.
        key = (count, params.temperature, params.top_k, params.top_p, params.banned)
        if key not in self.graphs:
            try:
                self.graphs[key] = self._capture(count, params)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                self.report(f"decoding without CUDA graphs, which is slower: {error}")
                self.capturing = False
                return self._step(count, params)
        graph, drawn = self.graphs[key]
        graph.replay()
        return drawn

    def _capture(
        self, count: int, params: SamplingParams
    ) -> tuple[torch.cuda.CUDAGraph, tuple[Tensor, Tensor]]:
        """A CUDA graph of `_step`, and the tensors to which it writes tokens and logprobs."""
        warm_up = torch.cuda.Stream()
        warm_up.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(warm_up):  # libraries initialise themselves, outside of the capture
            for _ in range(2):
                self.rehearse(count, params)
        torch.cuda.current_stream().wait_stream(warm_up)

        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool):
            drawn = self._step(count, params)
        self.pool = graph.pool()
        return graph, drawn

    def report(self, fault: str) -> None:
        """Remember a fault for the run's console, and warn programs that do not show it."""
        self.faults.append(fault)
        warnings.warn(fault, stacklevel=3)

    def rehearse(self, count: int, params: SamplingParams) -> None:
        """Take a step and undo it.

        The keys and values that it wrote remain, but the next step writes the same ones again.
        """
        changed = (self.token, self.filled, self.position)
        before = [state.clone() for state in changed]
        self._step(count, params)
        for state, earlier in zip(changed, before, strict=True):
            state.copy_(earlier)


class Products:
    """The matrix products of a layer that have the same input, as one product each if possible.

    This is possible if the weights lie next to each other in memory. They are read in place.
    """

    def __init__(self, block: Any) -> None:
        attention = block.self_attn
        self.mlp = block.mlp
        self.projections = [attention.q_proj, attention.k_proj, attention.v_proj]
        self.joined_weight = joined([weight_of(module) for module in self.projections])
        self.gate_and_up = joined([weight_of(self.mlp.gate_proj), weight_of(self.mlp.up_proj)])
        if getattr(self.mlp.gate_proj, "bias", None) is not None:
            self.gate_and_up = None

        biases = [getattr(module, "bias", None) for module in self.projections]
        self.biases = [bias for bias in biases if bias is not None]
        self.joined_bias = joined(biases)

    def project(self, x: Tensor) -> Tensor:
        """Query, key and value (count, H + 2 G heads joined) of hidden states (count, width)."""
        if self.joined_weight is None:
            return torch.cat([module(x) for module in self.projections], -1)

        bias = self.joined_bias
        if bias is None and self.biases:
            bias = torch.cat(self.biases)  # a few thousand numbers
        return F.linear(x, self.joined_weight, bias)

    def feed(self, x: Tensor) -> Tensor:
        """The feed-forward part of hidden states (count, width)."""
        if self.gate_and_up is None:
            result: Tensor = self.mlp(x)
            return result
        gate, up = F.linear(x, self.gate_and_up).chunk(2, -1)
        result = self.mlp.down_proj(self.mlp.act_fn(gate) * up)
        return result


def weight_of(module: Any) -> Tensor | None:
    """The weight of a plain linear layer; None for another module, such as an adapter."""
    return module.weight if type(module) is nn.Linear else None


def joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    """One view of tensors that lie next to each other in memory in this order, or None.

    Example: of rows 0 to 3 and rows 4 to 5 of a matrix it is the view of rows 0 to 5.
    """
    first = parts[0]
    if first is None:
        return None

    end = first.data_ptr()
    for part in parts:
        if part is None or not part.is_contiguous() or part.data_ptr() != end:
            return None
        if part.untyped_storage().data_ptr() != first.untyped_storage().data_ptr():
            return None  # neighbours by chance
        end += part.nbytes

    rows = sum(part.shape[0] for part in parts if part is not None)
    return first.detach().as_strided((rows, *first.shape[1:]), first.stride())


def weights_of(model: Backbone) -> list[int]:
    """The addresses of the model's weights."""
    return [parameter.data_ptr() for parameter in model.parameters()]


def norm(x: Tensor, module: Any) -> Tensor:
    """RMS norm with the weight of `module`, in one kernel."""
    return F.rms_norm(x, module.weight.shape, module.weight, module.variance_epsilon)


def masked_attention(slots: Slots, starts: Tensor, used: Tensor) -> Attend:
    """An `Attention` for any device.

    As many tokens as fit into a long room are read from each start, and what is not used is masked.
    Heads that share keys are the rows of one matrix product.
    """
    columns = torch.arange(slots.length, device=used.device)
    cache_rows = (starts[:, None] + columns).clamp(max=slots.layout.tokens - 1)  # (count, length)
    mask = (columns < used[:, None])[:, None, None]

    def attend(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        grouped = query.unflatten(1, (keys.shape[1], -1))  # (count, G, H / G, D)
        result = F.scaled_dot_product_attention(
            grouped, keys[cache_rows].transpose(1, 2), values[cache_rows].transpose(1, 2), mask
        )
        return result.flatten(1, 2)

    return attend


def flash_attention(slots: Slots, starts: Tensor, used: Tensor) -> Attend:
    """An `Attention` with the flash kernel, which reads only what is used of a room.

    The kernel takes the edges between sequences. With `used` it only reads the first edge of each,
    so the rooms may lie in any order.
    """
    query_edges = slots.edges[: len(starts) + 1]
    key_edges = F.pad(starts.int(), (0, 1))
    used = used.int()

    def attend(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        return attention.flash_attention(
            query,
            keys,
            values,
            query_edges,
            key_edges,
            longest_query=1,
            longest_key=slots.length,
            used=used,
        )

    return attend


def fastest_attention(slots: Slots) -> Attention:
    """Flash attention for 16-bit models on a GPU, if it works there, else `masked_attention`."""
    if not slots.keys.is_cuda or slots.keys.dtype not in (torch.bfloat16, torch.float16):
        return masked_attention
    if fault := fault_of(flash_attention, slots):
        slots.report(f"decoding without flash attention, which is slower: {fault}")
        return masked_attention
    return flash_attention


def fault_of(candidate: Attention, slots: Slots) -> str:
    """Why `candidate` cannot replace `masked_attention` on this device; empty if it can.

    A kernel may compute small and large batches in different ways. So it is compared at every
    number of slots that will be used, with one token used, all tokens, and random numbers of them.
    The first layer of the cache holds the random keys and values, and is zeroed afterwards.
    """
    keys = slots.keys[0].normal_()
    values = slots.values[0].normal_()
    fault = ""
    for count in slots.buckets():
        lengths = slots.lengths()[:count]
        random = (torch.rand(count, device=keys.device) * lengths).long() + 1
        for used in (torch.ones_like(lengths), lengths, random.minimum(lengths)):
            fault = fault or _fault_with(candidate, slots, used)
    keys.zero_()
    values.zero_()
    return fault


def _fault_with(candidate: Attention, slots: Slots, used: Tensor) -> str:
    """`fault_of` for slots that have used that many tokens of their rooms, (count,)."""
    cached = slots.keys[0]
    heads = slots.model.config.num_attention_heads
    count = len(used)
    starts = slots.placed[:count, 0].flip(0)  # rooms need not be in the order of the slots
    used = used.flip(0)
    query = torch.randn(count, heads, cached.shape[-1], dtype=cached.dtype, device=cached.device)

    inputs = (query, cached, slots.values[0])
    expected = masked_attention(slots, starts, used)(*inputs).float()
    try:
        result = candidate(slots, starts, used)(*inputs).float()
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError) as error:  # the device, or this version of torch, lacks it
        return str(error)

    gaps = (result - expected).norm(dim=(1, 2)) / expected.norm(dim=(1, 2))
    return "" if bool((gaps < WORST_GAP).all()) else f"its numbers are wrong with {count} slots"
