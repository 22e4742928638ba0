"""What must be true of a model that is loaded, or else it is rejected.

Our attention, caches and joined rows must compute what transformers computes. The real weights are
too large to be checked in float32, and a window of 4,096 tokens is too long to be filled. So the
exact checks run on a twin of the model: the same architecture with few layers, a small vocabulary,
short windows, and random weights. Its sequences are longer than any window or convolution. The real
model, in its own precision and on its own device, is only compared loosely. The kernels that it
uses on a GPU are compared by themselves (kernels.py).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from tinyzero.errors import UserError, first_line
from tinyzero.models import kernels
from tinyzero.models.agreement import differs
from tinyzero.models.backbone import Backbone
from tinyzero.models.cache import cache_shape

UNSUPPORTED_ERRORS = (AttributeError, TypeError, ValueError, LookupError, RuntimeError, UserError)
"""What a model of an unsupported type may raise when it is run."""

EXACT = 1e-4  # largest relative difference of two ways to compute the same in float32
LOOSE = 0.05  # the same in bfloat16, which rounds by about one percent

LENGTH = 24  # tokens per row of the twin
WINDOW = 5  # keys in a sliding window of the twin
VOCABULARY = 64


class Abilities(NamedTuple):
    """How a model can be computed."""

    library_cache: bool
    """Whether it reads tokens in step with transformers' own cache, and not with ours."""
    packing_fault: str
    """Why the rows of a batch cannot be joined; empty if they can."""
    shares: bool
    """Whether what the rows of a group begin with can be computed once."""


def prepare(model: Backbone) -> list[str]:
    """Set how `model` is computed. Returns a line about each thing that is slower than it could be.

    Raises UserError if it cannot be computed, or not as it was asked to.
    """
    abilities = abilities_of(model)
    model.library_cache = abilities.library_cache

    if model.pack and (fault := abilities.packing_fault or joining_fault(model)):
        kind = model.config.model_type
        raise UserError(
            f"models of type {kind} cannot be packed: set update.pack to false ({fault})"
        )

    notes = []
    model.share = abilities.shares
    if model.share and (fault := sharing_fault(model)):
        model.share = False
        notes.append(f"each prompt is computed once per answer, which is slower: {fault}")
    if fault := kernels.head_fault(model):
        notes.append(f"the head's gradient takes two operations, which is slower: {fault}")
    return notes


def joining_fault(model: Backbone) -> str:
    """Why the rows of the real model cannot be joined on its own device; empty if they can."""
    if fault := kernels.attention_fault(model, shared=False):
        return fault
    with torch.no_grad():
        return packing_fault(model, LOOSE)


def sharing_fault(model: Backbone) -> str:
    """Why the real model cannot share prefixes on its own device; empty if it can.

    On a CPU it is not run, because there it computes what its twin has computed.
    """
    for shared in (False, True):
        if fault := kernels.attention_fault(model, shared):
            return fault
    if not kernels.is_on_gpu(model):
        return ""
    with torch.no_grad():
        shares = can_share_prefixes(model, LOOSE)
    return "" if shares else "a prompt that is computed once changes what follows on this device"


def abilities_of(model: Backbone) -> Abilities:
    """How `model` can be computed, found out on its twin.

    Raises UserError, with the part that differs, if it cannot be computed as transformers does.
    """
    kind = model.config.model_type
    with _no_change_of_randomness():
        subject, tolerance = twin_of(model.config), EXACT
        if subject is None:
            subject, tolerance = model, LOOSE

        if fault := logits_fault(subject, tolerance) or logits_fault(model, LOOSE, length=4):
            raise UserError(f"models of type {kind} are not supported: {fault}")

        faults = [cache_fault(subject, tolerance, library) for library in (False, True)]
        if all(faults):
            raise UserError(f"models of type {kind} are not supported: {faults[1]}")
        return Abilities(
            library_cache=bool(faults[0]),
            packing_fault=packing_fault(subject, tolerance),
            shares=can_share_prefixes(subject, tolerance),
        )


