"""Model folders like a user's: small random checkpoints of real families, with new tokenizers."""

import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import ByteLevelBPETokenizer
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

Change = Callable[[Path], object]
"""Changes a model folder."""

SIZE: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 512,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen2": {"num_key_value_heads": 2, "tie_word_embeddings": True},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 16, "tie_word_embeddings": False},
    "llama": {"num_key_value_heads": 4, "tie_word_embeddings": False},  # Llama 2
    "llama3": {"model_type": "llama", "num_key_value_heads": 1, "tie_word_embeddings": True}
    | {
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 5e5,
            "factor": 32.0,
            "low_freq_factor": 1.0,
        }
    }
    | {"high_freq_factor": 4.0, "original_max_position_embeddings": 64},
    "gpt2": {"tie_word_embeddings": True},
}
FAMILIES["llama3"]["rope_parameters"] |= {
    name: FAMILIES["llama3"].pop(name)
    for name in ("high_freq_factor", "original_max_position_embeddings")
}
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% if not (continue_final_message and loop.last) %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT = [
    "Using the numbers [19, 36, 55, 7], create an equation that equals 65. "
    "<think> Let me solve this step by step: "
    "19 + 36 = 55, that is not 65. </think> <answer> (55 + 36) - 19 - 7 </answer>",
    "A conversation between User and Assistant. "
    "The assistant first thinks and then provides the user with the answer.",
]


@cache
def bpe(vocabulary: int = 400) -> PreTrainedTokenizerFast:
    """Byte-level BPE of `vocabulary` tokens at most; "</answer>" does not end at a token's end."""
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(
        TEXT * 4, vocab_size=vocabulary - 3, min_frequency=1, show_progress=False
    )
    made = PreTrainedTokenizerFast(tokenizer_object=trained._tokenizer, eos_token="<|endoftext|>")
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    made.chat_template = CHAT
    return made


def write(
    folder: Path,
    family: str = "qwen2",
    dtype: torch.dtype = torch.float32,
    shards: bool = False,
    **more: Any,
) -> Path:
    """Write a random checkpoint of a family, with weights far from their small initial values."""
    tokenizer = bpe()
    torch.manual_seed(0)
    shape = {
        "model_type": family,
        "vocab_size": 416,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": 0,
    }
    config = AutoConfig.for_model(
        **(shape | {"bos_token_id": None} | SIZE | FAMILIES[family] | more)
    )
    lm = AutoModelForCausalLM.from_config(config, dtype=dtype)
    with torch.no_grad():
        for parameter in lm.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    lm.save_pretrained(folder, max_shard_size="50KB" if shards else "5GB")
    tokenizer.save_pretrained(folder)
    return folder


# Folders that somebody has had, each a copy of a healthy one with one thing changed.


def edit(path: Path, **entries: Any) -> None:
    """Change entries of a JSON file; None removes one."""
    content = json.loads(path.read_text()) if path.exists() else {}
    content = {key: value for key, value in (content | entries).items() if value is not None}
    path.write_text(json.dumps(content))


def settings(**entries: Any) -> Change:
    return lambda folder: edit(folder / "config.json", **entries)


def generation(**entries: Any) -> Change:
    """A generation_config.json with these entries alone."""
    return lambda folder: (folder / "generation_config.json").write_text(json.dumps(entries))


def text(file: str, content: str) -> Change:
    return lambda folder: (folder / file).write_text(content)


def without(*files: str) -> Change:
    def change(folder: Path) -> None:
        for file in files:
            (folder / file).unlink()

    return change


def weights(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Change:
    """Replace the weights by what `change` makes of them."""

    def write(folder: Path) -> None:
        path = folder / "model.safetensors"
        save_file(change(load_file(path)), path, metadata={"format": "pt"})

    return write


def more(**added: torch.Tensor) -> Change:
    """Add weights; a double underscore in a name is a dot."""
    named = {name.replace("__", "."): weight for name, weight in added.items()}
    return weights(lambda all_weights: all_weights | named)


def projections(dtype: torch.dtype) -> Change:
    """Store the projections of the attention in another type."""
    return weights(lambda all_weights: {k: cast(k, v, dtype) for k, v in all_weights.items()})


def cast(name: str, weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A weight in another type, if it is a projection of the attention."""
    return weight.to(dtype) if "q_proj" in name else weight


def shortened(file: str) -> Change:
    def change(folder: Path) -> None:
        content = (folder / file).read_bytes()
        (folder / file).write_bytes(content[: len(content) // 2])

    return change


def pickled(*extra: object) -> Change:
    """Store the weights as PyTorch did before safetensors, together with other objects."""

    def change(folder: Path) -> None:
        path = folder / "model.safetensors"
        stored: dict[str, Any] = dict(load_file(path))
        for number, item in enumerate(extra):
            stored |= item if isinstance(item, dict) else {f"extra.{number}": item}
        torch.save(stored, folder / "pytorch_model.bin")
        path.unlink()

    return change


def pickled_as(change: Callable[[str, torch.Tensor], torch.Tensor]) -> Change:
    """Store the weights as `pickled` does, each changed by a function of its name and itself."""

    def write(folder: Path) -> None:
        path = folder / "model.safetensors"
        if path.exists():
            pickled()(folder)
        stored = torch.load(folder / "pytorch_model.bin", weights_only=True)
        changed = {name: change(name, weight) for name, weight in stored.items()}
        torch.save(changed, folder / "pytorch_model.bin")

    return write


def adapter(
    kept: Callable[[str], bool] = lambda name: True,
    width: int = 32,
    targets: Sequence[str] = ("q_proj",),
) -> Change:
    """Put a LoRA adapter next to the weights, made for a model of this width."""

    def change(folder: Path) -> None:
        from peft import LoraConfig, get_peft_model

        config = AutoConfig.from_pretrained(folder)
        config.update({"hidden_size": width})
        torch.manual_seed(1)
        base = AutoModelForCausalLM.from_config(config)
        options = LoraConfig(
            r=2, target_modules=list(targets), task_type="CAUSAL_LM", init_lora_weights=False
        )
        get_peft_model(base, options).save_pretrained(folder)
        path = folder / "adapter_model.safetensors"
        save_file({k: v for k, v in load_file(path).items() if kept(k)}, path)

    return change


class RunsCode:
    """An object whose pickle writes a file when it is read."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> Any:
        return Path.touch, (self.proof,)
