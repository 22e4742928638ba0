"""Load and save language models in the format of Hugging Face transformers.

A model is anything that `AutoModelForCausalLM` can load. TinyZero has its own attention and key-
value cache (attention.py and cache.py), because these determine the speed on small machines. Every
model is checked against transformers' own computation when it is loaded.
"""

from __future__ import annotations

import json
import logging
import os
import ssl
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import torch
import transformers
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedTokenizerBase,
)
from transformers.utils.hub import cached_file

from tinyzero.errors import UserError, brief, first_line
from tinyzero.models import contracts, fusing, gguf, packing
from tinyzero.models.backbone import Backbone, context_of, recompute_layers
from tinyzero.models.folder import (
    ADAPTER,
    CONFIG,
    GENERATION,
    INDEXES,
    PLAIN,
    ModelFolder,
    checked_ids,
    generation_config,
    read_folder,
    refuse_incomplete,
    refuse_settings,
    refuse_without_config,
    untie_head,
    view,
)
from tinyzero.registry import near

ASSETS = Path(__file__).parent.parent / "assets"

BUNDLED = tuple(sorted(path.parent.name for path in ASSETS.glob("*/config.json")))
"""Names of the base models that come with the package."""

transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it logs each of its retries

DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
"""Precisions to train and save in, by their names in safetensors files."""

HUB_TIMEOUT = 5.0  # seconds to wait for the hub's first answer

AttentionInterface.register("tinyzero", packing.attention)
# Models do not have to build a mask: without one, our attention is causal.
AttentionMaskInterface.register("tinyzero", packing.padding_mask)


def ignore(line: str) -> None:
    """Take no notice of a line about a model folder."""


def locate(name: str) -> str:
    """The folder of a bundled base model, or else `name` itself: a folder, or a hub id."""
    return str(ASSETS / name) if name in BUNDLED else name


def load_model(
    name: str,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    pack: bool = False,
    recompute: bool = False,
    note: Callable[[str], None] = ignore,
) -> Backbone:
    """Load a model from a folder or from the Hugging Face hub.

    `name` is the name of a bundled model, a folder, or a hub id such as "Qwen/Qwen2.5-3B". `pack`
    joins the rows of a batch, so that no padding is computed. `recompute` saves memory: the
    backward pass computes each layer again from its input. `note` is called with one line about
    each thing in the folder that is not used, and each thing that this device makes slower.

    Raises UserError if the model is missing, incomplete, damaged, quantised, or of an unsupported
    type.
    """
    path = find_model(name)
    lm, notes = _load(name, path, dtype)
    for line in notes:
        note(line)

    model = Backbone(lm.eval().to(device), pack)
    fusing.fuse(model.lm)
    if not all(bool(weight.isfinite().all()) for weight in model.parameters()):
        raise UserError(
            f"{name!r} has weights that are not finite, so its training broke down: "
            "use an earlier checkpoint or another model"
        )
    # The learner's large products are summed in float32. So must the sampler's narrow ones be.
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    try:
        for line in contracts.prepare(model):
            note(f"{name}: {line}")
    except UserError as error:
        raise UserError(f"cannot run {name!r}: {error}") from error
    if recompute:
        recompute_layers(model)
    return model


def _load(name: str, path: str, dtype: torch.dtype) -> tuple[Any, list[str]]:
    """The model of transformers at `path`, and a line about each thing that is not used of it."""
    try:
        folder = read_folder(name, fetched(name, path) if is_hub_id(path) else Path(path))
        with view(folder) as seen:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                seen,
                trust_remote_code=False,
                dtype=dtype,
                attn_implementation="tinyzero",
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are reported below
                key_mapping=dict(folder.renamed) or None,
            )
    except UserError:
        raise
    except UnpicklingError as error:
        raise UserError(
            f"cannot load a model from {name!r}: its .bin file is damaged, or holds code, which is "
            "never run here: use a model.safetensors"
        ) from error
    except Exception as error:  # a damaged folder raises many types of exceptions
        raise UserError(_cannot_load(name, path, error)) from error

    lm, info = loaded
    notes = [*folder.notes, *refuse_incomplete(folder, lm, info)]
    if untie_head(lm):
        notes.append(
            f"{name}: its output layer has weights of its own, although {CONFIG} says that it is "
            "the embedding: it is trained and saved apart"
        )
    if folder.renamed:
        lm._weight_conversions = None  # otherwise it is saved under the names before the renaming
    lm.config.name_or_path = path
    lm.generation_config = generation_config(_token_ids(folder, lm))
    if folder.has_adapter:
        from tinyzero.models import lora  # it imports the package, which imports this module

        lm = lora.merge_adapter(name, lm, folder.path)
        notes.append(
            f"{name}: merged the adapter in this folder into its weights; if they contain it "
            f"already, remove {ADAPTER}"
        )
    return lm, notes


