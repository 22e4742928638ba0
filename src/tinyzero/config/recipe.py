"""Recipes: TOML and command-line overrides become one typed, validated configuration. No torch.

A recipe is a TOML file whose tables are the sections below. `--section.option value` overrides one
entry, and `--seed --steps --task --algorithm --sampler` are short for the entries everybody changes. Choosing
another task or algorithm by name replaces the recipe's whole table for it, then overrides apply.

    inherit = "laptop"           # whatever is not said here is another recipe's: a bundled one's or a .toml's beside it
    [algorithms.ppo.rollout]     # what else changes where that algorithm is chosen; [tasks.NAME] likewise
    [profiles.24gb.model]        # what changes with --profile 24gb

Later ones win: the inherited recipe, the recipe, its tables for the task and the algorithm, the profile, overrides.
`RECIPE-TASK-ALGORITHM`, as laptop-countdown-ppo, names a recipe with its task and its algorithm. A resolved
configuration has none of this left in it.
"""

from __future__ import annotations

import copy
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from tinyzero.algorithms import NAMES as ALGORITHMS
from tinyzero.config.schema import Config
from tinyzero.errors import UserError
from tinyzero.registry import near, suggest, validate
from tinyzero.tasks import TASKS

RECIPES = Path(__file__).parent / "recipes"


DEFAULT_RECIPE = "laptop"


SHORT = {"seed": "seed", "steps": "steps"} | {
    key: f"{key}.name" for key in ("task", "algorithm", "sampler")
}


def recipes() -> list[str]:
    """Names of the bundled recipes."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def split_name(name: str) -> tuple[str, str | None, str | None]:
    """(recipe, task, algorithm) of a recipe's name: `laptop-countdown-ppo` is laptop with that task and algorithm.

    The latter two are None in a bare name and in a file's. Raises UserError naming the nearest where there is none.
    """
    if name.endswith(".toml") or name in recipes():
        return name, None, None
    found = {f"{r}-{t}-{a}": (r, t, a) for r in recipes() for t in TASKS for a in ALGORITHMS}
    if name not in found:
        likely = near(name, [*recipes(), *found]) or suggest(name, recipes())
        raise UserError(f"unknown recipe {name!r}{likely}")
    return found[name]


def read_recipe(name: str) -> dict[str, Any]:
    """A bundled recipe by name (perhaps with a task and an algorithm) or a TOML file by path, with what it inherits.

    Raises UserError where there is none, it is no TOML, or it inherits itself.
    """
    recipe, task, algorithm = split_name(name)
    values = _inherited(_file(recipe))
    for section, chosen in (("task", task), ("algorithm", algorithm)):
        values = merge(values, {section: {"name": chosen}} if chosen else {})
    return values


def _file(name: str, beside: Path = Path()) -> Path:
    """Where a recipe lies: a .toml by its path from `beside`, else a bundled one. Raises UserError if there is none."""
    if not name.endswith(".toml"):
        if name not in recipes():
            raise UserError(f"unknown recipe {name!r}{suggest(name, recipes())}")
        return RECIPES / f"{name}.toml"
    if not (beside / name).is_file():
        raise UserError(
            f"no recipe file {beside / name}: give an existing .toml or one of {', '.join(recipes())}"
        )
    return beside / name


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file. Raises UserError where it cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))  # some editors write a BOM
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (
        ValueError,
        RecursionError,
    ) as error:  # no TOML, no UTF-8, or a number or nesting beyond reason
        raise UserError(f"{path} is not valid TOML: {error}") from None


def flat(table: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """A table of overrides by dotted key, whether TOML read `a.b = 1` or `"a.b" = 1`."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        found |= (
            flat(value, f"{before}{key}.") if isinstance(value, dict) else {before + key: value}
        )
    return found


