"""A model folder taken apart: what is used of it, what is left out, and what is rejected.

A folder holds more than weights: how to generate, how its weights were compressed, adapters, even
code to run. transformers follows most of this without a word. Here everything is read first, so
that a folder is either loaded as it is meant or rejected in one line.

    config.json               used, without the entries of LEFT_OUT; quantised models are rejected
    generation_config.json    only its token ids are used
    *.safetensors, *.bin      used; their names and types are read before anything is loaded
    adapter_config.json       a LoRA adapter in the same folder is merged into the weights
    README.md, LICENSE        the licence and the base model are kept when the model is written
    *.py                      never run
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from pickle import UnpicklingError
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import CONFIG_MAPPING, GenerationConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from tinyzero.errors import UserError, brief

CONFIG, GENERATION, ADAPTER = "config.json", "generation_config.json", "adapter_config.json"
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
PLAIN = ("model.safetensors", "pytorch_model.bin")
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
WEIGHTS = ("*.safetensors", "*.bin", *INDEXES)
TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")

QUANTISATION = ("quantization_config", "compression_config", "quantization")
"""Entries of config.json about quantised weights: today's, an older one, and that of MLX."""

LEFT_OUT = ("auto_map", "fusion_config", "transformers_weights", *QUANTISATION)
"""Entries of config.json that transformers never gets: they name code to run or other files.

Those about quantised weights are empty, because the model is rejected otherwise.
"""

UNUSED_SILENTLY = {
    "cache_implementation",
    "do_sample",
    "max_length",
    "max_new_tokens",
    "stop_strings",
    "transformers_version",
    "use_cache",
}
"""Entries of generation_config.json that are not worth a line, because the run has its own."""

NEUTRAL: dict[str, Any] = {"top_k": 0, "top_p": 1.0, "temperature": 1.0, "num_beams": 1}

QUANTISED_NAMES = (
    "*_scale_inv",  # FP8, as DeepSeek stores it
    "*.weight_scale",  # FP8 and compressed-tensors
    "*.weight_packed",  # compressed-tensors
    "*.qweight",  # GPTQ and AWQ
    "*.qzeros",
    "*.absmax",  # bitsandbytes
    "*.SCB",
    "*_proj_blocks",  # MXFP4
)
PART = "language_model."
"""How names begin in the language model of a model that also reads images."""

TYPE_NAMES = {
    "torch.float32": "F32",
    "torch.bfloat16": "BF16",
    "torch.float16": "F16",
    "torch.float64": "F64",
    "torch.float8_e4m3fn": "F8_E4M3",
    "torch.float8_e5m2": "F8_E5M2",
    "torch.bool": "BOOL",
    **{f"torch.int{bits}": f"I{bits}" for bits in (8, 16, 32, 64)},
    **{f"torch.uint{bits}": f"U{bits}" for bits in (8, 16, 32, 64)},
}
"""Names of torch's types in safetensors files."""

CONSTANTS = (".inv_freq", ".masked_bias", ".position_ids")
"""Ends of names that old files hold for tensors that are computed, not learned."""

CLASSIFIER = "ForSequenceClassification"
"""How the architectures of sequence classifiers end, such as reward models."""

NO_LANGUAGE_MODEL = (
    CLASSIFIER,
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForMaskedLM",
    "RewardModel",
)


@dataclass(frozen=True)
class ModelFolder:
    """What is used of a model folder."""

    name: str
    """The model as the user named it."""

    path: Path

    config: Mapping[str, Any]
    """config.json without the entries of LEFT_OUT."""

    token_ids: Mapping[str, int | list[int]] | None
    """The ids in generation_config.json, by their names there; None if there is no such file."""

    weights: Mapping[str, str]
    """Stored type of each weight by its name, such as BF16."""

    renamed: Mapping[str, str]
    """What transformers has to replace in the names of the weights: patterns and their texts."""

    has_adapter: bool
    notes: tuple[str, ...]
    """One line about each thing that is left out."""