def _token_ids(folder: ModelFolder, lm: Any) -> Mapping[str, int | list[int]]:
    """The token ids of generation_config.json; without that file, those of config.json."""
    if folder.token_ids is not None:
        return folder.token_ids
    given = lm.generation_config.to_dict()
    return checked_ids(folder.name, CONFIG, given, lm.config.vocab_size)


def _cannot_load(name: str, path: str, error: BaseException) -> str:
    """The message for a model that cannot be loaded."""
    missing = ""
    if not Path(path).exists():
        missing = "there is no such folder, and no model of that name could be fetched: "
    reason = first_line(error)
    if "Unrecognized configuration class" in reason:
        reason = "transformers has no model of this type that continues text: use another model"
    return f"cannot load a model from {name!r}: {missing}{reason}"


def pick_device(name: str) -> str:
    """The device that the option `device` means on this machine: auto is cuda if there is a GPU.

    Raises UserError if there is no such device.
    """
    count = torch.cuda.device_count()
    if name == "auto":
        return "cuda" if count else "cpu"
    if name.startswith("cuda") and int(name.partition(":")[2] or 0) >= count:
        raise UserError(f"device is {name}, but torch finds {count} CUDA devices: use cpu or auto")
    return name


def stored_dtype(name: str) -> torch.dtype:
    """The precision in which most of a model's weights are stored.

    For weights that are not in safetensors it is what the configuration says. Raises UserError if
    there is no model called `name`.
    """
    path = find_model(name)
    if not is_hub_id(path):
        counted = Counter(read_folder(name, Path(path)).weights.values())
        known = [kind for kind, _ in counted.most_common() if kind in DTYPES]
        if known:
            return DTYPES[known[0]]

    stored = _configuration(name, path).dtype
    return stored if isinstance(stored, torch.dtype) else torch.float32


def known_context(name: str) -> int | None:
    """The longest sequence that a model in a folder accepts, without loading the model.

    None for a model on the hub, or if the configuration does not say. Raises UserError if there is
    no model called `name`, or if its folder cannot be used.
    """
    path = _usable(name)
    if is_hub_id(path):
        return None
    try:
        return context_of(_configuration(name, path).get_text_config())
    except (UserError, AttributeError, TypeError, ValueError):  # load_model will report it
        return None


def _configuration(name: str, path: str) -> Any:
    """The configuration of the model at `path`, as transformers reads it."""
    try:
        return AutoConfig.from_pretrained(path, trust_remote_code=False)
    except Exception as error:  # a damaged folder raises many types of exceptions
        raise UserError(_cannot_load(name, path, error)) from error


