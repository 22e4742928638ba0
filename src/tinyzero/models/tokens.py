"""Tokenizers: from text and chat messages to token ids and back, and the ids that end a text."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import (
    AddedToken,
    AutoConfig,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2Tokenizer,
)
from transformers.utils.hub import cached_file

from tinyzero.errors import UserError, first_line
from tinyzero.models.backbone import Backbone
from tinyzero.models.chat import render_chat, render_reply, silent
from tinyzero.models.hub import find_model
from tinyzero.types import Prompt, SamplingParams

MODEL_RULES = ("fuse_unk", "byte_fallback", "ignore_merges")
"""Settings of the model inside a tokenizer that change how it splits text."""

OFFSETS = "trim_offsets"

TOKENIZER, OLDER_TEMPLATE = "tokenizer.json", "chat_template.json"


def load_tokenizer(name: str, path: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer in a model's folder, which splits text exactly as its tokenizer.json says.

    `path` is the folder or the hub id of the model `name` if it was found already.

    Raises UserError if there is no tokenizer, or if it needs tokens that the model does not have.
    """
    path = path or find_model(name)
    try:
        loaded = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        tokenizer = _as_in_file(loaded, path)
    except Exception as error:
        if Path(path).is_dir() and not (Path(path) / TOKENIZER).exists():
            raise UserError(
                f"{name!r} has no tokenizer that can be loaded: add its {TOKENIZER} to the folder"
            ) from error
        raise UserError(f"cannot load a tokenizer from {name!r}: {first_line(error)}") from error
    if tokenizer.chat_template is None:
        tokenizer.chat_template = _older_template(path)

    # If the file is missing, transformers makes a tokenizer that turns every text into nothing.
    if not tokenizer("0", add_special_tokens=False)["input_ids"]:
        raise UserError(f"{name!r} has no tokenizer: add its tokenizer.json to the folder")
    _require_end_token(tokenizer, name)
    return tokenizer


def _as_in_file(tokenizer: PreTrainedTokenizerBase, path: str) -> PreTrainedTokenizerBase:
    """`tokenizer`, or the one in tokenizer.json if transformers changed how that splits text.

    transformers rebuilds some tokenizers from their vocabulary alone, with the steps of the class
    that the folder names. Others that the file lists, such as splitting digits, are then lost.
    """
    file = cached_file(path, TOKENIZER, _raise_exceptions_for_missing_entries=False)
    loaded = getattr(tokenizer, "backend_tokenizer", None)
    if file is None or loaded is None:
        return tokenizer

    written = Tokenizer.from_file(file)
    if _steps(written) == _steps(loaded):
        return tokenizer

    known: dict[str, Any] = {
        name: token
        for name, token in tokenizer.special_tokens_map.items()
        if isinstance(token, str) and written.token_to_id(token) is not None
    }
    as_written: PreTrainedTokenizerBase = PreTrainedTokenizerFast.from_pretrained(path, **known)
    return as_written


