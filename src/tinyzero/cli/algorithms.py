"""`tinyzero algorithms`: the algorithms, what each is made of, and their options."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable
from typing import Any

from tinyzero import config as configs
from tinyzero.algorithms import NAMES, REGISTRY, composition
from tinyzero.cli.tasks import option_lines

EXAMPLES = """\
  tinyzero algorithms                      every bundled algorithm
  tinyzero algorithms ppo                  its formulas, stages and options
  tinyzero train laptop --algorithm ppo    train with it"""


def add(verb: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command and its arguments."""
    parser = verb(
        "algorithms",
        run,
        "list the algorithms, or describe one: formulas, stages, options",
        examples=EXAMPLES,
    )
    name: Any = parser.add_argument(
        "name", nargs="?", metavar="NAME", help="a bundled algorithm, or path/file.py:Name"
    )
    name.completer = lambda **_: NAMES


def run(given: argparse.Namespace, overrides: dict[str, Any]) -> int:
    """Print all algorithms, or one in full."""
    if given.name:
        print(_description(given.name))
        return 0

    for name in NAMES:
        title = REGISTRY.docstring(name).partition("\n")[0]
        print(textwrap.fill(f"{name:<22} {title}", 80, subsequent_indent=" " * 23))
    print("\nDescribe one of them: tinyzero algorithms NAME")
    return 0


def _description(name: str) -> str:
    """An algorithm's title, formulas, stages and options."""
    options = option_lines(configs.own_options("algorithm", name))
    if ":" in name:
        return "\n".join([name, "", REGISTRY.docstring(name), "", *options])

    title, formulas, stages = composition(name)
    lines = [name, "", textwrap.fill(title, 80), "", textwrap.indent(formulas, "    "), ""]
    for stage, choices in stages.items():
        indent = " " * 21
        lines.append(textwrap.fill(f"    {stage:<16} {choices}", 80, subsequent_indent=indent))
    return "\n".join([*lines, "", *options])
