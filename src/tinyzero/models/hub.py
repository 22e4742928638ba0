"""Language models and tokenizers, in Hugging Face form. The one importer of transformers.

A model here is whatever `AutoModelForCausalLM` loads. Two things are ours because they decide the
speed on small machines: the attention (attention.py) and the sampler's cache (pre-allocated, written in place).
"""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedTokenizerBase,
)

from tinyzero.errors import UserError
from tinyzero.models.attention import grouped_attention
from tinyzero.models.backbone import Backbone, recompute_layers

ASSETS = Path(__file__).parent.parent / "assets"

BUNDLED = tuple(sorted(path.parent.name for path in ASSETS.glob("*/config.json")))
"""The bases that come with the package."""


transformers.logging.set_verbosity_error()


transformers.utils.logging.disable_progress_bar()


AttentionInterface.register("tinyzero", grouped_attention)


AttentionMaskInterface.register(
    "tinyzero", lambda **_: None
)  # where a model would make its own mask: causal


def locate(name: str) -> str:
    """The folder of `name`: a bundled base, or what the user gave (a folder, or a hub id)."""
    return str(ASSETS / name) if name in BUNDLED else name


def load_model(
    name: str,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    pack: bool = False,
    recompute: bool = False,
) -> Backbone:
    """Load a model from a folder or the hub. Raises UserError where it is missing, empty, corrupt or of a kind
    that cannot be run here.

    `pack` computes rows end to end; `recompute` keeps each layer's input for the backward pass and nothing else.
    """
    path = _checked(locate(name))
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path,
            trust_remote_code=False,
            dtype=dtype,
            attn_implementation="tinyzero",
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that they are named below
        )
    except Exception as error:  # transformers and safetensors raise many kinds for a damaged folder
        raise UserError(
            f"cannot load a model from {name!r}: {_nothing_there(path)}{first_line(error)}"
        ) from error
    lm, info = loaded
    # transformers fills in what is missing at random, which would train as noise
    strange = sorted({*info["missing_keys"], *(entry[0] for entry in info["mismatched_keys"])})
    if strange:
        raise UserError(
            f"{name!r} is not whole: {len(strange)} weights are missing or of another shape, first {strange[0]}"
        )
    model = Backbone(lm.eval().to(device), pack)
    if not all(bool(weight.isfinite().all()) for weight in model.parameters()):
        raise UserError(f"{name!r} has weights that are not finite: its training broke down")
    if not _runs_right(model):
        raise UserError(
            f"cannot run {name!r}: models of type {lm.config.model_type} are not supported"
        )
    if pack:
        _check_packing(model)
    if recompute:
        recompute_layers(model)
    return model


def _nothing_there(path: str) -> str:
    """What to say first of a model that cannot be read where there is no folder."""
    return (
        ""
        if Path(path).exists()
        else "there is no such folder, and no model of that name could be fetched: "
    )


@torch.no_grad()
def _runs_right(model: Backbone) -> bool:
    """Whether `logits` is what the model itself computes: some scale or cap them, or name their parts otherwise."""
    tokens = torch.arange(4, device=model.device)[None] % model.config.vocab_size
    try:
        ours = model.logits(tokens)
        model.lm.set_attn_implementation("eager")
        theirs = model.lm(tokens).logits.float()
        model.lm.set_attn_implementation("tinyzero")
    except (AttributeError, TypeError, ValueError, LookupError, UserError):
        return False
    return bool((ours - theirs).norm() < 0.05 * theirs.norm())  # bf16 rounds by a hundredth


@torch.no_grad()
def _check_packing(model: Backbone) -> None:
    """Raises UserError where sequences end to end see each other, as in a model that drops what it is told of them."""
    refusal = f"models of type {model.config.model_type} cannot be packed: set update.pack to false"
    tokens = torch.arange(8, device=model.device).view(2, 4) % model.config.vocab_size
    try:
        packed = model.hidden(tokens, torch.tensor([4, 3]))
    except (AttributeError, TypeError, ValueError, LookupError, RuntimeError, UserError) as error:
        raise UserError(f"{refusal} ({type(error).__name__}: {first_line(error)})") from error
    alone = model.hidden(tokens)[1, :3]
    if not (packed[1, :3] - alone).norm() < 0.05 * alone.norm():
        raise UserError(refusal)


def pick_device(name: str) -> str:
    """The device that an option called `device` means on this machine. Raises UserError where it is not there."""
    count = torch.cuda.device_count()
    if name == "auto":
        return "cuda" if count else "cpu"
    if name.startswith("cuda") and int(name.partition(":")[2] or 0) >= count:
        raise UserError(f"device is {name}, but torch sees {count} CUDA devices: use cpu or auto")
    return name


