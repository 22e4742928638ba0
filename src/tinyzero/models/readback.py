"""Reads back what was written: a saved model is the one in memory, or it is not reported as saved.

Each time a model is saved, its weights are read from the files again and compared bit by bit, one
weight at a time. That finds a disk or a conversion that changed something, at the price of reading
the files once. It cannot find settings that make another model of the same weights. Therefore the
first save of a run and every export are also loaded as a user loads them, on the CPU, and their
logits compared. That takes memory for a second model there for a moment, but none on a GPU.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from tinyzero.errors import UserError
from tinyzero.models.agreement import differs
from tinyzero.models.backbone import Backbone
from tinyzero.models.hub import load_model, named_weights, same_bits
from tinyzero.models.tokens import listed_ends, load_tokenizer

PROBE = "Solve 24 = (7 - 3) * 6.\n<think>\n  Ünïcode, 3.5%!</think>\n<answer>12</answer>"
PROBE_TOKENS = 16

LOGIT_ERROR = {torch.float32: 1e-6}
"""Largest relative difference of the logits of equal weights on a CPU, by precision."""

ROUNDED = 0.05
"""The same for lower precisions and for other devices, which round differently."""


def compare_loaded(model: Backbone, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Load the model and the tokenizer in `folder`; both must be `model` and `tokenizer`.

    `folder` holds the weights in the precision of `model`. torch's random numbers stay as they
    were. Raises UserError if something differs, or if the folder cannot be loaded.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        try:
            loaded = load_model(str(folder), model.dtype)
            difference = _first_difference(model, loaded) or _other_text(
                tokenizer, load_tokenizer(str(folder))
            )
        except UserError as error:
            difference = f"what was written cannot be used: {error}"

    if difference:
        raise UserError(
            f"this model cannot be saved: {difference}; use another model, or report this with the "
            "model's name"
        )


def use_known_class(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Name a class in the saved `tokenizer` that transformers 4 and older vLLM know too.

    transformers 5 writes TokenizersBackend and a list of special tokens that they cannot read. The
    file stays as it was if the tokenizer would then be loaded differently.
    """
    path = folder / "tokenizer_config.json"
    before = path.read_text(encoding="utf-8")
    settings = json.loads(before)
    if settings.get("tokenizer_class") != "TokenizersBackend":
        return

    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(settings.get("extra_special_tokens"), list):
        settings["additional_special_tokens"] = settings.pop("extra_special_tokens")
    path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    loaded = load_tokenizer(str(folder))
    if _other_text(tokenizer, loaded) or loaded.get_vocab() != tokenizer.get_vocab():
        path.write_text(before, encoding="utf-8")


def _first_difference(model: Backbone, loaded: Backbone) -> str | None:
    """What is different about the model `loaded`, or None if it computes the same."""
    theirs = dict(named_weights(loaded))
    for name, weight in named_weights(model):
        if name not in theirs or not same_bits(weight.detach().cpu(), theirs[name].detach()):
            return f"its weight {name} differs"

    ends = [set(listed_ends(made)) for made in (model, loaded)]
    if ends[0] != ends[1]:
        return f"it ends at tokens {sorted(ends[1])} instead of {sorted(ends[0])}"

    tokens = torch.arange(PROBE_TOKENS)[None] % model.config.vocab_size
    ours = model.logits(tokens.to(model.device)).cpu()
    read = loaded.logits(tokens)
    has_adapter = any(".lora_" in name for name, _ in model.lm.named_parameters())
    is_exact = model.device.type == "cpu" and not has_adapter
    allowed = LOGIT_ERROR.get(model.dtype, ROUNDED) if is_exact else ROUNDED
    if differs(read, ours, allowed):
        share = float((read - ours).norm() / ours.norm())
        return f"its logits differ by {share:.1e} of their size"
    return None


def _other_text(ours: PreTrainedTokenizerBase, theirs: PreTrainedTokenizerBase) -> str | None:
    """What is different about the tokenizer `theirs`, or None."""
    if ours(PROBE)["input_ids"] != theirs(PROBE)["input_ids"]:
        return f"its tokenizer reads {PROBE!r} as other tokens"
    if ours.chat_template != theirs.chat_template:
        return "its chat template differs"
    if ours.eos_token_id != theirs.eos_token_id:
        return f"its tokenizer ends at token {theirs.eos_token_id}, not {ours.eos_token_id}"
    return None
