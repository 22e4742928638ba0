"""Which recipe a model needs. A recipe for the small bundled models would ruin a pretrained one."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tinyzero.config.toml import read_toml
from tinyzero.errors import UserError

BUNDLED = Path(__file__).parent.parent / "assets"
LARGEST_TINY = 50e6
"""Weights. The bundled models have 1 million; the smallest pretrained ones have 100 million."""

LARGEST_ON_CPU = 4e8
"""Weights up to which a step takes minutes, not hours, on a CPU."""
UNKNOWN = 3e9
"""Weights of a model whose size nobody says: large, like almost every model on the hub."""


def require_recipe_for_model(
    recipe: Mapping[str, Any], overrides: Mapping[str, Any], recipes: Path
) -> None:
    """Raise UserError if `overrides` put a pretrained model into a recipe for a bundled one.

    Such a recipe trains on the CPU with a learning rate 600 times too high for a pretrained model.
    Models that were trained from a bundled one are fine. Nothing is downloaded: for a model on the
    hub, the name decides. `recipes` is the folder of the bundled recipes.
    """
    table = recipe.get("model", {})
    own = table.get("name") if isinstance(table, dict) else None
    chosen = overrides.get("model.name")
    if not is_bundled(own) or not isinstance(chosen, str) or is_bundled(chosen):
        return

    weights = weights_of(chosen)
    if weights is None or weights <= LARGEST_TINY:
        return
    name = recipe_for(chosen, weights, recipes)
    command = f"tinyzero train {name}"
    if read_toml(recipes / f"{name}.toml")["model"]["name"] != chosen:
        command += f" --model.name {shlex.quote(chosen)}"
    raise UserError(
        f"model.name is {chosen!r}, and this recipe is for the tiny bundled models: {command}"
    )


def recipe_for(model: str, weights: float, recipes: Path) -> str:
    """The bundled recipe that trains `model`, or else one for a model of its size and kind."""
    for path in sorted(recipes.glob("*.toml")):
        if read_toml(path).get("model", {}).get("name") == model and "original" not in path.stem:
            return path.stem

    if weights <= LARGEST_ON_CPU and not has_gpu():
        for path in sorted(recipes.glob("*.toml")):
            table = read_toml(path).get("model", {})
            if table.get("device") == "cpu" and not is_bundled(table.get("name")):
                return path.stem

    limits = {"0.5b": 1e9, "1.5b": 2.2e9, "3b": 5e9}
    size = next((size for size, most in limits.items() if weights <= most), "7b")
    is_instruct = re.search(r"instruct|chat|[-_]it\b", Path(model).name.lower())
    return f"qwen2.5-{size}{'-instruct' if is_instruct else ''}"


def recipe_for_model(model: str) -> str:
    """The bundled recipe to train `model` with, by its size; the tiny bases have their own."""
    return recipe_for(model, weights_of(model) or UNKNOWN, BUNDLED.parent / "config" / "recipes")


def has_gpu() -> bool:
    """Whether this machine has a GPU, by its driver's files: importing torch would take seconds."""
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/kfd").exists()


def weights_of(model: str) -> float | None:
    """About how many weights a model has, from its folder or its hub id. None if it is neither.

    A hub id that does not say its size counts as 3 billion: large, like almost every model there.

    >>> weights_of("Qwen/Qwen2.5-0.5B")
    500000000.0
    """
    if Path(model).is_dir():
        return _weights_in(Path(model))
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", model):
        return None

    size = re.search(r"(?<![a-z\d.])(\d+(?:\.\d+)?)(b|m)(?![a-z])", model.lower())
    if not size:
        return UNKNOWN
    return float(size[1]) * (1e9 if size[2] == "b" else 1e6)


def _weights_in(folder: Path) -> float | None:
    """About how many weights the model in `folder` has, from its config.json; None without one."""
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        shape = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        width = shape["hidden_size"]
        feed_forward = shape.get("intermediate_size", 4 * width)
        layer = 4 * width**2 + 3 * width * feed_forward
        return float(shape["vocab_size"] * width + shape["num_hidden_layers"] * layer)
    return None


def is_bundled(name: Any) -> bool:
    """Whether this is the name of a model that comes with the package."""
    return name in [path.parent.name for path in BUNDLED.glob("*/config.json")]