def stored_dtype(name: str) -> torch.dtype:
    """The precision a model's weights are stored in, by its configuration. Raises UserError where there is none."""
    path = _checked(locate(name))
    try:
        return AutoConfig.from_pretrained(path, trust_remote_code=False).dtype or torch.float32
    except Exception as error:  # transformers raises many kinds for a damaged folder
        raise UserError(
            f"cannot load a model from {name!r}: {_nothing_there(path)}{first_line(error)}"
        ) from error


def known_context(name: str) -> int | None:
    """The longest sequence of a model in a folder; None where loading it tells. Raises UserError without one."""
    path = _checked(locate(name))
    if not Path(path).is_dir():
        return None
    try:
        settings = AutoConfig.from_pretrained(path, trust_remote_code=False)
        return int(settings.max_position_embeddings)
    except Exception:  # transformers raises many kinds for a damaged folder, which load_model names
        return None


def save_model(
    model: Backbone,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a folder that transformers and vLLM load as it is; `dtype` stores another precision."""
    places = {p.data_ptr() for p in model.lm.parameters()}
    saved: dict[int | str, Tensor] = {}  # tied weights stay one tensor, which is stored once
    state = {}
    for name, weight in named_weights(
        model
    ):  # one at a time: merged ones, all on a GPU, would be a second model
        place = (
            weight.data_ptr() if weight.data_ptr() in places else name
        )  # the next merged one may lie in the same
        if place not in saved:
            saved[place] = weight.to("cpu", dtype or weight.dtype).contiguous()
        state[name] = saved[place]
    model.lm.save_pretrained(folder, state_dict=state)
    if dtype is not None:
        config = json.loads((folder / "config.json").read_text())
        config["dtype"] = str(dtype).removeprefix("torch.")
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    tokenizer.save_pretrained(folder)
    readable = stat.S_IMODE((folder / "config.json").stat().st_mode)  # as the umask has it
    for weights in folder.glob("*.safetensors"):
        weights.chmod(readable)  # safetensors writes for its owner alone


def named_weights(model: Backbone) -> Iterator[tuple[str, Tensor]]:
    """Weights under their Hugging Face names, with adapters merged into the layers that they belong to."""
    layers = dict(model.lm.named_modules())
    for name, tensor in model.lm.state_dict().items():
        if ".lora_" in name:
            continue
        plain = name.replace(".base_layer.", ".")
        if plain != name and plain.endswith(".weight"):
            tensor = merged_weight(layers[plain.removesuffix(".weight")])
        yield plain, tensor


def merged_weight(layer: Any) -> Tensor:
    """A linear layer's weight, with its adapter's product where it has one."""
    if not hasattr(layer, "base_layer"):
        own: Tensor = layer.weight
        return own
    delta = layer.get_delta_weight("default")
    result: Tensor = (layer.base_layer.weight.detach().float() + delta.detach().float()).to(
        layer.base_layer.weight.dtype
    )
    return result


def build_model(config: dict[str, Any], seed: int) -> Backbone:
    """A freshly initialised model from a transformers configuration with its `model_type`."""
    torch.manual_seed(seed)
    settings = AutoConfig.for_model(**config)
    return Backbone(AutoModelForCausalLM.from_config(settings, attn_implementation="tinyzero"))


def _checked(path: str) -> str:
    """`path`, unless it names a local folder that is missing or holds no model."""
    local = Path(path)
    if is_hub_id(path):
        return path
    if not local.is_dir():
        raise UserError(
            f"no model folder at {path!r}: give {' or '.join(BUNDLED)} (bundled), a folder, or a hub id "
            "such as Qwen/Qwen2.5-3B"
        )
    if (local / "model").is_dir() and not (local / "config.json").exists():
        return str(local / "model")  # a checkpoint folder
    if not (local / "config.json").exists():
        raise UserError(f"{path!r} holds no config.json: it is not a Hugging Face model folder")
    return path


def is_hub_id(name: str) -> bool:
    """Whether `name` can only be a hub id such as Qwen/Qwen2.5-3B: no folder is there, nor does it look like one."""
    return (
        name.count("/") == 1
        and not name.startswith((".", "/", "~", "runs/"))
        and not Path(name).exists()
    )


def first_line(error: BaseException) -> str:
    """What was raised, short enough for a message of ours."""
    if "trust_remote_code" in str(error):
        return "it needs code of its own, which is never run here: name a model that transformers knows"
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
