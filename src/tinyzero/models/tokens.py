"""Tokenizers: from text and chat messages to token ids and back, and the ids that end a text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from transformers import (
    AddedToken,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    Qwen2Tokenizer,
)

from tinyzero.errors import UserError, first_line
from tinyzero.models.backbone import Backbone
from tinyzero.models.hub import find_model
from tinyzero.types import Prompt, SamplingParams


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer in a model's folder. Raises UserError if it has no tokenizer."""
    path = find_model(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except Exception as error:
        raise UserError(f"cannot load a tokenizer from {name!r}: {first_line(error)}") from error

    # If the file is missing, transformers makes a tokenizer that turns every text into nothing.
    if not tokenizer("0", add_special_tokens=False)["input_ids"]:
        raise UserError(f"{name!r} has no tokenizer: add its tokenizer.json to the folder")
    return tokenizer


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


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> tuple[int, ...]:
    """Token ids of a prompt: a text, or chat messages, which the chat template turns into a text.

    An assistant's last message is continued; after a user's, the assistant's turn is opened.

    Raises UserError if there is no chat template, or if the tokenizer loses characters of the text.
    """
    if not isinstance(prompt, str):
        if not tokenizer.chat_template:
            raise UserError(
                "the task's prompt is chat messages, but this model has no chat template: return "
                "text unless the template is 'instruct', or use a model with a chat template"
            )
        continues = continues_last_message(prompt)
        ids = tokenizer.apply_chat_template(
            [dict(message) for message in prompt],
            tokenize=True,
            continue_final_message=continues,
            add_generation_prompt=not continues,
            return_dict=False,
        )
        return tuple(ids)

    ids = tokenizer(prompt, add_special_tokens=True)["input_ids"]
    decoded = tokenizer.decode(ids, skip_special_tokens=False)
    if prompt not in decoded:
        lost = sorted({character for character in prompt if character not in decoded})
        raise UserError(
            "the model's tokenizer cannot encode this prompt, because it loses "
            f"{lost or 'spaces or newlines'}: {prompt[:80]!r}"
        )
    return tuple(ids)


def continues_last_message(messages: Sequence[Mapping[str, str]]) -> bool:
    """Whether the model continues the last message, because the assistant wrote it.

    After any other message the chat template has to open the assistant's turn; without that the
    model would continue the user's question.
    """
    return messages[-1]["role"] == "assistant"


def end_ids(
    tokenizer: PreTrainedTokenizerBase, model: Backbone, stop: Sequence[str] = ()
) -> frozenset[int]:
    """The tokens that end a sequence: those of the tokenizer and of the generation config.

    `stop` are the stop strings of the task. A model that was exported lists them in its generation
    config if they are single tokens. They are left out here, because they belong to the text.
    """
    generation = getattr(model.lm, "generation_config", None)
    listed = getattr(generation, "eos_token_id", None)
    listed_ids = listed if isinstance(listed, list) else [listed]

    ends = {tokenizer.eos_token_id, *listed_ids} - {None}
    stop_tokens = {ids[0] for ids in stop_ids(tokenizer, stop) if len(ids) == 1}
    return frozenset(ends - stop_tokens)


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
