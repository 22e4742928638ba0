"""`tinyzero algorithms`: what each algorithm is made of."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable

from tinyzero.algorithms import NAMES, composition


def add(verb: Callable[..., argparse.ArgumentParser]) -> None:
    """The command and its arguments."""
    parser = verb(
        "algorithms",
        run,
        "print what each algorithm is made of: its stages, constants and source",
    )
    parser.set_defaults(options="none")


def run(given: argparse.Namespace, rest: list[str]) -> int:
    for name in NAMES:
        title, formulas, stages = composition(name)
        print(f"{name}: {title}\n\n{textwrap.indent(formulas, '    ')}\n")
        for stage, choices in stages.items():
            print(f"    {stage:<16} {choices}")
        print()
    return 0
