"""`tinyzero completion`: make the shell complete commands, options and names."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

EXAMPLES = """\
  bash:  echo 'eval "$(tinyzero completion bash)"' >> ~/.bashrc
  zsh:   echo 'eval "$(tinyzero completion zsh)"' >> ~/.zshrc
  fish:  tinyzero completion fish > ~/.config/fish/completions/tinyzero.fish

Then start a new shell and press Tab: commands, recipes, tasks, algorithms and
all options are completed, for the task and the algorithm on the same line."""


def add(verb: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command and its arguments."""
    parser = verb(
        "completion", run, "print the code that sets up completion in your shell", examples=EXAMPLES
    )
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="the shell that you use")


def run(given: argparse.Namespace, overrides: dict[str, Any]) -> int:
    """Print the shell's code."""
    from argcomplete.shell_integration import shellcode

    print(shellcode(["tinyzero"], shell=given.shell), end="")
    return 0