def read_folder(name: str, path: Path, classifier: bool = False) -> ModelFolder:
    """Take the model folder at `path` apart, without loading it. Messages call it `name`.

    It holds a language model, or with `classifier` a sequence classifier. Raises UserError if the
    folder cannot be used correctly: if a file is missing or damaged, if the weights are quantised,
    or if the model needs its own code or is of another kind.
    """
    refuse_settings(name, path, classifier)
    config = _read_json(name, path / CONFIG)
    weights = _stored_types(name, path)
    _refuse_quantised(name, config, weights)

    notes = []
    if "auto_map" in config:
        model_type = config.get("model_type")
        notes.append(
            f"{name}: its own code is not run: the {model_type} of transformers is used instead"
        )

    token_ids = None
    if (path / GENERATION).exists():
        given = _read_json(name, path / GENERATION)
        token_ids = checked_ids(name, GENERATION, given, _vocabulary(config))
        unused = sorted(entry for entry in given if _is_opinion(entry, given[entry]))
        unused += [entry for entry in TOKEN_IDS if given.get(entry) is not None]
        unused = [entry for entry in unused if entry not in token_ids]
        if unused:
            notes.append(f"{name}: not used from {GENERATION}: {', '.join(unused)}")

    has_adapter = (path / ADAPTER).exists()
    if has_adapter:
        _refuse_adapter(name, path)
    kept, renamed = _language_model(config, weights)
    return ModelFolder(name, path, kept, token_ids, weights, renamed, has_adapter, tuple(notes))