def save_model(
    model: Backbone,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a model folder that transformers and vLLM can load, and read its weights back.

    Adapters are merged into the weights. `dtype` stores the weights in another precision. Raises
    UserError if transformers cannot write them, or if what was read back is something else.
    """
    weights = _stored_weights(model, dtype)
    with _unwritable():
        model.lm.save_pretrained(folder, state_dict=dict(weights))
        tokenizer.save_pretrained(folder)
    if dtype is not None:
        config = json.loads((folder / "config.json").read_text())
        config["dtype"] = str(dtype).removeprefix("torch.")
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")

    # safetensors makes its files readable only by their owner: give them the usual permissions.
    permissions = stat.S_IMODE((folder / "config.json").stat().st_mode)
    for file in folder.glob("*.safetensors"):
        file.chmod(permissions)
    _compare_written(folder, weights)


@contextmanager
def _unwritable() -> Iterator[None]:
    """Turn what transformers raises for a model that it cannot write into a UserError.

    A refusal of the disk passes through: the caller knows what to say about it.
    """
    try:
        yield
    except (OSError, SafetensorError):
        raise
    except Exception as error:
        raise UserError(f"transformers cannot write this model: {brief(error)}") from error


def _compare_written(folder: Path, weights: Mapping[str, Tensor]) -> None:
    """Raise UserError if the files in `folder` do not hold `weights`, bit by bit.

    A weight that is tied to another one is stored once. transformers stores some architectures
    under other names; those are compared when the folder is loaded (readback.py).
    """
    names, addresses = set(), set()
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as stored:
            for name in stored.keys():  # noqa: SIM118 - it is not a dictionary
                names.add(name)
                if name not in weights:
                    continue
                addresses.add(weights[name].data_ptr())
                if not same_bits(stored.get_tensor(name), weights[name]):
                    raise UserError(
                        f"{folder}: {name} was not stored as it is: check the disk, then try again"
                    )

    lost = [name for name, weight in weights.items() if weight.data_ptr() not in addresses]
    if lost and names <= weights.keys():
        raise UserError(f"{folder}: {lost[0]} was not stored: check the disk, then try again")


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors on the CPU have equal shapes, types and bits (a NaN equals itself)."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    flat = (tensor.contiguous().flatten().view(torch.uint8) for tensor in (one, other))
    return torch.equal(*flat)


def _stored_weights(model: Backbone, dtype: torch.dtype | None) -> dict[str, Tensor]:
    """The merged weights on the CPU. Tied weights are one tensor, so that they are stored once.

    Weights are copied one by one: all merged weights together would be a second model on the GPU.
    """
    own_addresses = {parameter.data_ptr() for parameter in model.lm.parameters()}
    copies: dict[int | str, Tensor] = {}
    state = {}
    for name, weight in named_weights(model):
        # A merged weight is temporary, and the next one may get its address: use its name instead.
        address = weight.data_ptr()
        key = address if address in own_addresses else name
        if key not in copies:
            copies[key] = weight.to("cpu", dtype or weight.dtype).contiguous()
        state[name] = copies[key]
    return state


def named_weights(model: Backbone) -> Iterator[tuple[str, Tensor]]:
    """All weights under their Hugging Face names, with adapters merged into their layers."""
    layers = dict(model.lm.named_modules())
    for name, tensor in model.lm.state_dict().items():
        if ".lora_" in name:
            continue
        plain = name.replace(".base_layer.", ".")
        if plain != name and plain.endswith(".weight"):
            tensor = merged_weight(layers[plain.removesuffix(".weight")])
        yield plain, tensor


def merged_weight(layer: Any) -> Tensor:
    """The weight of a linear layer, plus the product of its adapter if it has one."""
    if not hasattr(layer, "base_layer"):
        own: Tensor = layer.weight
        return own

    base: Tensor = layer.base_layer.weight.detach()
    delta: Tensor = layer.get_delta_weight("default").detach()
    return (base.float() + delta.float()).to(base.dtype)


def build_model(config: dict[str, Any], seed: int) -> Backbone:
    """A model with random weights, from a transformers configuration with its `model_type`."""
    torch.manual_seed(seed)
    settings = AutoConfig.for_model(**config)
    return Backbone(AutoModelForCausalLM.from_config(settings, attn_implementation="tinyzero"))


def find_model(name: str, classifier: bool = False) -> str:
    """The folder of the model called `name`, or `name` itself if it is a hub id.

    It holds a language model, or with `classifier` a sequence classifier.

    Raises UserError at once if there is no such folder, or the hub cannot be reached for a model
    that was not fetched before. transformers alone would retry for more than a minute.
    """
    path = _usable(name, classifier)
    if is_hub_id(path) and not _is_cached(path) and not _hub_answers():
        raise UserError(f"no folder {path!r} here, and the hub could not be reached{_hint(path)}")
    return path


def fetched(name: str, hub_id: str, classifier: bool = False) -> Path:
    """The local folder of a model on the hub, once the files that are used were fetched.

    Raises UserError before the weights are fetched if its configuration shows that they cannot be
    used.
    """
    folder = Path(str(cached_file(hub_id, CONFIG))).parent
    for file in (GENERATION, ADAPTER, "README.md", "LICENSE"):
        _fetch_if_any(hub_id, file)
    refuse_settings(name, folder, classifier)

    for plain, index in zip(PLAIN, INDEXES, strict=True):
        if _fetch_if_any(hub_id, plain):
            break
        if _fetch_if_any(hub_id, index):
            shards = json.loads((folder / index).read_bytes())["weight_map"].values()
            for shard in sorted(set(shards)):
                cached_file(hub_id, shard)
            break

    if (folder / ADAPTER).exists():
        _fetch_if_any(hub_id, "adapter_model.safetensors")
    return folder


def _fetch_if_any(hub_id: str, file: str) -> bool:
    """Fetch a file from the hub, unless it was fetched before; whether there is one."""
    fetched = cached_file(
        hub_id,
        file,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return fetched is not None


def _usable(name: str, classifier: bool = False) -> str:
    """The folder of a model, after it was taken apart once, or `name` itself if it is a hub id."""
    try:
        path = _checked(locate(name))
        if not is_hub_id(path):
            read_folder(name, Path(path), classifier)
        return path
    except OSError as error:  # no right to read it, or a name that no file can have
        reason = error.strerror or brief(error)
        raise UserError(f"cannot read the model folder {name!r}: {reason}") from error


def _checked(path: str) -> str:
    """The model folder at `path`, or `path` itself if it is a hub id.

    A checkpoint folder is accepted too: its model is in the subfolder `model`. Raises UserError if
    there is no model. An id whose owner is the name of a local folder is a mistyped path, unless
    the model was fetched from the hub before.
    """
    if path.endswith(gguf.SUFFIX) and not Path(path).is_dir():
        return gguf.unpacked(path)
    if is_hub_id(path):
        if Path(path).parent.is_dir() and not _is_cached(path):
            raise UserError(f"no model folder at {path!r}{_hint(path)}")
        return path

    folder = Path(path)
    if folder.name in gguf.PACKAGES and not folder.exists():
        raise UserError(
            f"no model folder at {path!r}: run `tinyzero convert {folder.name}` first, it gets it"
        )
    if folder.is_file():
        raise UserError(f"{path!r} is a file, not a model folder: give the folder that holds it")
    if not folder.is_dir():
        choices = (
            f": give {' or '.join(BUNDLED)} (bundled), a folder, or a hub id such as "
            "Qwen/Qwen2.5-3B"
        )
        raise UserError(f"no model folder at {path!r}{_hint(path) or choices}")
    if (folder / CONFIG).exists():
        return path
    if (folder / "model").is_dir():
        return str(folder / "model")
    refuse_without_config(name=path, path=folder)
    return path


def _is_cached(hub_id: str) -> bool:
    """Whether the configuration of a model on the hub was fetched before."""
    try:
        AutoConfig.from_pretrained(hub_id, trust_remote_code=False, local_files_only=True)
    except OSError:
        return False
    except Exception:  # it is there, but unusual or damaged; load_model will report it
        return True
    return True


@cache
def _hub_answers() -> bool:
    """Whether the hub gives any answer, even an error, within a few seconds."""
    address = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    try:
        with urlopen(Request(address, method="HEAD"), timeout=HUB_TIMEOUT):
            return True
    except HTTPError:
        return True
    except URLError as error:
        # transformers may trust more certificates than Python does
        return isinstance(error.reason, ssl.SSLError)
    except (OSError, ValueError):
        return False


def _hint(path: str) -> str:
    """The end of a message about a missing folder: folders next to it with similar names."""
    parent = Path(path).parent
    if not parent.is_dir():
        return ""
    names = [str(folder) for folder in parent.iterdir() if folder.is_dir()]
    return near(path, names)


def is_hub_id(name: str) -> bool:
    """Whether `name` is a hub id such as Qwen/Qwen2.5-3B, and not the path of a folder."""
    looks_like_path = name.startswith((".", "/", "~", "runs/"))
    return name.count("/") == 1 and not looks_like_path and not Path(name).exists()
