"""Recipes: TOML files and overrides become one typed, validated configuration. No torch.

A recipe is a TOML file whose tables are the sections of `Config`. `--section.option value`
overrides one option. The options that are changed most have short forms: `--seed`, `--steps`,
`--task`, `--algorithm` and `--sampler`. Choosing another task or algorithm replaces the recipe's
whole table for it.

    inherit = "laptop"           # take everything else from this recipe, or from a .toml file
    [algorithms.ppo.rollout]     # what changes if this algorithm is chosen; [tasks.NAME] likewise
    [profiles.24gb.model]        # what changes with --profile 24gb

Later ones win: the inherited recipe, the recipe, its tables for the task and the algorithm, the
profile, the overrides. `RECIPE-TASK-ALGORITHM`, such as laptop-countdown-ppo, names a recipe
together with its task and algorithm. A resolved configuration contains only plain options.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from tinyzero.algorithms import NAMES as ALGORITHMS
from tinyzero.config.adapters import for_adapters, has_adapters
from tinyzero.config.options import option_keys
from tinyzero.config.schema import Config, parts_of
from tinyzero.config.sizes import require_recipe_for_model
from tinyzero.config.toml import read_toml, set_option
from tinyzero.errors import UserError
from tinyzero.registry import lasting_reference, near, suggest, validate
from tinyzero.tasks import TASKS

RECIPES = Path(__file__).parent / "recipes"
DEFAULT_RECIPE = "laptop"
ASKED, MEANT = "asked.toml", "config.toml"
"""The two files in which a run records its configuration; see `recorded.py`."""


def recipes() -> list[str]:
    """The names of the bundled recipes."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def split_name(name: str) -> tuple[str, str | None, str | None]:
    """(recipe, task, algorithm) of a recipe's name; None for what the name does not say.

    Raises UserError that names the nearest recipe if no recipe has this name.

    >>> split_name("laptop-countdown-ppo")
    ('laptop', 'countdown', 'ppo')
    """
    if name.endswith(".toml") or name in recipes():
        return name, None, None

    combinations = {"-".join(parts): parts for parts in product(recipes(), TASKS, ALGORITHMS)}
    if name not in combinations:
        likely = near(name, [*recipes(), *combinations]) or suggest(name, recipes())
        raise UserError(f"unknown recipe {name!r}{likely}")
    return combinations[name]


def read_recipe(name: str) -> dict[str, Any]:
    """The tables of a bundled recipe or of a TOML file, with everything that it inherits.

    `name` may also contain a task and an algorithm. Raises UserError if there is no such recipe, it
    is not valid TOML, or it inherits itself.
    """
    recipe, task, algorithm = split_name(name)
    values = _inherited(_file(recipe))
    for section, chosen in (("task", task), ("algorithm", algorithm)):
        if chosen:
            values = merge(values, {section: {"name": chosen}})
    return values


def _file(name: str, folder: Path = Path()) -> Path:
    """The file of a recipe: a .toml by its path from `folder`, else a bundled one.

    Raises UserError if there is no such file.
    """
    if not name.endswith(".toml"):
        if name not in recipes():
            raise UserError(f"unknown recipe {name!r}{suggest(name, recipes())}")
        return RECIPES / f"{name}.toml"

    if not (folder / name).is_file():
        known = ", ".join(recipes())
        raise UserError(f"no recipe file {folder / name}: give an existing .toml or one of {known}")
    return folder / name


