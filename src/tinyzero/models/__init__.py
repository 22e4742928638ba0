"""Language models: loading and saving, attention, key-value cache, LoRA adapters, tokenizers."""

from tinyzero.models.backbone import Backbone, ValueModel, recompute_layers
from tinyzero.models.cache import KeyValueCache, cache_shape, has_fixed_rotary, signed_rotary
from tinyzero.models.chat import continues_last_message, once, render_chat
from tinyzero.models.hub import (
    ASSETS,
    BUNDLED,
    build_model,
    is_hub_id,
    known_context,
    load_model,
    locate,
    merged_weight,
    named_weights,
    pick_device,
    save_model,
    stored_dtype,
)
from tinyzero.models.tokens import (
    build_tokenizer,
    decoder,
    encode_prompt,
    end_ids,
    known_vocabulary,
    load_tokenizer,
    set_generation,
    stop_ids,
)

__all__ = [
    "ASSETS",
    "BUNDLED",
    "Backbone",
    "KeyValueCache",
    "ValueModel",
    "attention",
    "build_model",
    "build_tokenizer",
    "cache_shape",
    "continues_last_message",
    "decoder",
    "encode_prompt",
    "end_ids",
    "has_fixed_rotary",
    "is_hub_id",
    "known_context",
    "known_vocabulary",
    "load_model",
    "load_tokenizer",
    "locate",
    "lora",
    "merged_weight",
    "named_weights",
    "once",
    "pick_device",
    "recompute_layers",
    "render_chat",
    "save_model",
    "set_generation",
    "signed_rotary",
    "stop_ids",
    "stored_dtype",
]
