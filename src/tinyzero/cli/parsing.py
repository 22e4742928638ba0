"""One parser for the whole command line, and for every option of a run.

The options of a run depend on the recipe, the task and the algorithm, which the same command line
names. So it is read twice with the same parser: first for those names, with any `--section.option`
allowed, and then with exactly the options that exist, each with its meaning and its value.
"""

from __future__ import annotations

import argparse
import re
import textwrap
from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from types import ModuleType
from typing import Any, NoReturn, cast

from tinyzero import __version__
from tinyzero import config as configs
from tinyzero.algorithms import NAMES as ALGORITHMS
from tinyzero.errors import UserError
from tinyzero.registry import near, suggest
from tinyzero.tasks import TASKS

WIDTH = 80
ABOUT = (
    "TinyZero reproduces DeepSeek R1-Zero on a small scale: it trains a language\n"
    "model by reinforcement learning on problems whose answers a program can check."
)
EXAMPLES = """\
examples:
  tinyzero train                        train the bundled tiny model, in minutes
  tinyzero play runs/laptop-grpo-0      give the trained model problems to solve
  tinyzero train --help                 every option, its meaning and its value
  tinyzero explain rollout.samples      what an option or a metric means"""
SHORT_OF = {full: short for short, full in configs.SHORT.items()}

KNOWN: dict[str, Sequence[str]] = {
    "task.name": TASKS,
    "algorithm.name": ALGORITHMS,
    "sampler.name": ("auto", "torch", "vllm"),
    "model.prompt": ("compact", "chat", "base", "instruct", "instruct-short"),
    "model.device": ("auto", "cpu", "cuda"),
}
"""What a shell completes for options that can be something else too."""

Finder = Callable[[Namespace | None, dict[str, Any]], list[configs.Option]]
"""The options of a run, from what is known of the command line and the options that it gives.

The former is None if the command line is not complete, as when only its help is wanted.
"""


