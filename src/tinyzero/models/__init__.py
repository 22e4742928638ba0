"""Language models: loading and saving, attention, key-value cache, LoRA adapters, tokenizers."""

from tinyzero.models.backbone import Backbone, ValueModel, recompute_layers
from tinyzero.models.cache import KeyValueCache, cache_shape, has_fixed_rotary, signed_rotary
from tinyzero.models.chat import continues_last_message, once, render_chat
from tinyzero.models.hub import (
    ASSETS,
    BUNDLED,
    build_model,
    ignore,
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
from tinyzero.models.origin import Origin, front_lines, origin_of, read_origin, write_origin
from tinyzero.models.packing import rows_by_group, shared_lengths
from tinyzero.models.readback import compare_loaded, use_known_class
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
    "Origin",
    "ValueModel",
    "attention",
    "build_model",
    "build_tokenizer",
    "cache_shape",
    "compare_loaded",
    "continues_last_message",
    "decoder",
    "encode_prompt",
    "end_ids",
    "front_lines",
    "has_fixed_rotary",
    "ignore",
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
    "origin_of",
    "pick_device",
    "read_origin",
    "recompute_layers",
    "render_chat",
    "rows_by_group",
    "save_model",
    "set_generation",
    "shared_lengths",
    "signed_rotary",
    "stop_ids",
    "stored_dtype",
    "use_known_class",
    "write_origin",
]
