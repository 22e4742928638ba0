"""What every option of a run means, which value it has, and where that value comes from.

Help, the comments in config.toml, `tinyzero explain` and completion all read the same list.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args, get_origin

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


def option_keys() -> list[str]:
    """Every dotted key of a configuration, except the options of tasks and algorithms."""
    return [key for key, _ in _fields(Config)]


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
    model = getattr(OWN[section].find(name), "Options", None)
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        return []
    return options_of(model, f"{section}.", given, asked)


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
        overrides[SHORT.get(key, key)] = read_value(value)
    return overrides


def read_value(text: str) -> Any:
    """The value of an option on the command line: TOML if it parses as such, else text.

    >>> read_value("8"), read_value("true"), read_value("[1, 2]"), read_value("runs/x")
    (8, True, [1, 2], 'runs/x')
    """
    try:
        value = tomllib.loads(f"x = {text}")["x"]
    except (ValueError, RecursionError):  # not TOML, or nested too deeply
        is_number = re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text)  # .5 and 1.
        return float(text) if is_number else text

    is_plain = isinstance(value, bool | int | float | str | list | dict)
    return value if is_plain else text  # a date is the name of a folder


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
    return Option(key, field.description or "", value, _origin(key, asked), choices)


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
