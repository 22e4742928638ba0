"""Which families of models work: the table in docs/models.md, tried on small random models.

    python benchmarks/families.py

It writes the table between its markers. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tinyzero import models
from tinyzero.config import LoraSection
from tinyzero.errors import UserError
from tinyzero.models import Backbone, lora
from tinyzero.samplers import slots
from tinyzero.samplers.torch import TorchSampler
from tinyzero.types import Completion, SamplingParams, requests_for

PAGE = Path(__file__).resolve().parent.parent / "docs" / "models.md"
STARTS = "<!-- families: written by `python benchmarks/families.py` -->"
ENDS = "<!-- end of families -->"

SMALL: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "max_position_embeddings": 512,
    "pad_token_id": None,
    "eos_token_id": None,  # a default may be larger than the small vocabulary
}
LINEAR = {"linear_num_key_heads": 2, "linear_num_value_heads": 4}
LINEAR |= {"linear_key_head_dim": 16, "linear_value_head_dim": 16}
CONVOLUTIONS = ["conv", "conv", "full_attention", "conv"] * 2

FAMILIES: dict[str, dict[str, Any]] = {
    "Qwen2.5": {"model_type": "qwen2"},
    "Qwen3": {"model_type": "qwen3", "head_dim": 16},
    "Qwen3.5": {"model_type": "qwen3_5_text", "head_dim": 16, **LINEAR},
    "Llama 3.2, SmolLM2": {"model_type": "llama"},
    "SmolLM3": {"model_type": "smollm3"},
    "Mistral": {"model_type": "mistral", "sliding_window": 8},
    "Gemma 2": {"model_type": "gemma2", "head_dim": 16, "sliding_window": 8},
    "Gemma 3": {"model_type": "gemma3_text", "head_dim": 16, "sliding_window": 8},
    "Phi-3, Phi-4": {"model_type": "phi3"},
    "OLMo 2": {"model_type": "olmo2"},
    "OLMo 3": {"model_type": "olmo3", "sliding_window": 8},
    "LFM2": {"model_type": "lfm2", "layer_types": CONVOLUTIONS},
    "Granite": {"model_type": "granite", "logits_scaling": 8.0},
    "gpt-oss": {"model_type": "gpt_oss", "num_local_experts": 4, "head_dim": 16},
}
"""Settings of transformers by the family's name. Windows are shorter than the sequences below."""

PROMPTS = [[5, 6, 7], [9] * 11, [30, 31, 32, 33, 34, 35], [8]]
COLUMNS = ("loads", "sampler equals learner", "packed", "slots", "adapters", "export")
LARGEST_MISMATCH = 1e-4  # in log-probabilities; rounding in float32 stays below


def random_model(settings: dict[str, Any]) -> Backbone:
    """A small random model whose distributions are far from uniform."""
    vocabulary = len(models.load_tokenizer("tiny"))
    model = models.build_model(SMALL | settings | {"vocab_size": vocabulary}, seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return model


def samples_as_it_learns(folder: str) -> bool:
    """Whether the sampler's log-probabilities are those of the learner's forward pass."""
    model = models.load_model(folder)
    params = SamplingParams(max_tokens=12, n=3)
    sampler = TorchSampler(model, lambda ids: "", frozenset(range(8)))
    found = sampler.generate(requests_for(PROMPTS, params.n), params)
    return all(
        agrees(model, prompt, completion)
        for prompt, completions in zip(PROMPTS, found, strict=True)
        for completion in completions
    )


@torch.no_grad()
def agrees(model: Backbone, prompt: list[int], completion: Completion) -> bool:
    """Whether a completion was sampled with the model's log-probabilities."""
    logits = model.logits(torch.tensor([[*prompt, *completion.token_ids]]))
    logprobs = logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    chosen = logprobs.gather(1, torch.tensor(completion.token_ids)[:, None])[:, 0]
    difference = (chosen - torch.tensor(completion.sampled_logprobs)).abs().max()
    return bool(difference < LARGEST_MISMATCH)


def packs(folder: str) -> bool:
    """Whether rows can be joined; `load_model` checks that they do not see each other."""
    models.load_model(folder, pack=True)
    return True


def decodes_in_slots(folder: str) -> bool:
    """Whether the torch sampler decodes it in slots on a GPU."""
    return slots.supports(models.load_model(folder))


def learns_adapters(folder: str) -> bool:
    """Whether adapters can be added, and get gradients."""
    model = models.load_model(folder)
    lora.add_adapter(model, LoraSection(rank=2))
    model.logits(torch.tensor(PROMPTS[2:3])).logsumexp(-1).sum().backward()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return all(parameter.grad is not None for parameter in trained)


@torch.no_grad()
def exports(folder: str) -> bool:
    """Whether a model that is saved computes the same when it is loaded again."""
    model = models.load_model(folder)
    tokens = torch.tensor(PROMPTS[2:3])
    with tempfile.TemporaryDirectory() as copy:
        models.save_model(model, models.load_tokenizer("tiny"), Path(copy))
        return torch.equal(models.load_model(copy).logits(tokens), model.logits(tokens))


def loads(folder: str) -> bool:
    """Whether `load_model` finds that TinyZero computes it as transformers does."""
    models.load_model(folder)
    return True


CHECKS: tuple[Callable[[str], bool], ...] = (
    loads,
    samples_as_it_learns,
    packs,
    decodes_in_slots,
    learns_adapters,
    exports,
)


def answer(check: Callable[[str], bool], folder: str) -> str:
    """The cell of a table: yes, or no. A check that is rejected with one line is a no."""
    try:
        return "yes" if check(folder) else "no"
    except UserError:
        return "no"


def row_of(family: str) -> str:
    """The row of the table for a family: what a model of it can do."""
    settings = FAMILIES[family]
    with torch.random.fork_rng(), tempfile.TemporaryDirectory() as folder:
        model = random_model(settings)
        models.save_model(model, models.load_tokenizer("tiny"), Path(folder))
        cells = [answer(loads, folder)]
        cells += [answer(check, folder) if cells[0] == "yes" else "-" for check in CHECKS[1:]]
    return f"| {family} | `{settings['model_type']}` | {' | '.join(cells)} |"


def table() -> str:
    """The table of all families."""
    head = ["family", "model type", *COLUMNS]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    return "\n".join([*lines, *map(row_of, FAMILIES)])


def with_table(text: str, rows: str) -> str:
    """The page `text` with `rows` between its markers."""
    start, end = text.index(STARTS), text.index(ENDS)
    return f"{text[:start]}{STARTS}\n\n{rows}\n\n{text[end:]}"


def main() -> None:
    """Write the table."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(with_table(text, table()), encoding="utf-8")


if __name__ == "__main__":
    main()
