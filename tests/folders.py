"""Model folders like a user's: small random checkpoints of real families, with new tokenizers."""

from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

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
