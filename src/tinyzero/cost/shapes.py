"""Shapes of models, and what follows from them: parameters, FLOPs, cache and activations."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tinyzero.errors import UserError, brief

ASSETS = Path(__file__).parent.parent / "assets"
SCORE = 1 / 16
"""A CPU's work on one attention score beyond matrix products; on a channel of a layer it is 1."""


class Shape(NamedTuple):
    """The sizes of a llama-shaped model, from which everything else is counted."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    head: int
    """Channels of one head."""
    feed_forward: int
    vocabulary: int
    tied: bool
    biases: int = 0
    """Parameters per layer that are not matrices: biases, and the norms of queries and keys."""
    experts: int = 0
    """Routed experts per layer, each with a feed-forward of `expert_width`; 0 for a dense model."""
    used: int = 0
    """Experts that process each token."""
    expert_width: int = 0
    shared_width: int = 0
    """Width of the feed-forward that processes every token in addition to the experts."""

    @property
    def attention(self) -> int:
        """Parameters of one layer's four attention projections."""
        return 2 * self.width * self.head * (self.heads + self.kv_heads)

    def _feed_forward(self, experts: int) -> int:
        if not self.experts:
            return 3 * self.width * self.feed_forward
        router = self.width * (self.experts + bool(self.shared_width))
        return 3 * self.width * (experts * self.expert_width + self.shared_width) + router

    def _body(self, experts: int) -> int:
        return self.layers * (self.attention + self._feed_forward(experts))

    @property
    def parameters(self) -> int:
        """All parameters of the model."""
        norms = (2 * self.layers + 1) * self.width + self.layers * self.biases
        embeddings = self.vocabulary * self.width * (1 if self.tied else 2)
        return self._body(self.experts) + norms + embeddings

    @property
    def active(self) -> int:
        """Parameters in the matrix products of one token: the head once, no embedding look-up."""
        return self._body(self.used) + self.vocabulary * self.width

    def read(self, rows: float) -> float:
        """Parameters that a decode step of `rows` rows reads.

        It reads the experts that at least one row uses. Every row is assumed to choose at random.
        """
        if not self.experts:
            return self.active

        read_experts = self.experts * (1 - (1 - self.used / self.experts) ** rows)
        expert_weights = self.layers * 3 * self.width * self.expert_width
        return float(self.active + expert_weights * (read_experts - self.used))

    def forward(self, tokens: float, length: float) -> float:
        """FLOPs of a forward pass over `tokens` tokens in sequences of `length`."""
        return tokens * (2 * self.active + 2 * self.layers * self.heads * self.head * length)

    def cache(self, itemsize: int) -> int:
        """Bytes of one token's keys and values in all layers."""
        return 2 * self.layers * self.kv_heads * self.head * itemsize

    def activations(self, itemsize: int, fused_attention: bool, length: float) -> float:
        """Bytes per token that one layer keeps for the backward pass, in sequences of `length`.

        They are both norms with their fp32 inputs, the projections and attention's output, and four
        products of the feed-forward; without fused attention, half a square of scores too.
        """
        inner = self.feed_forward
        if self.experts:
            inner = self.used * self.expert_width + self.shared_width
        scores = 0 if fused_attention else self.heads * length / 2
        projected = 2 * self.head * (self.heads + self.kv_heads)
        return itemsize * (4 * inner + projected + scores) + 2 * self.width * (4 + 2 * itemsize)

    def channels(self, context: float) -> float:
        """A CPU's work on one token after `context` others beyond matrix products, in channels."""
        return self.layers * (self.width + SCORE * self.heads * context)

    def adapters(self, rank: int, targets: Iterable[str]) -> int:
        """Parameters of LoRA adapters of this rank on the layers that `targets` name.

        Without `targets`, all linear layers but the head get adapters. Routed experts get them
        together with their router. If a model also has a shared expert, peft gives neither any.
        """
        queries, keys = self.heads * self.head, self.kv_heads * self.head
        inner = self.shared_width if self.experts else self.feed_forward
        sides = {name: self.width + queries for name in ("q_proj", "o_proj")}
        sides |= {name: self.width + keys for name in ("k_proj", "v_proj")}
        if inner:
            sides |= {name: self.width + inner for name in ("gate_proj", "up_proj", "down_proj")}
        if self.shared_width:
            sides["shared_expert_gate"] = self.width + 1
        elif (
            self.experts
        ):  # peft sees two products per layer, the first of twice the width and rank
            sides["gate"] = self.width + self.experts
            sides["experts"] = self.experts * (3 * self.width + 5 * self.expert_width)

        return self.layers * rank * sum(sides.get(target, 0) for target in list(targets) or sides)


