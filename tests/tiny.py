"""Small random models for tests: real components in a size that runs in milliseconds."""

from collections.abc import Iterable, Sequence
from functools import cache, partial
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from tinyzero import models
from tinyzero.models import Backbone
from tinyzero.samplers.torch import TorchSampler
from tinyzero.tasks import corpora
from tinyzero.tools.pretrain import base
from tinyzero.types import Completion, Sampler, SamplingParams, requests_for

SHAPES: dict[str, dict[str, Any]] = {
    "qwen2": {"num_key_value_heads": 1},
    "llama": {"model_type": "llama", "num_key_value_heads": 2},
    "untied": {"model_type": "llama", "num_key_value_heads": 4, "tie_word_embeddings": False},
    "qwen3": {"model_type": "qwen3", "num_key_value_heads": 2, "head_dim": 16},
    "biased": {
        "model_type": "llama",
        "num_key_value_heads": 2,
        "attention_bias": True,
        "head_dim": 16,
    },
}


@cache
def tokenizer() -> PreTrainedTokenizerBase:
    return models.build_tokenizer(corpora.CHARACTERS, corpora.WORDS, corpora.END)


def model(
    shape: str = "qwen2", seed: int = 0, layers: int = 2, width: int = 32, context: int = 128
) -> Backbone:
    """A random model with distributions that are far from uniform, so that mistakes are visible."""
    options = base.ModelOptions(
        layers=layers, width=width, heads=4, feed_forward=2 * width, context=context
    )
    made = models.build_model(base.model_config(options, len(tokenizer())) | SHAPES[shape], seed)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return made.eval()


def sampler(made: Backbone, max_rows: int = 512) -> TorchSampler:
    decode = partial(tokenizer().decode, skip_special_tokens=False)
    return TorchSampler(made, decode, models.end_ids(tokenizer(), made), max_rows)


def sampler_for(name: str, made: Backbone) -> TorchSampler:
    """A torch sampler of `made` with the tokenizer of a bundled model."""
    of_base = models.load_tokenizer(name)
    return TorchSampler(made, models.decoder(of_base), models.end_ids(of_base, made))


def sample(
    sampler: Sampler,
    prompts: Iterable[Sequence[int]],
    params: SamplingParams,
    first_group: int = 0,
) -> list[list[Completion]]:
    """`params.n` completions per prompt, requested as a Player does."""
    return sampler.generate(requests_for(prompts, params.n, first_group), params)