def _inherited(path: Path, heirs: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A recipe's tables over those of the recipe that it inherits; `heirs` inherit this one."""
    values = read_toml(path)
    values.pop("command", None)  # asked.toml of a run says there who asked
    parent = values.pop("inherit", None)
    if parent is None:
        return values
    if not isinstance(parent, str):
        raise UserError(
            f"{path} inherits {parent!r}: give the name of a recipe, or a .toml file in its folder"
        )

    heirs = (*heirs, path.resolve())
    parent_path = _file(parent, path.parent)
    if parent_path.resolve() in heirs:
        raise UserError(
            f"{path} inherits {parent!r}, which inherits it: remove one of the two lines"
        )
    return over(_inherited(parent_path, heirs), values)


def over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """One recipe's tables over another's; if that adds adapters, with learning rates for them."""
    return merge(for_adapters(below, above), above)


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` over `below`, table by table. Another task or algorithm replaces its whole table."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            is_another = _chooses_another(key, old, value)
            value = value if is_another else merge(old, value)
        merged[key] = value
    return merged


def _chooses_another(key: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether `new` chooses a task or an algorithm other than `old`."""
    return key in ("task", "algorithm") and "name" in new and new["name"] != old.get("name")


def resolve(
    recipe: Mapping[str, Any], overrides: Mapping[str, Any], profile: str | None = None
) -> Config:
    """The configuration that a recipe means, with its profile and the overrides applied.

    A task, algorithm, sampler or tool in a file is named by the whole path: a run remembers it.

    Raises UserError that names the option, its value and the fix if a value is wrong. A large model
    with a recipe for the small bundled ones is an error too: the learning rate would ruin it.

    >>> resolve(read_recipe("laptop"), {"rollout.samples": 8}).rollout.samples
    8
    """
    require_recipe_for_model(recipe, overrides, RECIPES)
    given: dict[str, Any] = {}
    for key, value in overrides.items():
        if key.partition(".")[0] not in Config.model_fields:
            raise UserError(f"unknown key {key}{suggest(key, option_keys())}")
        set_option(given, key, value)

    chosen = over({}, _chosen(recipe, overrides, profile))
    values = copy.deepcopy(dict(for_adapters(chosen, given)))
    for key, value in overrides.items():
        set_option(values, key, value)

    for key, value in values.items():
        field = Config.model_fields.get(key)
        if field is None:
            raise UserError(f"unknown key {key}{suggest(key, option_keys())}")
        kind = field.annotation
        is_section = isinstance(kind, type) and issubclass(kind, BaseModel)
        if is_section and not isinstance(value, dict):
            raise UserError(f"{key} is {value!r}: it is a section; write --{key}.option VALUE")

    for key in ("task", "algorithm"):
        values.setdefault(key, {}).setdefault("name", getattr(Config(), key).name)
    for key in ("task", "algorithm", "sampler"):
        name = values.get(key, {}).get("name")
        if isinstance(name, str):
            values[key]["name"] = lasting_reference(name)
    if isinstance(tool := values["task"].get("tool"), str):
        values["task"]["tool"] = lasting_reference(tool)
    for part in parts_of(values["task"]):
        if isinstance(part.get("name"), str):
            part["name"] = lasting_reference(part["name"])
    return validate(Config, values)


def _chosen(
    recipe: Mapping[str, Any], overrides: Mapping[str, Any], profile: str | None
) -> dict[str, Any]:
    """The recipe's own tables, with those for its task, its algorithm and the profile merged in."""
    values = dict(recipe)
    for section, variants in (("task", "tasks"), ("algorithm", "algorithms")):
        if (name := overrides.get(f"{section}.name")) is not None:
            values = merge(values, {section: {"name": name}})
        name = _name_of(section, values.get(section, {}))
        tables = _tables(values.pop(variants, {}), variants)
        values = over(values, tables.get(name, {}))

    known = _tables(values.pop("profiles", {}), "profiles")
    if profile is None:
        return values
    if profile not in known:
        fix = suggest(profile, known) or ": this recipe has none, leave it out"
        raise UserError(f"unknown profile {profile!r}{fix}")
    return over(values, known[profile])


def adapter_note(
    recipe: Mapping[str, Any], overrides: Mapping[str, Any], profile: str | None = None
) -> str | None:
    """What to say if adapters are switched on without a learning rate, so that it is raised."""
    rate = "optimizer.learning_rate"
    had_adapters = has_adapters(_chosen(recipe, overrides, profile))
    if not overrides.get("lora.rank") or had_adapters or rate in overrides:
        return None

    raised = resolve(recipe, overrides, profile).optimizer.learning_rate
    return (
        f"adapters learn more slowly than whole weights: {rate} is {raised:g}, "
        f"ten times the recipe's (--{rate} changes it)"
    )


def _name_of(section: str, table: Any) -> str:
    """The name of the task or the algorithm that a table chooses, by default that of `Config`."""
    if not isinstance(table, dict):
        return ""

    name = table.get("name", getattr(Config(), section).name)
    if not isinstance(name, str):
        article = "an" if section == "algorithm" else "a"
        raise UserError(f"{section}.name is {name!r}: give the name of {article} {section}")
    return name


def _tables(tables: Any, key: str) -> dict[str, dict[str, Any]]:
    """Partial recipes by name. Raises UserError if `tables`, or one of them, is not a table."""
    entries = tables if isinstance(tables, dict) else {}
    for name, value in {key: tables, **entries}.items():
        if not isinstance(value, dict):
            raise UserError(
                f"{name} is {value!r}: write [{key}.NAME.section] and its options below it"
            )
    return dict(entries)


def profiles(recipe: Mapping[str, Any]) -> list[str]:
    """The names of a recipe's profiles, in the order in which they were first written."""
    return list(_tables(recipe.get("profiles", {}), "profiles"))


def run_name(name: str, config: Config, task: str | None = None, profile: str | None = None) -> str:
    """The name of a run's folder: RECIPE-ALGORITHM-SEED, and the task and profile if chosen.

    A run that repeats another one, from its config.toml or asked.toml, is named after that run.

    >>> run_name("runs/first/config.toml", Config(seed=3))
    'first-repeat-3'
    """
    recipe, named_task, _ = split_name(name)
    path = Path(recipe)
    if path.name in (ASKED, MEANT):
        return f"{path.resolve().parent.name}-repeat-{config.seed}"

    recipe = path.stem if recipe.endswith(".toml") else recipe
    parts = [recipe, task or named_task, config.algorithm.name, profile]
    named = [re.split("[/:]", part)[-1] for part in parts if part]
    return "-".join([*named, str(config.seed)])
