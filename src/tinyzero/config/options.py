"""What every option of a run means, which value it has, and where that value comes from.

Help, the comments in config.toml, `tinyzero explain` and completion all read the same list.
"""

from __future__ import annotations

import re
import tomllib
import types
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from tinyzero import __version__, algorithms, tasks
from tinyzero.config.schema import Config
from tinyzero.config.toml import flat, tables_to_toml
from tinyzero.errors import UserError

SHORT = {"seed": "seed", "steps": "steps"} | {
    key: f"{key}.name" for key in ("task", "algorithm", "sampler")
}
"""Options that everybody changes, and the keys that they are short for."""


OWN = {"task": tasks.REGISTRY, "algorithm": algorithms.REGISTRY}
"""The sections whose options depend on the name that is chosen."""


class Option(NamedTuple):
    """One option of a run."""

    key: str
    """Dotted, as in `rollout.samples`."""
    meaning: str
    value: Any = None
    """None if it has no value."""
    origin: str = "default"
    """`default`, `recipe NAME` or `command line`; empty if that is not known."""
    choices: tuple[str, ...] = ()
    """Everything that it can be, if these are few."""
    kind: Any = None
    """The type of its value, as annotated; None if that is not known."""


def option_keys() -> list[str]:
    """Every dotted key of a configuration, except the options of tasks and algorithms."""
    return [key for key, _ in _fields(Config)]


def kind_of(key: str) -> Any:
    """The type of the option with the dotted `key`; None for those of tasks and algorithms."""
    return _kinds().get(key)


@cache
def _kinds() -> dict[str, Any]:
    return {key: field.annotation for key, field in _fields(Config)}


def describe(
    config: Config, asked: Mapping[str, Any] | None = None, begin: tuple[str, ...] = ("",)
) -> list[Option]:
    """Every option of the run that `config` describes, including those of its task and algorithm.

    `asked` are the tables of asked.toml; without them no origin is known. `begin` limits the list
    to keys that begin with it. The code of the task and of the algorithm is loaded if their options
    are in the list.
    """
    values = flat(config.model_dump())
    options = []
    for key, field in _fields(Config):
        if key.startswith(begin):
            options.append(_option(key, field, values.get(key), asked))

        section, _, name = key.partition(".")
        if name == "name" and section in OWN and f"{section}.".startswith(begin):
            named = getattr(config, section)
            options += own_options(section, named.name, named.options, asked)
    return options


def own_options(
    section: str,
    name: str,
    given: Mapping[str, Any] | None = None,
    asked: Mapping[str, Any] | None = None,
) -> list[Option]:
    """The options of the task or the algorithm called `name`, with the values `given` or defaults.

    `section` is "task" or "algorithm". The code behind `name` is loaded.
    """
    own = getattr(OWN[section].find(name), "Options", None)
    models = [own] if isinstance(own, type) and issubclass(own, BaseModel) else []
    if section == "task" and tasks.tools.takes_tool(own):
        models.append(tasks.tools.ToolOption)
    return [option for model in models for option in options_of(model, f"{section}.", given, asked)]


def options_of(
    model: type[BaseModel],
    before: str = "",
    given: Mapping[str, Any] | None = None,
    asked: Mapping[str, Any] | None = None,
) -> list[Option]:
    """The options that are the fields of a pydantic model; `before` begins their keys."""
    options = []
    for key, field in _fields(model):
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        value = (given or {}).get(key, default)
        options.append(_option(before + key, field, value, asked))
    return options


def documented_toml(config: Config, asked: Mapping[str, Any]) -> str:
    """The text of a run's config.toml: every option that acts, each with its meaning and origin.

    `asked` are the tables of the run's asked.toml, or nothing if it has none.
    """
    comments = {}
    for option in describe(config, asked):
        origin = f" ({option.origin})" if option.origin else ""
        comments[option.key] = option.meaning + origin

    title = (
        f"Every option that has an effect on this run of TinyZero {__version__}, and where its "
        "value comes from. `tinyzero train FILE` with this file repeats the run."
    )
    return tables_to_toml(config.model_dump(), comments, title)


