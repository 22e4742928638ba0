"""Language models and tokenizers, in Hugging Face form. The one importer of transformers.

A model here is whatever `AutoModelForCausalLM` loads. Two things are ours because they decide the
speed on small machines: the attention (attention.py) and the sampler's cache (pre-allocated, written in place).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint
from transformers import (
    AddedToken,
    AttentionInterface,
    AttentionMaskInterface,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    Qwen2Tokenizer,
)

from tinyzero.attention import causal_mask, grouped_attention, packing_of
from tinyzero.losses import fp32_logits
from tinyzero.types import Prompt, SamplingParams, UserError

BUNDLED = ("tiny", "tiny-multiplication")
ASSETS = Path(__file__).parent / "assets"

transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
AttentionInterface.register("tinyzero", grouped_attention)
AttentionMaskInterface.register("tinyzero", lambda **_: None)  # where a model would make its own mask: causal


def cache_shape(config: Any) -> tuple[int, int]:
    """(key-value heads, numbers a head) of a model's attention."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return int(heads), int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def has_fixed_rotary(config: Any) -> bool:
    """Whether positions turn heads by the same angles in sequences of any length, and every token is seen."""
    growing = config.rope_parameters["rope_type"] in ("dynamic", "longrope")
    return not growing and not getattr(config, "use_sliding_window", False)


