"""Low-rank adapters: weights that stay as they are, and small trained products beside them. The one importer of peft.

Only what is trained differs from full training: the optimizer gets the adapters, the sampler and whoever loads the
saved model get merged weights, and the critic, the reward model and the reference share the policy's frozen weights.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tinyzero.config import LoraSection
from tinyzero.errors import UserError
from tinyzero.models import Backbone

FOLDER = "adapter"


def add_adapter(model: Backbone, options: LoraSection) -> None:
    """Freeze `model` and give its layers adapters, in fp32, whose product starts at zero (arXiv:2106.09685).

    Raises UserError where peft is missing or no layer has a name of `options.targets`.
    """
    try:
        from peft import inject_adapter_in_model
    except ImportError:
        raise UserError("lora.rank needs peft: pip install 'tinyzero[lora]'") from None
    try:
        with warnings.catch_warnings():  # of GPT-2's transposed layers, which peft then sees to
            warnings.filterwarnings("ignore", message="fan_in_fan_out")
            inject_adapter_in_model(_config(options), model.lm)
    except ValueError as error:
        raise UserError(f"lora.targets {options.targets}: {str(error).splitlines()[0]}") from None
    for name, parameter in model.lm.named_parameters():
        parameter.requires_grad_(".lora_" in name)
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    if model.device.type == "cuda" and model.dtype != torch.float32:
        # the adapters' products in TF32: several times as fast, and still finer than the activations around them
        torch.set_float32_matmul_precision("high")


def share_frozen(model: nn.Module, owner: nn.Module) -> None:
    """Let the frozen weights of `model` be those of `owner`, so that they are held once."""
    # a tied head is named too, or it would keep the embedding that it was loaded with
    owned = {
        _plain(name): p
        for name, p in owner.named_parameters(remove_duplicate=False)
        if not p.requires_grad
    }
    modules = dict(model.named_modules())
    for name, parameter in list(model.named_parameters(remove_duplicate=False)):
        if not parameter.requires_grad and (shared := owned.get(_plain(name))) is not None:
            module, _, leaf = name.rpartition(".")
            modules[module]._parameters[leaf] = shared


def _plain(name: str) -> str:
    return name.replace(".base_layer.", ".")


def save_adapter(model: Backbone, options: LoraSection, folder: Path, base: str) -> None:
    """Write the adapter alone, as `PeftModel.from_pretrained(model, folder)` reads it."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    state = get_peft_model_state_dict(model.lm, adapter_name="default")
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {f"base_model.model.{k}": v.detach().cpu().contiguous() for k, v in state.items()},
        folder / "adapter_model.safetensors",
    )
    config = _config(options)
    config.base_model_name_or_path = base
    config.save_pretrained(str(folder))


def _config(options: LoraSection) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,
        target_modules=options.targets or "all-linear",
        lora_dropout=0.0,
        task_type="CAUSAL_LM",
    )
