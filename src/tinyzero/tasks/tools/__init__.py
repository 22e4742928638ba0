"""Tools that a model may use while it writes: `--task.tool calculator` gives one to any task.

Each file of this folder is a tool and defines `TOOL`, a subclass of `Tool`. Your own is named as
`path/file.py:Name`.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from tinyzero.errors import UserError, constructing
from tinyzero.registry import Registry
from tinyzero.tasks.tools.base import TOOL, Tool, ToolEpisode

__all__ = [
    "REGISTRY",
    "TOOL",
    "TOOLS",
    "Tool",
    "ToolEpisode",
    "ToolOption",
    "load_tool",
    "takes_tool",
]

REGISTRY = Registry("tool", __name__, "TOOL", ("base",), ("answer", "stop"))

TOOLS = REGISTRY.names()
"""The names of the tools that ship."""


class ToolOption(BaseModel):
    """The option that every task has in addition to its own."""

    tool: str | None = Field(
        default=None,
        description="a tool that writes into the model's answer: calculator, or your own as "
        "path/file.py:Name; empty for none",
    )


def takes_tool(options: Any) -> bool:
    """Whether `tool` is not an option of the task itself, whose model of options is `options`."""
    return TOOL not in getattr(options, "model_fields", {})


def load_tool(name: str) -> Tool:
    """The tool called `name`. Raises UserError if it does not exist or is not a Tool.

    >>> load_tool("calculator").answer("12*12=")
    '144'
    """
    if not isinstance(name, str):
        raise UserError(f"task.tool is {name!r}: name a tool, such as calculator")
    kind = REGISTRY.find(name)
    if not issubclass(kind, Tool):
        raise UserError(f"tool {name} is not a Tool: derive it from tinyzero.tasks.tools.Tool")

    with constructing(f"tool {name}", ()):
        tool: Tool = kind()
    stop = tool.stop
    is_list = isinstance(stop, list | tuple) and stop
    if not is_list or not all(isinstance(text, str) and text for text in stop):
        raise UserError(f"stop of the tool {name} is {stop!r:.80}: give a list of strings")
    return tool