@contextmanager
def _no_change_of_randomness() -> Iterator[None]:
    """Leave torch's generator as it was. Gradients are off."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        yield


def twin_of(config: Any) -> Backbone | None:
    """A small random model of the same architecture, in float32; None if none can be made."""
    try:
        small = shrunken(config)
        lm = AutoModelForCausalLM.from_config(
            small, attn_implementation="tinyzero", dtype=torch.float32, trust_remote_code=False
        )
    except Exception:  # a configuration that cannot be shrunken raises many types
        return None
    # With their small initial weights, some layers would change less than rounding does.
    with torch.no_grad():
        for parameter in lm.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return Backbone(lm.eval())


def shrunken(config: Any) -> Any:
    """A copy of a transformers configuration with the same structure in every layer, but small.

    The width of a head stays, because tables of rotary frequencies depend on it.
    """
    small = copy.deepcopy(config)
    heads, width = 4, cache_shape(config)[1]
    layers = _layers_to_keep(config)

    for name, numbers in vars(config).items():
        if isinstance(numbers, list) and len(numbers) == config.num_hidden_layers:
            setattr(small, name, numbers[:layers])

    sizes = {
        "num_hidden_layers": layers,
        "vocab_size": VOCABULARY,
        "num_attention_heads": heads,
        "num_key_value_heads": _fewer_key_heads(config, heads),
        "hidden_size": heads * width,
        "intermediate_size": 2 * width,
        "moe_intermediate_size": width,
        "shared_expert_intermediate_size": width,
        "num_experts": 4,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": WINDOW,
        "attention_chunk_size": WINDOW,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 2 * _linear_ratio(config),
        "conv_dim": heads * width,
        "conv_dim_out": heads * width,
        "block_dim": heads * width,
        "block_ff_dim": 2 * width,
        "hidden_size_per_layer_input": width,
    }
    for name, size in sizes.items():
        if getattr(config, name, None) is not None:
            setattr(small, name, size)
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        setattr(small, name, None)
    return small


def _layers_to_keep(config: Any) -> int:
    """The fewest first layers that have every kind of layer; at least two."""
    count = int(config.num_hidden_layers)
    per_layer = [
        kinds for kinds in vars(config).values() if isinstance(kinds, list) and len(kinds) == count
    ]
    firsts = [kinds.index(kind) + 1 for kinds in per_layer for kind in kinds]
    return min(count, max([2, *firsts]))


def _fewer_key_heads(config: Any, heads: int) -> int:
    """Key-value heads of the twin: one, all, or half of the query heads, like in `config`."""
    key_heads = cache_shape(config)[0]
    if key_heads in (1, config.num_attention_heads):
        return 1 if key_heads == 1 else heads
    return heads // 2


def _linear_ratio(config: Any) -> int:
    """Value heads per key head of linear attention."""
    keys = getattr(config, "linear_num_key_heads", None)
    return int(config.linear_num_value_heads) // int(keys) if keys else 1


def _tokens(model: Backbone, rows: int, length: int) -> Tensor:
    """Some tokens (rows, length), all of them different within a row if there are enough."""
    numbers = torch.arange(rows * length, device=model.device).view(rows, length)
    return 1 + numbers % (min(VOCABULARY, int(model.config.vocab_size)) - 1)


def logits_fault(model: Backbone, tolerance: float, length: int = LENGTH) -> str:
    """How the logits differ from those of the model itself; empty if they do not.

    They do if the model scales or caps its logits, or if its parts have other names.
    """
    tokens = _tokens(model, 2, length)
    try:
        ours = model.logits(tokens)
        model.lm.set_attn_implementation("eager")
        theirs = model.lm(tokens, use_cache=False).logits.float()
        model.lm.set_attn_implementation("tinyzero")
    except UNSUPPORTED_ERRORS as error:
        return first_line(error)
    if differs(ours, theirs, tolerance):
        return f"its logits are {_logit_change(model.config)}"
    return ""


def _logit_change(config: Any) -> str:
    """What a configuration says about the logits, for an error message."""
    for name in ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier"):
        if getattr(config, name, None) not in (None, 1, 1.0):
            return f"scaled or capped ({name})"
    return "not those of its last hidden states"


def cache_fault(model: Backbone, tolerance: float, library: bool) -> str:
    """How reading tokens in step differs from reading them at once; empty if it does not.

    The second row is padded on the left, and rows change places in between.
    """
    tokens = _tokens(model, 2, LENGTH)
    pads, half, order = torch.tensor([0, 3]), LENGTH // 2, torch.tensor([1, 0, 1])
    padded = torch.stack((tokens[0], tokens[1].roll(3)))
    expected = (model.hidden(tokens[:1])[0], model.hidden(tokens[1:, :-3])[0])

    own, model.library_cache = model.library_cache, library
    try:
        cache = model.new_cache(pads, LENGTH)
        first = model.step(padded[:, :half], cache)
        cache.select(order.to(model.device))
        later = [model.step(padded[order, i : i + 1], cache) for i in range(half, LENGTH)]
    except UNSUPPORTED_ERRORS as error:
        return first_line(error)
    finally:
        model.library_cache = own

    together = torch.cat(later, 1)
    for row, copied in ((0, 1), (1, 0), (1, 2)):
        begin = int(pads[row])
        result = torch.cat((first[row, begin:], together[copied]))
        if differs(result, expected[row], tolerance):
            return "its layers do not read tokens in step as they read them at once"
    return ""


def packing_fault(model: Backbone, tolerance: float) -> str:
    """Why joined rows see each other or cannot be computed; empty if all is well."""
    tokens, lengths = _tokens(model, 3, LENGTH), torch.tensor([LENGTH, 17, 9])
    own, model.pack = model.pack, True
    try:
        joined = model.hidden(tokens, lengths)
    except UNSUPPORTED_ERRORS as error:
        return f"{type(error).__name__}: {first_line(error)}"
    finally:
        model.pack = own

    alone = model.hidden(tokens)
    for row, length in enumerate(lengths.tolist()):
        if differs(joined[row, :length], alone[row, :length], tolerance):
            return "joined rows see each other"
    return ""


def can_share_prefixes(model: Backbone, tolerance: float) -> bool:
    """Whether a prefix that is computed once gives the hidden states of rows that are alone.

    It does not if tokens see each other outside our attention, as in a convolution, or if the model
    ignores the Packing or the positions.
    """
    tokens = _tokens(model, 4, LENGTH)
    tokens[1:3, :10] = tokens[0, :10]
    lengths, groups = torch.tensor([LENGTH, 17, 11, 9]), torch.tensor([0, 0, 0, 1])

    pack, share = model.pack, model.share
    try:
        model.pack, model.share = False, True
        joined = model.hidden(tokens, lengths, groups)
        model.share = False
        alone = model.hidden(tokens)
    except UNSUPPORTED_ERRORS:
        return False
    finally:
        model.pack, model.share = pack, share
    is_real = torch.arange(LENGTH, device=model.device) < lengths.to(model.device)[:, None]
    return not differs(joined[is_real], alone[is_real], tolerance)
