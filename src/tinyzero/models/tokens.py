"""Tokenizers: text and chat messages to token ids and back, and which ids end a completion."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from transformers import (
    AddedToken,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    Qwen2Tokenizer,
)

from tinyzero.errors import UserError
from tinyzero.models.backbone import Backbone
from tinyzero.models.hub import _checked, first_line, locate
from tinyzero.types import Prompt, SamplingParams


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer beside a model. Raises UserError where there is none."""
    path = _checked(locate(name))
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except Exception as error:
        raise UserError(f"cannot load a tokenizer from {name!r}: {first_line(error)}") from error
    if not tokenizer("0", add_special_tokens=False)[
        "input_ids"
    ]:  # what transformers makes of a missing file
        raise UserError(f"{name!r} holds no tokenizer: it needs a tokenizer.json")
    return tokenizer


def build_tokenizer(
    characters: str,
    words: Sequence[str],
    end: str = "<|endoftext|>",
    chat_template: str | None = None,
) -> PreTrainedTokenizerBase:
    """One token for each ASCII character and each word, and `end` (id 0).

    It is byte-level BPE without merges, the form `AutoTokenizer` rebuilds for a qwen2 model, so spaces
    and newlines survive a round trip through transformers and vLLM (a plain character tokenizer loses
    them there without a word).
    """
    byte_level = {
        c: chr(ord(c) + 256) if c in "\n " else c for c in characters
    }  # how that form writes them
    tokenizer = Qwen2Tokenizer(
        vocab={end: 0} | {b: i for i, b in enumerate(byte_level.values(), 1)}, merges=[]
    )
    tokenizer.add_tokens([AddedToken(word, normalized=False, special=False) for word in words])
    tokenizer.chat_template = chat_template
    return tokenizer


def decoder(tokenizer: PreTrainedTokenizerBase) -> Callable[[Sequence[int]], str]:
    """Token ids to text, special tokens included."""
    return lambda ids: str(tokenizer.decode(list(ids), skip_special_tokens=False))


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> tuple[int, ...]:
    """Token ids of a prompt; chat messages go through the tokenizer's own template.

    Raises UserError where the tokenizer cannot write the prompt (characters it would lose).
    """
    if not isinstance(prompt, str):
        if not tokenizer.chat_template:
            raise UserError(
                "this model has no chat template: use --model.prompt base, or compact for a bundled one"
            )
        ids = tokenizer.apply_chat_template(
            [dict(m) for m in prompt], tokenize=True, continue_final_message=True, return_dict=False
        )
        return tuple(ids)
    ids = tokenizer(prompt, add_special_tokens=True)["input_ids"]
    back = tokenizer.decode(ids, skip_special_tokens=False)
    if prompt not in back:
        lost = sorted({c for c in prompt if c not in back})
        raise UserError(
            f"the model's tokenizer cannot write this prompt (it loses {lost or 'spaces or newlines'}): {prompt[:80]!r}"
        )
    return tuple(ids)


def end_ids(
    tokenizer: PreTrainedTokenizerBase, model: Backbone, stop: Sequence[str] = ()
) -> frozenset[int]:
    """Every token that ends a sequence: the tokenizer's and the generation config's.

    An exported model lists there the token of its task's stop string, if it is a single one. That belongs
    to the text and is left out here: `stop` are the task's strings.
    """
    found = {tokenizer.eos_token_id}
    generation = getattr(model.lm, "generation_config", None)
    listed = getattr(generation, "eos_token_id", None)
    found.update(listed if isinstance(listed, list) else [listed])
    stops = {ids[0] for ids in stop_ids(tokenizer, stop) if len(ids) == 1}
    return frozenset(i for i in found if i is not None and i not in stops)


def stop_ids(tokenizer: PreTrainedTokenizerBase, stop: Sequence[str]) -> list[tuple[int, ...]]:
    """The tokens of each stop string."""
    return [tuple(tokenizer(s, add_special_tokens=False)["input_ids"]) for s in stop]


def set_generation(
    model: Backbone, tokenizer: PreTrainedTokenizerBase, params: SamplingParams
) -> None:
    """Have the model's generation config, which is saved with it, say how it is sampled and where it stops.

    A stop string that is one token is an end token there, so that it stops wherever the folder is loaded;
    transformers finds a longer one only where `generate` is also given the tokenizer.
    """
    stops = stop_ids(tokenizer, params.stop)
    longer = [s for s, ids in zip(params.stop, stops, strict=True) if len(ids) > 1]
    config = model.lm.generation_config
    config.eos_token_id = sorted(
        end_ids(tokenizer, model, params.stop) | {ids[0] for ids in stops if len(ids) == 1}
    )
    config.pad_token_id = (
        config.pad_token_id if config.pad_token_id is not None else tokenizer.pad_token_id
    )
    config.stop_strings = longer or None
    config._from_model_config = False  # else transformers may make it anew
    config.max_length, config.max_new_tokens = None, params.max_tokens
    config.do_sample, config.temperature = True, params.temperature
    config.top_p, config.top_k = 1.0, 0  # the full distribution
