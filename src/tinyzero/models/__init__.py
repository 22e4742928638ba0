"""Language models: loading and saving, attention, key-value cache, LoRA adapters, tokenizers."""

from tinyzero.models.backbone import Backbone, ValueModel, recompute_layers
from tinyzero.models.cache import (
    KeyValueCache,
    LibraryCache,
    cache_shape,
    has_fixed_rotary,
    signed_rotary,
)
from tinyzero.models.hub import (
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
from tinyzero.models.packing import rows_by_group, shared_lengths
from tinyzero.models.tokens import (
    build_tokenizer,
    continues_last_message,
    decoder,
    encode_prompt,
    end_ids,
    load_tokenizer,
    set_generation,
    stop_ids,
)

__all__ = [
    "BUNDLED",
    "Backbone",
    "KeyValueCache",
    "LibraryCache",
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
    "load_model",
    "load_tokenizer",
    "locate",
    "lora",
    "merged_weight",
    "named_weights",
    "pick_device",
    "recompute_layers",
    "rows_by_group",
    "save_model",
    "set_generation",
    "shared_lengths",
    "signed_rotary",
    "stop_ids",
    "stored_dtype",
]