def _language_model(
    config: Mapping[str, Any], weights: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """The configuration for transformers, and what to replace in the names of the weights.

    Of a model that also reads images, such as Gemma 3, that is its language model alone.
    """
    kept = {entry: value for entry, value in config.items() if entry not in LEFT_OUT}
    text = config.get("text_config")
    if not isinstance(text, dict) or not any(weight.startswith(PART) for weight in weights):
        return kept, {}
    if text.get("model_type") not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return kept, {}

    outer = (*TOKEN_IDS, "dtype", "tie_word_embeddings")
    return text | {entry: config[entry] for entry in outer if entry in config}, {f"^{PART}": ""}


def refuse_settings(name: str, path: Path, classifier: bool = False) -> None:
    """Raise UserError for what config.json alone shows, before weights are fetched or read."""
    config = _read_json(name, path / CONFIG)
    _refuse_architecture(name, config, classifier)
    has_weights = any((path / file).exists() for file in (*PLAIN, *INDEXES))
    if not has_weights:
        _refuse_quantised(name, config, weights={})


def refuse_without_config(name: str, path: Path) -> None:
    """Raise UserError for a folder without a config.json, and say what it holds instead."""
    if (path / ADAPTER).exists():
        base = _read_json(name, path / ADAPTER).get("base_model_name_or_path")
        raise UserError(
            f"{name!r} holds an adapter without its model: copy the adapter's files into a folder "
            f"with the model {base!r}, and they are merged when it is loaded"
        )
    if ggufs := sorted(path.glob("*.gguf")):
        raise UserError(f"{name!r} holds a GGUF model: name the file itself, {str(ggufs[0])!r}")
    if models := sorted(path.glob("checkpoints/step_*/model")):
        raise UserError(
            f"{name!r} is a run, not a model: name its newest model, {str(models[-1])!r}"
        )
    raise UserError(
        f"{name!r} has no config.json, so it is not a Hugging Face model folder: "
        "give the folder that has one"
    )


@contextmanager
def view(folder: ModelFolder) -> Iterator[str]:
    """Yields a folder for transformers that holds the weights and the cleaned config.json alone.

    transformers would otherwise follow an adapter or a generation_config.json in its own way.
    """
    with TemporaryDirectory(prefix="tinyzero-") as made:
        seen = Path(made)
        (seen / CONFIG).write_text(json.dumps(dict(folder.config)), encoding="utf-8")
        for file in folder.path.iterdir():
            is_weights = any(fnmatch(file.name, pattern) for pattern in WEIGHTS)
            if is_weights and not file.name.startswith("adapter_"):
                (seen / file.name).symlink_to(file.resolve())
        yield made


def generation_config(token_ids: Mapping[str, int | list[int]]) -> GenerationConfig:
    """A generation config that holds token ids alone, so that it can always be written."""
    return GenerationConfig(**{name: token_ids.get(name) for name in TOKEN_IDS})


def checked_ids(
    name: str, source: str, given: Mapping[str, Any], vocabulary: int | None
) -> dict[str, int | list[int]]:
    """The token ids in `given`, which the file `source` holds.

    A padding or first token that the model does not have is left out: nothing depends on it.
    Raises UserError if an end token is not a token id, because answers would never end there.
    """
    ids: dict[str, int | list[int]] = {}
    for entry in TOKEN_IDS:
        value = given.get(entry)
        if value is None or value == []:
            continue

        listed = value if isinstance(value, list) else [value]
        wrong = [token for token in listed if not _is_token(token, vocabulary)]
        if not wrong:
            ids[entry] = value
        elif entry == "eos_token_id":
            among = f" of a model with {vocabulary} tokens" if vocabulary else ""
            raise UserError(
                f"{name!r}: eos_token_id in {source} is {value!r}, but {wrong[0]!r} is not a token "
                f"id{among}: correct it"
            )
    return ids


def refuse_incomplete(folder: ModelFolder, loaded: Any, info: Mapping[str, Any]) -> list[str]:
    """Compare the weights that were loaded with those of the model `loaded`.

    Returns a line about weights that are not part of the language model, such as a vision tower.
    Raises UserError if a weight is missing, has the wrong shape, or is not used although it belongs
    to a layer: the configuration is then of another model.
    """
    name = folder.name
    # transformers fills missing weights with random numbers, which would train as noise.
    mismatched = {entry[0] for entry in info["mismatched_keys"]}
    if bad_weights := sorted({*info["missing_keys"], *mismatched}):
        raise UserError(
            f"{name!r} is incomplete: {len(bad_weights)} weights are missing or have the "
            f"wrong shape, the first is {bad_weights[0]}"
        )

    if not hasattr(loaded.config, "vocab_size"):
        raise _cannot_load(
            name,
            f"a {type(loaded).__name__} reads more than text, and its language model cannot be "
            "told apart: use a model that only continues text",
        )
    modules = {module for module, _ in loaded.named_modules() if module}
    layer_lists = {module.rpartition(".")[0] for module in modules if module[-1].isdigit()}
    unexpected = sorted(info["unexpected_keys"])
    left_out = [weight for weight in unexpected if not weight.endswith(CONSTANTS)]
    for weight in left_out:
        if set(_owners(weight)) & layer_lists or _owners(weight)[-1] in modules:
            raise UserError(
                f"{name!r} has weights that its {CONFIG} does not use, such as {weight}: "
                "the two are of different models, so get both from the same place"
            )

    if not left_out:
        return []
    return [
        f"{name}: {len(left_out)} weights are not part of the language model and are left out, "
        f"the first is {left_out[0]}"
    ]


def untie_head(lm: Any) -> bool:
    """Correct a configuration that says that the output layer is the embedding, if it is not.

    transformers believes the weights, but others who read the saved folder believe config.json.
    Returns whether it was corrected.
    """
    head, embedding = lm.get_output_embeddings(), lm.get_input_embeddings()
    is_tied = head is None or head.weight is embedding.weight
    if is_tied or not lm.config.tie_word_embeddings:
        return False

    lm.config.tie_word_embeddings = False
    return True


def _owners(weight: str) -> list[str]:
    """The modules around a weight, outermost first.

    >>> _owners("model.norm.weight")
    ['model', 'model.norm']
    """
    parts = weight.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))] or [""]


def _is_token(value: Any, vocabulary: int | None) -> bool:
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return is_number and 0 <= value < (vocabulary or value + 1)


def _is_opinion(entry: str, value: Any) -> bool:
    """Whether an entry of generation_config.json would change what is sampled."""
    if entry in UNUSED_SILENTLY or entry in TOKEN_IDS or entry.startswith("_"):
        return False
    return value not in (None, False, {}, []) and value != NEUTRAL.get(entry)