class Parser(argparse.ArgumentParser):
    """argparse with errors in one line, and with the options of a run."""

    finder: Finder | None = None
    """What finds the options of a run; None for a command that takes none."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **settings})
        self.commands: dict[str, Parser] = {}
        self.keys: dict[str, str] = {}  # the key of an option, by the attribute that holds it

    def error(self, message: str) -> NoReturn:
        """Raise UserError instead of printing the usage and exiting."""
        incomplete = re.match(r"argument (--[^/:]+).*: expected one argument", message)
        if incomplete:
            message = f"{incomplete[1]} needs a value: write {incomplete[1]} VALUE"
        raise UserError(f"{message} (see {self.prog} --help)")

    def refuse(self, unknown: Sequence[str]) -> None:
        """Raise UserError if there are words that no argument took."""
        if not unknown:
            return

        flag = unknown[0].partition("=")[0]
        if not flag.startswith("-"):
            raise UserError(f"unexpected argument {unknown[0]!r} (see {self.prog} --help)")
        likely = near(flag.lstrip("-"), [known.lstrip("-") for known in self.flags()])
        likely = re.sub(r"(mean | or )", r"\1--", likely)
        raise UserError(f"unknown option {flag}{likely} (see {self.prog} --help)")

    def flags(self) -> list[str]:
        """Every option that this parser knows, as it is typed."""
        return [flag for action in self._actions for flag in action.option_strings]

    def command_of(self, words: Sequence[str]) -> Parser | None:
        """The parser of the command that a command line names, or None if it names no command."""
        if not words or words[0].startswith("-"):
            return None
        if words[0] not in self.commands:
            likely = suggest(words[0], self.commands)
            raise UserError(f"unknown command {words[0]!r}{likely} (see tinyzero --help)")
        return self.commands[words[0]]

    def add_options(self, words: Sequence[str], first: Parser) -> None:
        """Add the options of the run that the words after the command ask for.

        `first` is another parser of the whole command line. It reads the words first, to find the
        recipe, the task and the algorithm. Raises UserError if one of these does not exist.
        """
        if self.finder is None:
            return

        command = first.commands[self.prog.rpartition(" ")[2]]
        typed = [word[2:].partition("=")[0] for word in words if re.match("--[^-=.]", word)]
        for key in dict.fromkeys([*configs.SHORT.values(), *typed]):
            command.add_option(configs.Option(key, "", kind=configs.kind_of(key)))

        given = None
        with suppress(UserError):  # the second reading reports it
            plain = [word for word in words if word not in ("-h", "--help")]
            given, _ = command.parse_known_args(plain)
        overrides = command.overrides(given) if given else {}

        groups: dict[str, Any] = {}
        for option in self.finder(given, overrides):
            section = option.key.rpartition(".")[0]
            if section not in groups:
                groups[section] = self.add_argument_group(*_heading(section))
            self.add_option(option, groups[section])

    def add_option(self, option: configs.Option, group: Any = None) -> None:
        """Add one option of a run, unless the command has an argument of that name already."""
        short = SHORT_OF.get(option.key)
        flags = list(dict.fromkeys([f"--{short or option.key}", f"--{option.key}"]))
        if set(flags) & set(self.flags()):
            return

        action: Any = (group or self).add_argument(
            *flags,
            dest=short or option.key,
            type=partial(configs.read_value, kind=option.kind, flag=flags[0]),
            default=None if short else argparse.SUPPRESS,
            metavar=metavar(option),
            help=_help(option),
        )
        action.completer = lambda **_: option.choices or KNOWN.get(option.key, ())
        self.keys[action.dest] = option.key

    def overrides(self, given: Namespace) -> dict[str, Any]:
        """The options of a run that the command line gave, by dotted key."""
        return {
            self.keys[name]: value
            for name, value in vars(given).items()
            if name in self.keys and value is not None
        }


def require_readable(words: Sequence[str]) -> None:
    """Raise UserError if a word of the command line is not text: nothing can record or show it."""
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError:
            raise UserError(
                f"{word!a} has bytes that are not UTF-8: give the file or folder another name"
            ) from None


def make_parser(modules: Sequence[ModuleType]) -> Parser:
    """The parser of the command line, with the commands that `modules` add."""
    parser = Parser(
        prog="tinyzero",
        usage="tinyzero COMMAND ...",
        description=ABOUT,
        epilog=EXAMPLES,
        formatter_class=_formatter(18),
    )
    parser.add_argument("--version", action="version", version=f"tinyzero {__version__}")
    commands = parser.add_subparsers(
        dest="command_name",
        required=True,
        metavar="COMMAND",
        title="commands",
        description="`tinyzero COMMAND --help` explains each.",
        parser_class=Parser,
    )

    def verb(
        name: str,
        run: Callable[..., int],
        text: str,
        *,
        options: Finder | None = None,
        examples: str = "",
        usage: str = "[RECIPE]",
    ) -> argparse.ArgumentParser:
        made = commands.add_parser(
            name,
            prog=f"tinyzero {name}",
            help=text,
            description=_sentence(text.replace("%%", "%")),
            epilog=f"examples:\n{examples}" if examples else None,
            usage=f"%(prog)s {usage} [--OPTION VALUE ...]" if options else None,
            formatter_class=_formatter(6 if options else 24),
        )
        made.set_defaults(run=run)
        made.finder = options
        parser.commands[name] = made
        return made

    for module in modules:
        module.add(verb)
    return parser


def _sentence(text: str) -> str:
    """What a command does, as a sentence.

    >>> _sentence("train a model")
    'Train a model.'
    """
    return f"{text[0].upper()}{text[1:]}."


def _formatter(column: int) -> Any:
    """argparse's formatter for lines of 80 columns; explanations begin at `column` or below."""
    formatter = argparse.RawDescriptionHelpFormatter
    return partial(formatter, width=WIDTH - 1, max_help_position=column)


def _heading(section: str) -> tuple[str, str | None]:
    """The title of a section's options in help, and a sentence about the section."""
    field = configs.Config.model_fields.get(section)
    if field is None:
        return section or "general", None

    text = field.description or (cast(Any, field.annotation).__doc__ or "").partition("\n")[0]
    return section, textwrap.fill(text, WIDTH - 4)


def metavar(option: configs.Option) -> str:
    """The word for an option's value in help: its choices, if they fit on a line."""
    choices = f"{{{','.join(option.choices)}}}"
    return choices if option.choices and len(choices) <= 40 else "VALUE"


def _help(option: configs.Option) -> str:
    """What an option means, which value it has, and where that comes from."""
    value = option.value
    if isinstance(value, bool):
        value = str(value).lower()
    if value is None:
        shown = "not set"
    elif value == "" or value == []:
        shown = "empty"
    else:
        shown = str(value)
    if option.choices and metavar(option) == "VALUE":
        meaning = f"{option.meaning}: {', '.join(option.choices)}"
    else:
        meaning = option.meaning
    return f"{meaning} [{option.origin or 'value'}: {shown}]".replace("%", "%%")