def _qwen(
    layers: int,
    width: int,
    heads: int,
    kv_heads: int,
    head: int,
    inner: int,
    words: int,
    tied: bool,
) -> Shape:
    return Shape(
        layers,
        width,
        heads,
        kv_heads,
        head,
        inner,
        words,
        tied,
        biases=(heads + 2 * kv_heads) * head,
    )


SHAPES = {
    "Qwen/Qwen2.5-0.5B": _qwen(24, 896, 14, 2, 64, 4864, 151_936, True),
    "Qwen/Qwen2.5-1.5B": _qwen(28, 1536, 12, 2, 128, 8960, 151_936, True),
    "Qwen/Qwen2.5-3B": _qwen(36, 2048, 16, 2, 128, 11_008, 151_936, True),
    "Qwen/Qwen2.5-7B": _qwen(28, 3584, 28, 4, 128, 18_944, 152_064, False),
    "Qwen/Qwen3-0.6B-Base": Shape(28, 1024, 16, 8, 128, 3072, 151_936, True, biases=256),
    "Qwen/Qwen3-1.7B-Base": Shape(28, 2048, 16, 8, 128, 6144, 151_936, True, biases=256),
    "meta-llama/Llama-3.2-3B": Shape(28, 3072, 24, 8, 128, 8192, 128_256, True),
    "HuggingFaceTB/SmolLM3-3B-Base": Shape(36, 2048, 16, 4, 128, 11_008, 128_256, True),
}
"""Shapes of the recipes' models by hub id, from their config.json. "-Instruct" has the same."""

KINDS = ("llama", "mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "smollm3")


def find_shape(name: str) -> Shape:
    """The shape of a bundled base, a local folder (also a checkpoint's), or a hub id in SHAPES.

    Nothing is downloaded to find out: any other model raises UserError.
    """
    known = SHAPES.get(name.removesuffix("-Instruct"))
    folder = ASSETS / name if (ASSETS / name).is_dir() else Path(name)

    for path in (folder / "config.json", folder / "model" / "config.json"):
        if path.is_file():
            try:
                return read_shape(dict(json.loads(path.read_text(encoding="utf-8"))), name)
            except (ValueError, TypeError, LookupError, RecursionError) as error:
                raise UserError(f"{path} does not describe a model: {brief(error)}") from None

    if known is None:
        raise UserError(
            f"no model folder at {name!r}, and its shape is not known: give a folder with its "
            f"config.json, or one of {', '.join(SHAPES)}"
        )
    return known


def read_shape(config: Mapping[str, Any], name: str) -> Shape:
    """The shape that a config.json of transformers describes.

    Raises UserError if the model type is not in KINDS. `name` is only for the message.
    """
    kind = config.get("model_type")
    if kind not in KINDS:
        raise UserError(
            f"{name!r} has model type {kind!r}, which cannot be counted: "
            f"use one of {', '.join(KINDS)}"
        )

    width, heads = config["hidden_size"], config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads") or heads
    head = config.get("head_dim") or width // heads

    biased = kind.startswith("qwen2") or config.get("attention_bias")
    biases = (heads + 2 * kv_heads) * head if biased else 0
    if config.get("attention_bias") and kind == "llama":
        biases += width  # its output projection has one too
    if kind.startswith("qwen3"):
        biases += 2 * head  # the norms of queries and keys

    mixed, inner = kind in ("mixtral", "qwen2_moe", "qwen3_moe"), config["intermediate_size"]
    return Shape(
        layers=config["num_hidden_layers"],
        width=width,
        heads=heads,
        kv_heads=kv_heads,
        head=head,
        feed_forward=inner,
        vocabulary=config["vocab_size"],
        tied=bool(config.get("tie_word_embeddings")),
        biases=biases,
        experts=config.get("num_experts") or config["num_local_experts"] if mixed else 0,
        used=config["num_experts_per_tok"] if mixed else 0,
        expert_width=config.get("moe_intermediate_size", inner) if mixed else 0,
        shared_width=config["shared_expert_intermediate_size"] if kind == "qwen2_moe" else 0,
    )