def _vocabulary(config: Mapping[str, Any]) -> int | None:
    """The number of tokens that the model knows, if config.json says it."""
    text = config.get("text_config")
    size = config.get("vocab_size") or (text.get("vocab_size") if isinstance(text, dict) else None)
    return size if isinstance(size, int) and size > 0 else None


def _read_json(name: str, path: Path) -> dict[str, Any]:
    """The JSON object in a file of the model `name`."""
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise _cannot_load(name, f"{path.name}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise _cannot_load(name, f"{path.name} is not JSON ({brief(error)})") from error

    if not isinstance(content, dict):
        raise _cannot_load(name, f"{path.name} holds a {type(content).__name__}, not an object")
    return content


def _cannot_load(name: str, reason: str) -> UserError:
    return UserError(f"cannot load a model from {name!r}: {reason}")


def _refuse_architecture(name: str, config: Mapping[str, Any], classifier: bool) -> None:
    """Raise UserError if the model needs its own code, or is not of the kind that is wanted."""
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise _cannot_load(name, f"model_type in {CONFIG} is {model_type!r}: it names no model")
    if model_type not in CONFIG_MAPPING:
        own_code = "auto_map" in config
        reason = (
            "it needs its own code, which is never run here: use a model that transformers knows"
            if own_code
            else f"transformers does not know models of type {model_type!r}: use another model, or "
            "a newer transformers"
        )
        raise _cannot_load(name, reason)

    if config.get("is_encoder_decoder"):
        raise _cannot_load(
            name, "it is an encoder-decoder: use a model that only continues text (a causal one)"
        )
    listed = config.get("architectures")
    if classifier:
        if not str(listed).rstrip("]'\"").endswith(CLASSIFIER):
            raise _cannot_load(
                name,
                f"it is {listed}, not a sequence classifier: make one of it with `tinyzero prefer`",
            )
        return
    for architecture in listed if isinstance(listed, list) else []:
        if str(architecture).endswith(NO_LANGUAGE_MODEL):
            raise _cannot_load(
                name, f"it is a {architecture}, not a language model: use one that continues text"
            )


def _refuse_adapter(name: str, path: Path) -> None:
    """Raise UserError if the adapter in a folder cannot be merged into the weights."""
    settings = _read_json(name, path / ADAPTER)
    kind = settings.get("peft_type")
    fix = f"merge it with peft, or remove {ADAPTER} to use the weights without it"
    if kind != "LORA":
        raise UserError(f"{name!r} holds an adapter of type {kind!r}, not LORA: {fix}")
    if settings.get("layer_replication"):
        raise UserError(f"{name!r} holds an adapter that repeats layers (layer_replication): {fix}")
    if not any((path / file).exists() for file in ADAPTER_WEIGHTS):
        raise UserError(f"{name!r} holds {ADAPTER}, but no {ADAPTER_WEIGHTS[0]}: {fix}")


def _refuse_quantised(name: str, config: Mapping[str, Any], weights: Mapping[str, str]) -> None:
    """Raise UserError if the weights are quantised, or config.json says so."""
    stored = [weight for weight, kind in weights.items() if _is_quantised(weight, kind)]
    text = config.get("text_config")
    parts = [config, text] if isinstance(text, dict) else [config]
    entry, settings = next(
        ((entry, part[entry]) for part in parts for entry in QUANTISATION if part.get(entry)),
        ("", None),
    )
    if not stored and not settings:
        return

    method = settings.get("quant_method") if isinstance(settings, dict) else None
    method = method or f"by {entry}, which names no method"
    if stored:
        what = method if settings else f"{stored[0]} is {weights[stored[0]]}"
        raise _cannot_load(
            name,
            f"its weights are quantised ({what}), and cannot be trained: use the model that was "
            "quantised, with weights in bfloat16, float16 or float32",
        )
    if not weights:
        raise _cannot_load(
            name,
            f"{CONFIG} says that its weights are quantised ({method}): use the unquantised model",
        )
    raise _cannot_load(
        name,
        f"{CONFIG} says that its weights are quantised ({method}), but they are not: remove "
        f"{entry} if it was left behind, or use the unquantised model",
    )


def _is_quantised(weight: str, kind: str) -> bool:
    is_small = kind.startswith(("F8_", "F6_", "F4", "I4", "U4"))
    is_whole = kind.startswith(("I", "U")) and weight.endswith(".weight")
    return is_small or is_whole or any(fnmatch(weight, pattern) for pattern in QUANTISED_NAMES)


def _stored_types(name: str, path: Path) -> dict[str, str]:
    """The stored type, such as BF16, of every weight, without reading the weights themselves.

    Raises UserError if a file of weights is missing, was cut short or cannot be read.
    """
    files = _weight_files(name, path)
    types: dict[str, str] = {}
    for file in files:
        if file.suffix == ".safetensors":
            types |= _header_types(name, file)
        else:
            types |= _pickled_types(name, file)
    return types


def _pickled_types(name: str, file: Path) -> dict[str, str]:
    """The stored type of every weight in a .bin file. Its code, if it holds any, is not run.

    Raises UserError if torch did not write it.
    """
    try:
        with file.open("rb") as opened:
            start = opened.read(2)
    except OSError as error:
        raise _cannot_load(name, f"{file.name}: {error.strerror}") from error

    is_archive, is_old = start == b"PK", start[:1] == b"\x80"
    damaged = f"{file.name} is damaged or was cut short: download it again"
    if not is_archive and not is_old:
        raise _cannot_load(name, damaged)
    try:
        stored = torch.load(file, map_location="cpu", mmap=is_archive, weights_only=True)
    except UnpicklingError as error:
        raise _cannot_load(
            name,
            f"{file.name} is damaged, or holds code, which is never run here: use a "
            "model.safetensors",
        ) from error
    except Exception as error:  # a damaged archive raises many types
        raise _cannot_load(name, damaged) from error
    if not isinstance(stored, dict):
        raise _cannot_load(name, f"{file.name} holds no weights by their names")

    return {
        str(weight): TYPE_NAMES.get(str(tensor.dtype), str(tensor.dtype))
        for weight, tensor in stored.items()
        if isinstance(tensor, torch.Tensor)
    }


def _weight_files(name: str, path: Path) -> list[Path]:
    """The files that transformers will load: one file, or those that an index lists."""
    for plain, index in zip(PLAIN, INDEXES, strict=True):
        if (path / plain).exists():
            return [path / plain]
        if not (path / index).exists():
            continue

        listed = _read_json(name, path / index).get("weight_map")
        if not isinstance(listed, dict) or not listed:
            raise _cannot_load(name, f"{index} has no weight_map")
        files = [path / str(file) for file in sorted(set(map(str, listed.values())))]
        if outside := next((file for file in files if file.parent != path), None):
            raise _cannot_load(
                name, f"{index} names {outside}: put all its files directly into the model's folder"
            )
        for file in files:
            if not file.is_file():
                raise _cannot_load(
                    name, f"{index} names {file.name}, which is missing: download it again"
                )
        return files

    raise _cannot_load(
        name, "it has no weights: add its model.safetensors, or the shards and their index"
    )


def _header_types(name: str, file: Path) -> dict[str, str]:
    """The stored type of every weight in a safetensors file."""
    damaged = f"{file.name} is damaged or was cut short: download it again"
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if length > file.stat().st_size:
                raise _cannot_load(name, damaged)
            header = json.loads(opened.read(length))
        header.pop("__metadata__", None)
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        types = {weight: str(entry["dtype"]) for weight, entry in header.items()}
    except OSError as error:
        raise _cannot_load(name, f"{file.name}: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, LookupError, AttributeError, RecursionError) as error:
        raise _cannot_load(name, damaged) from error

    if file.stat().st_size != 8 + length + end:
        raise _cannot_load(name, damaged)
    return types
