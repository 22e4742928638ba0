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


@torch.no_grad()
def can_share_prefixes(model: Backbone) -> bool:
    """Whether a prefix that is computed once gives the hidden states of rows that are alone.

    It does not if tokens see each other outside our attention, as in a convolution, or if the model
    ignores the Packing or the positions.
    """
    vocabulary = model.config.vocab_size
    rows = [[1, 2, 3, 4, 5, 6], [1, 2, 3, 7, 8, 9], [1, 2, 3, 9, 0, 0], [4, 5, 6, 7, 0, 0]]
    tokens = torch.tensor(rows, device=model.device) % vocabulary
    lengths, groups = torch.tensor([6, 6, 4, 4]), torch.tensor([0, 0, 0, 1])
    changed = tokens.clone()
    changed[1, 3:] = (changed[1, 3:] + 3) % vocabulary  # only the second row may notice
    others = torch.tensor([0, 2, 3], device=model.device)

    pack, share = model.pack, model.share
    try:
        model.pack, model.share = False, True
        joined, joined_changed = (model.hidden(t, lengths, groups) for t in (tokens, changed))
        model.share = False
        alone = model.hidden(tokens)
    except (*UNSUPPORTED_ERRORS, RuntimeError):
        return False
    finally:
        model.pack, model.share = pack, share

    real = torch.arange(6, device=model.device) < lengths.to(model.device)[:, None]
    leak = (joined - joined_changed)[others][real[others]].norm()
    gap = (joined - alone)[real].norm()
    return bool(leak < 0.001 * alone[real].norm() and gap < 0.05 * alone[real].norm())
