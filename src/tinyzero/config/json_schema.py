"""The JSON Schema of a recipe file, with which editors check and complete recipes."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from tinyzero import tasks
from tinyzero.config.options import OWN
from tinyzero.config.schema import Config

DRAFT = "https://json-schema.org/draft/2020-12/schema"


def recipe_schema() -> dict[str, Any]:
    """The JSON Schema of a recipe file, with the options of every bundled task and algorithm.

    The options of a user's task or algorithm are not checked.
    """
    schema = Config.model_json_schema()
    definitions = schema["$defs"]
    definitions.pop("Named")

    properties = schema["properties"]
    properties["inherit"] = {
        "type": "string",
        "description": "take everything else from this recipe: a bundled one, or a .toml file",
    }
    properties["command"] = {"type": "object", "description": "the command that began a run"}
    properties["profiles"] = {
        "type": "object",
        "description": "what changes with --profile NAME",
        "additionalProperties": {"$ref": "#"},
    }
    for section in OWN:
        properties[section] = _choice(section, definitions)
        properties[f"{section}s"] = {
            "type": "object",
            "description": f"what changes with --{section} NAME",
            "additionalProperties": {"$ref": "#"},
        }
    return {"$schema": DRAFT, "title": "A recipe of TinyZero", **_without(schema, "title")}


def _choice(section: str, definitions: dict[str, Any]) -> dict[str, Any]:
    """The schema of a task or an algorithm: its name, and the options that go with the name."""
    registry = OWN[section]
    options: dict[str, Any] = {}
    rules = []
    for name in registry.names():
        kind = registry.find(name)
        model: type[BaseModel] = kind.Options
        own = model.model_json_schema()
        definitions |= own.pop("$defs", {})
        if section == "task" and tasks.tools.takes_tool(model):
            own["properties"] |= tasks.tools.ToolOption.model_json_schema()["properties"]
        own["properties"]["name"] = {"const": name}
        definitions[f"{section} {name}"] = own
        options |= own["properties"]

        named = {"properties": {"name": {"const": name}}, "required": ["name"]}
        rules.append({"if": named, "then": {"$ref": f"#/$defs/{section} {name}"}})

    options["name"] = {
        "type": "string",
        "description": "a bundled one, or package.module:Name, or path/file.py:Name",
        "examples": registry.names(),
    }
    hints = {key: _without(option, "default") for key, option in options.items() if key != "name"}
    loose = {key: {"description": hint.get("description", "")} for key, hint in hints.items()}
    return {
        "type": "object",
        "description": Config.model_fields[section].description,
        "properties": {"name": options["name"], **loose},
        "required": [],
        "allOf": rules,
    }


def _without(table: dict[str, Any], key: str) -> dict[str, Any]:
    """A copy of `table` without one key."""
    return {name: value for name, value in table.items() if name != key}