def _inherited(path: Path, heirs: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A recipe's tables over those of the recipe it inherits; `heirs` inherit it."""
    values = read_toml(path)
    values.pop("command", None)  # a run's asked.toml says who asked
    parent = values.pop("inherit", None)
    if parent is None:
        return values
    if not isinstance(parent, str):
        raise UserError(
            f"{path} inherits {parent!r}: give the name of a recipe, or of a .toml file beside it"
        )
    heirs = (*heirs, path.resolve())
    above = _file(parent, path.parent)
    if above.resolve() in heirs:
        raise UserError(f"{path} inherits {parent!r}, which inherits it: leave one of the two out")
    return merge(_inherited(above, heirs), values)


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` over `below`, table by table; a task or an algorithm of another name replaces the whole table."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict) and not _another(key, old, value):
            value = merge(old, value)
        merged[key] = value
    return merged


def _another(key: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether `new` chooses a task or an algorithm other than `old`."""
    return key in ("task", "algorithm") and "name" in new and new["name"] != old.get("name")


def parse_overrides(arguments: Sequence[str]) -> dict[str, Any]:
    """`--a.b value` and `--a.b=value` as {"a.b": value}, values read as TOML where they are, else as text."""
    overrides: dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        flag = rest.pop(0)
        if not flag.startswith("--"):
            raise UserError(
                f"unexpected argument {flag!r}: options are written --section.option value"
            )
        key, equals, value = flag[2:].partition("=")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise UserError(f"{flag} needs a value: write {flag} VALUE")
            value = rest.pop(0)
        overrides[SHORT.get(key, key)] = _literal(value)
    return overrides


def _literal(text: str) -> Any:
    try:
        value = tomllib.loads(f"x = {text}")["x"]
    except (ValueError, RecursionError):  # no TOML, or a number or nesting beyond reason
        return (
            float(text) if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text) else text
        )  # .5 and 1.
    return (
        value if isinstance(value, bool | int | float | str | list | dict) else text
    )  # a date is a folder's name


def resolve(
    recipe: Mapping[str, Any], overrides: Mapping[str, Any], profile: str | None = None
) -> Config:
    """The recipe with its profile and overrides applied, validated.

    Raises UserError naming the key, the value and the fix.
    """
    values = copy.deepcopy(_chosen(recipe, overrides, profile))
    for key, value in overrides.items():
        if key.partition(".")[0] not in Config.model_fields:
            raise UserError(f"unknown key {key}{suggest(key, option_keys())}")
        place(values, key, value)
    for key, value in values.items():
        field = Config.model_fields.get(key)
        if field is None:
            raise UserError(f"unknown key {key}{suggest(key, option_keys())}")
        if (
            isinstance(field.annotation, type)
            and issubclass(field.annotation, BaseModel)
            and not isinstance(value, dict)
        ):
            raise UserError(f"{key} is {value!r}: it is a section; write --{key}.option VALUE")
    for key in ("task", "algorithm"):
        values.setdefault(key, {}).setdefault("name", getattr(Config(), key).name)
    return validate(Config, values, "recipe")


def place(values: dict[str, Any], key: str, value: Any) -> None:
    """Put `value` where the dotted `key` says, making tables on the way. Raises UserError at a value in the way."""
    *sections, last = key.split(".")
    table = values
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise UserError(f"unknown key {key}: {section} is a value, not a section")
    table[last] = value


def profiles(recipe: Mapping[str, Any]) -> list[str]:
    """Names of a recipe's profiles, in the order in which they were first written."""
    return list(_table(recipe.get("profiles", {}), "profiles"))


def _chosen(
    recipe: Mapping[str, Any], overrides: Mapping[str, Any], profile: str | None
) -> dict[str, Any]:
    """The recipe's own tables, with those for its task, its algorithm and the profile merged in."""
    values = dict(recipe)
    for section, variants in (("task", "tasks"), ("algorithm", "algorithms")):
        if (name := overrides.get(f"{section}.name")) is not None:
            values = merge(values, {section: {"name": name}})
        table = values.get(section, {})
        name = table.get("name", getattr(Config(), section).name) if isinstance(table, dict) else ""
        if not isinstance(name, str):
            a = "an" if section == "algorithm" else "a"
            raise UserError(f"{section}.name is {name!r}: give the name of {a} {section}")
        values = merge(values, _table(values.pop(variants, {}), variants).get(name, {}))
    known = _table(values.pop("profiles", {}), "profiles")
    if profile is None:
        return values
    if profile not in known:
        named = suggest(profile, known) or ": this recipe has none, leave it out"
        raise UserError(f"unknown profile {profile!r}{named}")
    return merge(values, known[profile])


def _table(found: Any, key: str) -> dict[str, dict[str, Any]]:
    """A table of partial recipes by name. Raises UserError where it is none."""
    for name, value in {key: found, **(found if isinstance(found, dict) else {})}.items():
        if not isinstance(value, dict):
            raise UserError(
                f"{name} is {value!r}: write [{key}.NAME.section] and its options below"
            )
    return dict(found)


def run_name(name: str, config: Config, task: str | None = None, profile: str | None = None) -> str:
    """RECIPE-ALGORITHM-SEED; after the recipe the task and after the algorithm the profile, where one was chosen."""
    recipe, named_task, _ = split_name(name)
    recipe = Path(recipe).stem if recipe.endswith(".toml") else recipe
    task = task or named_task
    names = [
        recipe,
        *([task] if task else []),
        config.algorithm.name,
        *([profile] if profile else []),
    ]
    return "-".join([*(re.split("[/:]", part)[-1] for part in names), str(config.seed)])


def option_keys() -> list[str]:
    """Every key of a configuration with its section, options of tasks and algorithms aside."""
    found: list[str] = []
    for name, field in Config.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found += [f"{name}.{key}" for key in inner.model_fields]
        else:
            found.append(name)
    return found


def to_toml(config: Config) -> str:
    """The configuration as TOML that `read_recipe` and `resolve` turn back into it, without the run's folder."""
    return tables_to_toml(config.model_dump())


def tables_to_toml(values: Mapping[str, Any]) -> str:
    """The tables of a recipe as TOML, without the run's folder; what is None is left out."""
    lines = [f"{k} = {_toml(v)}" for k, v in values.items() if not isinstance(v, dict)]
    for name, table in values.items():
        if isinstance(table, dict):
            said = {k: v for k, v in table.items() if v is not None and (name, k) != ("run", "dir")}
            lines += ["", f"[{name}]", *(f"{k} = {_toml(v)}" for k, v in said.items())]
    return "\n".join(lines).lstrip("\n") + "\n"


def _toml(value: Any) -> str:
    """A value as TOML; JSON's text of a scalar is TOML's too, but for None, which is left out before."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return repr(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False)
