"""What must be true of a model that is loaded: it computes what transformers computes."""

from __future__ import annotations

import torch

from tinyzero.errors import UserError, first_line
from tinyzero.models.backbone import Backbone

UNSUPPORTED_ERRORS = (AttributeError, TypeError, ValueError, LookupError, UserError)
"""What a model of an unsupported type may raise when it is run."""


@torch.no_grad()
def computes_like_transformers(model: Backbone) -> bool:
    """Whether `model.logits` equals what the model itself computes.

    It does not if the model scales or caps its logits, or if its parts have other names.
    """
    tokens = torch.arange(4, device=model.device)[None] % model.config.vocab_size
    try:
        ours = model.logits(tokens)
        model.lm.set_attn_implementation("eager")
        theirs = model.lm(tokens).logits.float()
        model.lm.set_attn_implementation("tinyzero")
    except UNSUPPORTED_ERRORS:
        return False
    # bfloat16 rounds by about one percent, so this leaves room for it.
    return bool((ours - theirs).norm() < 0.05 * theirs.norm())


@torch.no_grad()
def check_packing(model: Backbone) -> None:
    """Raise UserError if joined sequences see each other, because the model ignores the Packing."""
    message = f"models of type {model.config.model_type} cannot be packed: set update.pack to false"
    tokens = torch.arange(8, device=model.device).view(2, 4) % model.config.vocab_size
    try:
        packed = model.hidden(tokens, torch.tensor([4, 3]))
    except (*UNSUPPORTED_ERRORS, RuntimeError) as error:
        raise UserError(f"{message} ({type(error).__name__}: {first_line(error)})") from error

    alone = model.hidden(tokens)[1, :3]
    if not (packed[1, :3] - alone).norm() < 0.05 * alone.norm():
        raise UserError(message)