def parse_overrides(arguments: Sequence[str]) -> dict[str, Any]:
    """Options written `--a.b value` or `--a.b=value`, as {"a.b": value}.

    Raises UserError on anything else. `read_value` says how values are read.
    """
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
        key = SHORT.get(key, key)
        overrides[key] = read_value(value, kind_of(key), f"--{key}")
    return overrides


def read_value(text: str, kind: Any = None, flag: str = "") -> Any:
    """The value of an option on the command line, for an option of the type `kind`.

    A text is taken as it is typed. A list may be written with commas, with or without brackets.
    Everything else is TOML if it parses as such, else text, which is then reported.

    `flag` is the option as it is typed, for messages. Raises UserError if a boolean is not one.

    >>> read_value("8"), read_value("true"), read_value("[1, 2]"), read_value("runs/x")
    (8, True, [1, 2], 'runs/x')
    >>> read_value("2024", str), read_value("True", bool), read_value("q_proj,v_proj", list[str])
    ('2024', True, ['q_proj', 'v_proj'])
    """
    kind = _without_none(kind)
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise UserError(f"{flag} is {text!r}: write true or false")
        return text.lower() == "true"
    if get_origin(kind) in (list, tuple) or kind in (list, tuple):
        return _read_list(text, kind, flag)
    return text if _is_text(kind) else _read_any(text)


def _read_list(text: str, kind: Any, flag: str) -> list[Any]:
    """A list from TOML, or from values with commas between them."""
    value = _read_any(text)
    if isinstance(value, list):
        return value

    inner = text.strip()
    if inner.startswith("[") and inner.endswith("]"):
        inner = inner[1:-1]
    element = next(iter(get_args(kind)), None)
    entries = [entry.strip() for entry in inner.split(",")] if inner.strip() else []
    return [read_value(entry, element, flag) for entry in entries]


def _read_any(text: str) -> Any:
    """The value that a text is in TOML, or else the text itself."""
    try:
        # in brackets, so that neither a comment nor another line can follow the value
        table = tomllib.loads(f"x = [{text}]")
    except (ValueError, RecursionError):  # not TOML, or nested too deeply
        table = {}
    values = table["x"] if table.keys() == {"x"} else []

    if len(values) != 1:
        is_number = re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text)  # .5 and 1.
        return float(text) if is_number else text
    value = values[0]
    is_plain = isinstance(value, bool | int | float | str | list | dict)
    return value if is_plain else text  # a date is the name of a folder


def _without_none(kind: Any) -> Any:
    """The type of an option that may also be missing: `str` for `str | None`."""
    if get_origin(kind) not in (Union, types.UnionType):
        return kind
    kinds = [other for other in get_args(kind) if other is not type(None)]
    return kinds[0] if len(kinds) == 1 else kind


def _is_text(kind: Any) -> bool:
    """Whether values of this type are texts."""
    if get_origin(kind) is Literal:
        return all(isinstance(choice, str) for choice in get_args(kind))
    return isinstance(kind, type) and issubclass(kind, str)


def _fields(model: type[BaseModel], before: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every option of `model` and of the sections in it, by dotted key."""
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _fields(inner, f"{before}{name}.")
        else:
            yield before + name, field


def _option(key: str, field: FieldInfo, value: Any, asked: Mapping[str, Any] | None) -> Option:
    """The option behind a field of a pydantic model."""
    choices = _choices(field.annotation)
    meaning = field.description or ""
    return Option(key, meaning, value, _origin(key, asked), choices, field.annotation)


def _choices(annotation: Any) -> tuple[str, ...]:
    """Everything that a value of this type can be, if that is a short list."""
    if annotation is bool:
        return ("true", "false")
    if get_origin(annotation) is Literal:
        return tuple(str(choice) for choice in get_args(annotation) if choice != "")
    return ()


def _origin(key: str, asked: Mapping[str, Any] | None) -> str:
    """Where the value of an option comes from, as the tables of asked.toml tell it."""
    if not asked:
        return ""

    command = asked.get("command", {})
    if key in command.get("options", ()):
        return "command line"
    section, _, name = key.rpartition(".")
    if name in (asked.get(section, {}) if section else asked):
        return f"recipe {command['recipe']}" if command.get("recipe") else "recipe"
    return "default"
