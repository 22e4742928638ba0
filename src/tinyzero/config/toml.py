"""TOML files: read as tables, written from tables, and tables by dotted key."""

from __future__ import annotations

import json
import textwrap
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinyzero.config.schema import Config
from tinyzero.errors import UserError

WIDTH = 80  # columns of a comment


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file. Raises UserError if it cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))  # some editors write a BOM
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # also not UTF-8, or nested too deeply
        raise UserError(f"{path} is not valid TOML: {error}") from None


def to_toml(config: Config) -> str:
    """The configuration as TOML, without the run's folder. `read_recipe` and `resolve` read it."""
    return tables_to_toml(config.model_dump())


def tables_to_toml(
    values: Mapping[str, Any], comments: Mapping[str, str] | None = None, title: str = ""
) -> str:
    """Tables as TOML, without the run's folder and without what is None.

    `comments` are written above the options, by dotted key; `title` is a comment above everything.

    >>> print(tables_to_toml({"steps": 5, "rollout": {"samples": 8}}, {"steps": "training steps"}))
    # training steps
    steps = 5
    <BLANKLINE>
    [rollout]
    samples = 8
    <BLANKLINE>
    """
    comments = comments or {}
    lines = [*_comment(title), ""] if title else []
    for key, value in values.items():
        if not isinstance(value, dict):
            lines += [*_comment(comments.get(key, "")), f"{key} = {literal(value)}"]

    for section, table in values.items():
        if not isinstance(table, dict):
            continue
        lines += ["", f"[{section}]"]
        for key, value in table.items():
            if value is not None and (section, key) != ("run", "dir"):
                comment = comments.get(f"{section}.{key}", "")
                lines += [*_comment(comment), f"{key} = {literal(value)}"]

    return "\n".join(lines).lstrip("\n") + "\n"


def _comment(text: str) -> list[str]:
    """The lines of a comment; none for an empty text."""
    return [f"# {line}" for line in textwrap.wrap(text, WIDTH - 2)]


def literal(value: Any) -> str:
    """A value as TOML. JSON's text of a scalar is TOML's as well, except for None.

    >>> literal([{"name": "countdown", "weight": 2.0}])
    '[{"name" = "countdown", "weight" = 2.0}]'
    """
    if isinstance(value, dict):
        entries = (f"{json.dumps(key)} = {literal(entry)}" for key, entry in value.items())
        return "{" + ", ".join(entries) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(literal, value)) + "]"
    return repr(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


def flat(table: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """A table by dotted key, whether TOML read `a.b = 1` or `"a.b" = 1`.

    >>> flat({"rollout": {"samples": 8}, "eval.every": 20})
    {'rollout.samples': 8, 'eval.every': 20}
    """
    values: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            values |= flat(value, f"{before}{key}.")
        else:
            values[before + key] = value
    return values


def set_option(values: dict[str, Any], key: str, value: Any) -> None:
    """Set the option with the dotted `key` in tables, making tables on the way.

    Raises UserError if a value is in the way of a table.
    """
    *sections, last = key.split(".")
    table = values
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise UserError(f"unknown key {key}: {section} is a value, not a section")

    table[last] = value