def _older_template(path: str) -> str | None:
    """The template in chat_template.json, where models that read images had theirs until 2025."""
    file = Path(path) / OLDER_TEMPLATE
    try:
        template = json.loads(file.read_bytes())["chat_template"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return template if isinstance(template, str) else None


def _steps(tokenizer: Tokenizer) -> list[Any]:
    """How a tokenizer gets from text to tokens and back, except for its vocabulary."""
    parts = (tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.decoder)
    states = [None if part is None else json.loads(part.__getstate__()) for part in parts]
    rules = [getattr(tokenizer.model, rule, None) for rule in MODEL_RULES]
    return [*map(_without_offsets, states), *rules]


def _without_offsets(state: Any) -> Any:
    """A step's settings without the one that only moves offsets, which are not used here."""
    if isinstance(state, dict):
        return {key: _without_offsets(value) for key, value in state.items() if key != OFFSETS}
    return [_without_offsets(entry) for entry in state] if isinstance(state, list) else state


def known_vocabulary(name: str) -> int | None:
    """The number of tokens that a model can read, without loading it; None if it does not say."""
    try:
        settings = AutoConfig.from_pretrained(find_model(name), trust_remote_code=False)
        return int(settings.get_text_config().vocab_size)
    except Exception:  # a damaged folder raises many types; load_model will report it
        return None


def _require_end_token(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Raise UserError if the model has no row for the token that ends a text."""
    rows, end = known_vocabulary(name), tokenizer.eos_token_id
    if rows is not None and end is not None and end >= rows:
        raise UserError(
            f"the tokenizer of {name!r} does not belong to its model: the end token "
            f"{tokenizer.eos_token!r} is number {end}, but the model has only {rows:,} tokens; "
            "use the tokenizer that the model was trained with"
        )


def build_tokenizer(
    characters: str,
    words: Sequence[str],
    end: str = "<|endoftext|>",
    chat_template: str | None = None,
) -> PreTrainedTokenizerBase:
    """A tokenizer with one token per ASCII character and per word, and the token `end` with id 0.

    It is a byte-level BPE tokenizer without merges, because `AutoTokenizer` builds one for models
    of type qwen2. A plain character tokenizer would silently lose spaces and newlines in
    transformers and vLLM.

    >>> tokenizer = build_tokenizer("0123456789+= ", words=["<answer>"])
    >>> encode_prompt(tokenizer, "<answer>1+2")
    (14, 2, 11, 3)
    """
    # Byte-level BPE writes a space as "Ġ" and a newline as "Ċ": 256 places further on.
    symbols = [chr(ord(c) + 256) if c in "\n " else c for c in characters]
    vocabulary = {end: 0}
    for token_id, symbol in enumerate(dict.fromkeys(symbols), 1):
        vocabulary[symbol] = token_id

    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=[])
    tokenizer.add_tokens([AddedToken(word, normalized=False, special=False) for word in words])
    tokenizer.chat_template = chat_template
    return tokenizer


def decoder(tokenizer: PreTrainedTokenizerBase) -> Callable[[Sequence[int]], str]:
    """A function from token ids to text that includes special tokens."""
    return lambda ids: str(tokenizer.decode(list(ids), skip_special_tokens=False))


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase,
    prompt: Prompt,
    *,
    rows: int | None = None,
    date: str = "",
    note: Callable[[str], None] = silent,
) -> tuple[int, ...]:
    """Token ids of a prompt: a text, or chat messages, which the chat template turns into a text.

    An assistant's last message is continued; after a user's, the assistant's turn is opened. The
    ids never end with an end token that the tokenizer adds, and never begin with two begin tokens.

    `rows` is the number of tokens that the model can read, see `known_vocabulary`. `date` is what
    a template takes for today, as in 2026-11-27. `note` is told what was changed in a prompt.

    Raises UserError if the chat template cannot render the prompt, the tokenizer loses characters
    of it, or a token is not one of the model's.
    """
    if isinstance(prompt, str):
        ids = _text_ids(tokenizer, prompt, note)
    else:
        text = render_chat(tokenizer, prompt, date, note)
        ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])

    begin = tokenizer.bos_token_id
    while begin is not None and ids[:2] == [begin, begin]:
        ids = ids[1:]
    _check_ids(tokenizer, ids, rows)
    return tuple(ids)


def encode_reply(
    tokenizer: PreTrainedTokenizerBase,
    prompt: Prompt,
    reply: str,
    last_id: int | None,
    *,
    date: str = "",
) -> tuple[int, ...]:
    """Token ids of what an environment says after the model's turn.

    If `prompt` is chat messages, the chat template makes a user's message of `reply`, and opens the
    assistant's next turn. `last_id` is the end token that the model wrote itself, which is then not
    repeated; None if a stop string ended its turn. If `prompt` is text, the reply is added as is.

    Raises UserError if the chat template cannot be used for several turns.
    """
    text = reply if isinstance(prompt, str) else render_reply(tokenizer, prompt, reply, date)
    if last_id is not None and not isinstance(prompt, str):
        text = text.removeprefix(str(tokenizer.decode([last_id], skip_special_tokens=False)))
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def _text_ids(
    tokenizer: PreTrainedTokenizerBase, prompt: str, note: Callable[[str], None]
) -> list[int]:
    """Token ids of a text, with what the tokenizer adds before it, but not what it adds after it.

    Raises UserError if the tokenizer loses characters of the text.
    """
    ids = list(tokenizer(prompt, add_special_tokens=True)["input_ids"])
    decoded = tokenizer.decode(ids, skip_special_tokens=False)
    if prompt not in decoded:
        lost = sorted({character for character in prompt if character not in decoded})
        raise UserError(
            "the model's tokenizer cannot encode this prompt, because it loses "
            f"{lost or 'spaces or newlines'}: {prompt[:80]!r}"
        )

    own = list(tokenizer(prompt, add_special_tokens=False)["input_ids"])
    starts = range(len(ids) - len(own) + 1)
    start = next((start for start in starts if ids[start : start + len(own)] == own), None)
    if start is None:
        return ids

    before, after = ids[:start], ids[start + len(own) :]
    if tokenizer.bos_token_id not in (None, tokenizer.eos_token_id):
        wrong = [token for token in before if token == tokenizer.eos_token_id]
        before = [token for token in before if token != tokenizer.eos_token_id]
    else:
        wrong = []
    if dropped := wrong + after:
        note(
            f"the tokenizer adds {tokenizer.decode(dropped)!r} to every text: it is left out, "
            "because a prompt is the beginning of a text"
        )
    return before + own


def _check_ids(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], rows: int | None) -> None:
    """Raise UserError if a model with `rows` tokens cannot go on after `ids`."""
    largest = max(ids, default=0)
    if rows is not None and largest >= rows:
        raise UserError(
            f"the prompt has the token {tokenizer.decode([largest])!r}, number {largest}, but the "
            f"model has only {rows:,} tokens: use the tokenizer that it was trained with"
        )
    if ids and ids[-1] == tokenizer.eos_token_id:
        raise UserError(
            f"the prompt ends with the end token {tokenizer.eos_token!r}, so nothing can "
            "follow: end it with the beginning of the assistant's message"
        )


def end_ids(
    tokenizer: PreTrainedTokenizerBase, model: Backbone, stop: Sequence[str] = ()
) -> frozenset[int]:
    """The tokens that end a sequence: those of the tokenizer and of the generation config.

    `stop` are the stop strings of the task. A model that was exported lists them in its generation
    config if they are single tokens. They are left out here, because they belong to the text.
    """
    ends = {tokenizer.eos_token_id, *listed_ends(model)} - {None}
    stop_tokens = {ids[0] for ids in stop_ids(tokenizer, stop) if len(ids) == 1}
    return frozenset(ends - stop_tokens)


def listed_ends(model: Backbone) -> list[int]:
    """The end tokens of the model's generation config, which has none, one or several."""
    generation = getattr(model.lm, "generation_config", None)
    listed = getattr(generation, "eos_token_id", None)
    if listed is None:
        return []
    return listed if isinstance(listed, list) else [listed]


def stop_ids(tokenizer: PreTrainedTokenizerBase, stop: Sequence[str]) -> list[tuple[int, ...]]:
    """The token ids of each stop string."""
    return [tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in stop]


def set_generation(
    model: Backbone, tokenizer: PreTrainedTokenizerBase, params: SamplingParams
) -> None:
    """Write into the model's generation config, which is saved with it, how to sample and to stop.

    A stop string of one token becomes an end token, so that generation stops after it everywhere.
    Longer stop strings are listed as such, but transformers only looks for them if `generate` is
    given the tokenizer.
    """
    stops = stop_ids(tokenizer, params.stop)
    single_tokens = {ids[0] for ids in stops if len(ids) == 1}
    longer = [text for text, ids in zip(params.stop, stops, strict=True) if len(ids) > 1]

    config = model.lm.generation_config
    config.eos_token_id = sorted(end_ids(tokenizer, model, params.stop) | single_tokens)
    if config.pad_token_id is None:
        config.pad_token_id = tokenizer.pad_token_id
    config.stop_strings = longer or None
    config._from_model_config = False  # otherwise transformers may derive it from the model again

    config.max_length = None
    config.max_new_tokens = params.max_tokens
    config.do_sample = True
    config.temperature = params.temperature
    config.top_p = 1.0  # the full distribution, like in training
    config.top_k = 0
