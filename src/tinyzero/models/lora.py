"""LoRA: the weights of a model are frozen, and small low-rank products next to them are trained.

The optimizer gets only the adapters. Samplers, and anyone who loads a saved model, get weights with
the adapters merged into them. The critic, the reward model and the reference share the frozen
weights of the policy. The adapters themselves are those of peft.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tinyzero.config import LoraSection
from tinyzero.errors import UserError, brief
from tinyzero.models import Backbone
from tinyzero.models.agreement import differs

PROBE_TOKENS = 16  # the tokens on which a merged adapter is compared with a separate one
EXACT, ROUNDED = 1e-4, 0.05  # largest relative difference of their logits, in float32 and below

FOLDER = "adapter"
"""The subfolder of a saved model that holds its adapter."""


def add_adapter(model: Backbone, options: LoraSection) -> None:
    """Freeze `model` and add float32 adapters whose product starts at zero (arXiv:2106.09685).

    Raises UserError if peft is not installed, or if no layer has a name in `options.targets`.
    """
    try:
        from peft import inject_adapter_in_model
    except ImportError:
        raise UserError("lora.rank needs peft: pip install 'tinyzero[lora]'") from None
    try:
        with warnings.catch_warnings():
            # peft warns about the transposed layers of GPT-2, and then handles them correctly.
            warnings.filterwarnings("ignore", message="fan_in_fan_out")
            inject_adapter_in_model(_config(options), model.lm)
    except ValueError as error:
        raise UserError(f"lora.targets {options.targets}: {str(error).splitlines()[0]}") from None

    for name, parameter in model.lm.named_parameters():
        parameter.requires_grad_(".lora_" in name)
        if parameter.requires_grad:
            parameter.data = parameter.data.float()

    if model.device.type == "cuda" and model.dtype != torch.float32:
        _speed_up(model)


def _speed_up(model: Backbone) -> None:
    """Compute the products of the adapters, and no others, in TF32.

    This is several times as fast, and still more precise than the 16-bit activations around them.
    The setting of PyTorch for all products would round more than these: some versions of
    transformers compute the angles of rotary positions as a product, and a critic its values.
    """
    for name, module in model.lm.named_modules():
        if ".lora_" in name and isinstance(module, nn.Linear):
            layer: Any = module
            layer.forward = partial(_tf32_linear, layer)


def _tf32_linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """What the linear layer `layer`, which has no bias, computes from `x`, in TF32."""
    result: Tensor = _TF32Product.apply(x, layer.weight)  # type: ignore[no-untyped-call]
    return result


class _TF32Product(torch.autograd.Function):
    """The product x weightᵀ, whose gradients are products in TF32 too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        with _tf32():
            return x @ weight.T

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        (grad,) = grads
        with _tf32():
            return grad @ weight, grad.flatten(0, -2).T @ x.flatten(0, -2)


@contextmanager
def _tf32() -> Iterator[None]:
    """Have a GPU compute float32 products in TF32 for as long as this lasts."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def share_frozen(model: nn.Module, owner: nn.Module) -> None:
    """Replace the frozen weights of `model` by those of `owner`, so that memory holds them once."""
    # Duplicates are kept, because a tied head must be replaced as well as its embedding.
    frozen = {
        _plain(name): parameter
        for name, parameter in owner.named_parameters(remove_duplicate=False)
        if not parameter.requires_grad
    }

    modules = dict(model.named_modules())
    for name, parameter in list(model.named_parameters(remove_duplicate=False)):
        shared = frozen.get(_plain(name))
        if shared is not None and not parameter.requires_grad:
            module, _, attribute = name.rpartition(".")
            modules[module]._parameters[attribute] = shared


def _plain(name: str) -> str:
    """The name that a weight has without adapters."""
    return name.replace(".base_layer.", ".")


def merge_adapter(name: str, lm: Any, folder: Path) -> Any:
    """`lm` with the adapter in `folder` merged into its weights; messages call the model `name`.

    Raises UserError if peft is not installed, or if the adapter does not belong to these weights.
    """
    try:
        from peft import PeftModel, get_peft_model_state_dict
        from peft.utils import load_peft_weights
    except ImportError:
        raise UserError(
            f"{name!r} holds an adapter, and merging it needs peft: pip install 'tinyzero[lora]'"
        ) from None

    try:
        stored = load_peft_weights(str(folder), device="cpu")
        tokens = torch.arange(PROBE_TOKENS)[None] % lm.config.vocab_size
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it warns of is compared below
            adapted = PeftModel.from_pretrained(lm, str(folder))
            expected = get_peft_model_state_dict(adapted)

            before = adapted(tokens).logits.float()
            merged = adapted.merge_and_unload(safe_merge=True)
            after = merged(tokens).logits.float()
    except Exception as error:  # peft, torch and safetensors raise many types
        raise UserError(
            f"cannot merge the adapter in {name!r}: {brief(error)}; remove adapter_config.json to "
            "use the weights without it"
        ) from error

    if foreign := sorted(stored.keys() ^ expected.keys()):
        raise UserError(
            f"the adapter in {name!r} does not belong to its weights, the first difference is "
            f"{foreign[0]}: remove adapter_config.json to use the weights without it"
        )
    # An adapter of a tied embedding, for example, cannot be merged: the head would change as well.
    allowed = EXACT if lm.dtype == torch.float32 else ROUNDED
    if differs(after, before, allowed):
        raise UserError(
            f"cannot merge the adapter in {name!r}: the merged weights are another model; remove "
            "adapter_config.json to use the weights without it"
        )
    merged.requires_grad_(True)  # peft froze them
    return merged


def save_adapter(model: Backbone, options: LoraSection, folder: Path, base: str) -> None:
    """Write the adapter alone, in the format that `PeftModel.from_pretrained` reads.

    `base` is the name of the model that the adapter belongs to.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    state = get_peft_model_state_dict(model.lm, adapter_name="default")
    weights = {
        f"base_model.model.{name}": weight.detach().cpu().contiguous()
        for name, weight in state.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "adapter_model.safetensors")

    config = _config(options)
    config.base_model_name_or_path = base
    config.save_pretrained(str(folder))


def _config(options: LoraSection) -> Any:
    """The options in peft's own form."""
    from peft import LoraConfig

    return LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,
        target_modules=options.targets or "all-linear",
        lora_dropout=0.0,
        task_type="CAUSAL_LM",
    )