def signed_rotary(core: Any, like: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """cos and sin (length, D) of a model's rotary positions, of the type and on the device of `like`.

    sin has the sign of rotate_half, so that a roll takes the place of a negation and a concatenation.
    """
    cos, sin = core.rotary_emb(like, torch.arange(length, device=like.device)[None])  # (1, length, D)
    half = cos.shape[-1] // 2
    return cos[0], torch.cat((-sin[0, :, :half], sin[0, :, half:]), -1)


class KeyValueCache:
    """Keys and values of sequences that are read in lock-step, allocated once and written in place.

    Prompts are padded on the left: every row writes the same column, and its position in its own
    sequence is that column less its padding.
    """

    def __init__(self, config: Any, pads: Tensor, length: int, dtype: torch.dtype, device: torch.device) -> None:
        """`pads` (B,): columns before each row's first token; `length`: columns in all."""
        heads, width = cache_shape(config)
        shape = (config.num_hidden_layers, len(pads), heads, length, width)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.pads = pads.to(device)
        lowest = torch.finfo(dtype).min
        self.mask = (torch.arange(length, device=device) < self.pads[:, None]).to(dtype) * lowest  # (B, length)
        self.column = 0  # the next to be written

    def update(self, key: Tensor, value: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """transformers' cache call: store (B, G, Q, D) from `column` on, return everything up to its end."""
        end = self.column + key.shape[2]
        self.keys[layer, :, :, self.column : end] = key
        self.values[layer, :, :, self.column : end] = value
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def select(self, rows: Tensor) -> None:
        """Keep (or repeat) these rows, in this order."""
        self.keys, self.values = self.keys[:, rows], self.values[:, rows]
        self.pads, self.mask = self.pads[rows], self.mask[rows]

    def get_seq_length(self, *_: Any) -> int:
        return self.column


class Backbone(nn.Module):
    """A causal LM as the rest of the house sees it: tokens in, logits (or hidden states) out."""

    lm: Any  # transformers gives its models no common type that has their parts

    def __init__(self, lm: nn.Module, pack: bool = False) -> None:
        """With `pack`, `hidden` computes rows end to end where it is told their lengths."""
        super().__init__()
        self.lm, self.pack = lm, pack

    @property
    def core(self) -> Any:
        """The model without its head."""
        return self.lm.base_model

    @property
    def head(self) -> Any:
        """The linear layer from hidden states to logits."""
        return self.lm.get_output_embeddings()

    @property
    def config(self) -> Any:
        return self.lm.config

    @property
    def context(self) -> int:
        """The longest sequence the model takes, in tokens."""
        return int(self.config.max_position_embeddings)

    @property
    def cache_bytes(self) -> int:
        """Key-value cache of one token."""
        heads, width = cache_shape(self.config)
        return 2 * int(self.config.num_hidden_layers) * heads * width * self.dtype.itemsize

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def hidden(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Last hidden states (B, T, D) of right-padded tokens (B, T), of which the first `lengths` (B,) are real."""
        if self.pack and lengths is not None:
            return self._packed(tokens, lengths.tolist())
        mask = None if tokens.is_cuda else causal_mask(tokens.shape[1], self.dtype)
        return self.core(input_ids=tokens, attention_mask=mask, use_cache=False).last_hidden_state

    def _packed(self, tokens: Tensor, lengths: list[int]) -> Tensor:
        """`hidden` of the real tokens only, in one row; zeros in the padding."""
        row = torch.cat([tokens[i, :n] for i, n in enumerate(lengths)])[None]
        positions = torch.cat([torch.arange(n, device=tokens.device) for n in lengths])[None]
        found = self.core(
            input_ids=row, position_ids=positions, use_cache=False, packing=packing_of(lengths, tokens.device)
        ).last_hidden_state[0]
        rows = pad_sequence(found.split(lengths), batch_first=True)
        return nn.functional.pad(rows, (0, 0, 0, tokens.shape[1] - rows.shape[1]))

    def logits_of(self, hidden: Tensor) -> Tensor:
        """fp32 logits (..., V) of hidden states (..., D), without gradient to low-precision weights."""
        return fp32_logits(hidden.flatten(0, -2), self.head.weight, self.head.bias).unflatten(0, hidden.shape[:-1])

    def logits(self, tokens: Tensor) -> Tensor:
        """fp32 logits (B, T, V) of right-padded tokens (B, T); column t predicts token t+1."""
        return self.logits_of(self.hidden(tokens))

    def step(self, tokens: Tensor, cache: KeyValueCache) -> Tensor:
        """Hidden states (B, Q, D) of the next tokens (B, Q), which extend `cache`."""
        end = cache.column + tokens.shape[1]
        columns = torch.arange(cache.column, end, device=tokens.device)
        ahead = torch.arange(end, device=tokens.device) > columns[:, None]  # (Q, end)
        mask = cache.mask[:, None, None, :end].masked_fill(ahead, torch.finfo(cache.mask.dtype).min)
        hidden = self.core(
            input_ids=tokens,
            position_ids=(columns - cache.pads[:, None]).clamp(min=0),
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        cache.column = end
        return hidden


class ValueModel(nn.Module):
    """A backbone with a scalar head: the critic. The head starts at zero, so the first values are 0
    and the first advantages are the rewards."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(backbone.config.hidden_size, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.head.to(backbone.device)  # in fp32 whatever the backbone's precision

    def values(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        """(B, T): column t is the value of the state after reading token t."""
        return self.head(self.backbone.hidden(tokens, lengths).float()).squeeze(-1)


def locate(name: str) -> str:
    """The folder of `name`: a bundled base, or what the user gave (a folder, or a hub id)."""
    return str(ASSETS / name) if name in BUNDLED else name


def load_model(
    name: str, dtype: torch.dtype = torch.float32, device: str = "cpu", pack: bool = False, recompute: bool = False
) -> Backbone:
    """Load a model from a folder or the hub. Raises UserError where it is missing, empty, corrupt or of a kind
    that cannot be run here.

    `pack` computes rows end to end; `recompute` keeps each layer's input for the backward pass and nothing else.
    """
    path = _checked(locate(name))
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=dtype,
            attn_implementation="tinyzero",
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that they are named below
        )
    except Exception as error:  # transformers and safetensors raise many kinds for a damaged folder
        raise UserError(f"cannot load a model from {name!r}: {_nothing_there(path)}{first_line(error)}") from error
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
        raise UserError(f"cannot run {name!r}: models of type {lm.config.model_type} are not supported")
    if pack:
        _check_packing(model)
    if recompute:
        recompute_layers(model)
    return model


def _nothing_there(path: str) -> str:
    """What to say first of a model that cannot be read where there is no folder."""
    return "" if Path(path).exists() else "there is no such folder, and no model of that name could be fetched: "


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


def recompute_layers(model: Backbone) -> None:
    """Activation checkpointing (arXiv:1604.06174): a layer's inside is computed again in the backward pass."""
    count = model.config.num_hidden_layers
    layers = next(m for m in model.core.modules() if isinstance(m, nn.ModuleList) and len(m) == count)
    for layer in layers:
        layer.forward = partial(_recomputed, layer.forward)


def _recomputed(forward: Callable[..., Any], *given: Any, **named: Any) -> Any:
    if not torch.is_grad_enabled():  # sampling and scoring keep nothing anyway
        return forward(*given, **named)
    return checkpoint(forward, *given, use_reentrant=False, **named)


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
        return AutoConfig.from_pretrained(path).dtype or torch.float32
    except Exception as error:  # transformers raises many kinds for a damaged folder
        raise UserError(f"cannot load a model from {name!r}: {_nothing_there(path)}{first_line(error)}") from error


def known_context(name: str) -> int | None:
    """The longest sequence of a model in a folder; None where loading it tells. Raises UserError without one."""
    path = _checked(locate(name))
    if not Path(path).is_dir():
        return None
    try:
        return int(AutoConfig.from_pretrained(path).max_position_embeddings)
    except Exception:  # transformers raises many kinds for a damaged folder, which load_model names
        return None


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer beside a model. Raises UserError where there is none."""
    path = _checked(locate(name))
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except Exception as error:
        raise UserError(f"cannot load a tokenizer from {name!r}: {first_line(error)}") from error
    if not tokenizer("0", add_special_tokens=False)["input_ids"]:  # what transformers makes of a missing file
        raise UserError(f"{name!r} holds no tokenizer: it needs a tokenizer.json")
    return tokenizer


def save_model(
    model: Backbone, tokenizer: PreTrainedTokenizerBase, folder: Path, dtype: torch.dtype | None = None
) -> None:
    """Write a folder that transformers and vLLM load as it is; `dtype` stores another precision."""
    places = {p.data_ptr() for p in model.lm.parameters()}
    saved: dict[int | str, Tensor] = {}  # tied weights stay one tensor, which is stored once
    state = {}
    for name, weight in named_weights(model):  # one at a time: merged ones, all on a GPU, would be a second model
        place = weight.data_ptr() if weight.data_ptr() in places else name  # the next merged one may lie in the same
        if place not in saved:
            saved[place] = weight.to("cpu", dtype or weight.dtype).contiguous()
        state[name] = saved[place]
    model.lm.save_pretrained(folder, state_dict=state)
    if dtype is not None:
        config = json.loads((folder / "config.json").read_text())
        config["dtype"] = str(dtype).removeprefix("torch.")
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    tokenizer.save_pretrained(folder)


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
        return layer.weight
    delta = layer.get_delta_weight("default")
    return (layer.base_layer.weight.detach().float() + delta.detach().float()).to(layer.base_layer.weight.dtype)


def build_model(config: dict[str, Any], seed: int) -> Backbone:
    """A freshly initialised model from a transformers configuration with its `model_type`."""
    torch.manual_seed(seed)
    settings = AutoConfig.for_model(**config)
    return Backbone(AutoModelForCausalLM.from_config(settings, attn_implementation="tinyzero"))


def build_tokenizer(
    characters: str, words: Sequence[str], end: str = "<|endoftext|>", chat_template: str | None = None
) -> PreTrainedTokenizerBase:
    """One token for each ASCII character and each word, and `end` (id 0).

    It is byte-level BPE without merges, the form `AutoTokenizer` rebuilds for a qwen2 model, so spaces
    and newlines survive a round trip through transformers and vLLM (a plain character tokenizer loses
    them there without a word).
    """
    byte_level = {c: chr(ord(c) + 256) if c in "\n " else c for c in characters}  # how that form writes them
    tokenizer = Qwen2Tokenizer(vocab={end: 0} | {b: i for i, b in enumerate(byte_level.values(), 1)}, merges=[])
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
            raise UserError("this model has no chat template: use --model.prompt base, or compact for a bundled one")
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


def end_ids(tokenizer: PreTrainedTokenizerBase, model: Backbone) -> frozenset[int]:
    """Every token that ends a sequence: the tokenizer's and the generation config's. A stop string that is one token,
    which an exported model lists among them, is none here: it belongs to the text."""
    found = {tokenizer.eos_token_id}
    generation = getattr(model.lm, "generation_config", None)
    listed = getattr(generation, "eos_token_id", None)
    found.update(listed if isinstance(listed, list) else [listed])
    stops = {ids[0] for ids in stop_ids(tokenizer, SamplingParams().stop) if len(ids) == 1}
    return frozenset(i for i in found if i is not None and i not in stops)


def stop_ids(tokenizer: PreTrainedTokenizerBase, stop: Sequence[str]) -> list[tuple[int, ...]]:
    """The tokens of each stop string."""
    return [tuple(tokenizer(s, add_special_tokens=False)["input_ids"]) for s in stop]


def set_generation(model: Backbone, tokenizer: PreTrainedTokenizerBase, params: SamplingParams) -> None:
    """Have the model's generation config, which is saved with it, say how it is sampled and where it stops.

    A stop string that is one token is an end token there, so that it stops wherever the folder is loaded;
    transformers finds a longer one only where `generate` is also given the tokenizer.
    """
    stops = stop_ids(tokenizer, params.stop)
    longer = [s for s, ids in zip(params.stop, stops, strict=True) if len(ids) > 1]
    config = model.lm.generation_config
    config.eos_token_id = sorted(end_ids(tokenizer, model) | {ids[0] for ids in stops if len(ids) == 1})
    config.pad_token_id = config.pad_token_id if config.pad_token_id is not None else tokenizer.pad_token_id
    config.stop_strings = longer or None
    config._from_model_config = False  # else transformers may make it anew
    config.max_length, config.max_new_tokens = None, params.max_tokens
    config.do_sample, config.temperature = True, params.temperature
    config.top_p, config.top_k = 1.0, 0  # the full distribution


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
    return name.count("/") == 1 and not name.startswith((".", "/", "~", "runs/")) and not Path(name).exists()


def first_line(error: BaseException) -> str:
    """What was raised, short enough for a message of ours."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
