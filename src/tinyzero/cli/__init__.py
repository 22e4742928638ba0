"""`tinyzero VERB ...`: the command line, one file per command (`tinyzero --help` lists them).

Heavy imports wait until the command line is understood, so help and mistakes answer at once. A user's
mistake is one line and exit code 2, never a traceback.
"""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, NoReturn

from tinyzero import config as configs
from tinyzero.cli import (
    ablate,
    algorithms,
    check_task,
    data,
    eval,
    export,
    plan,
    play,
    pretrain,
    report,
    sample,
    train,
    watch,
)
from tinyzero.errors import Interrupted, NonFiniteError, UserError, brief, printable
from tinyzero.registry import near

COMMANDS = (
    train,
    plan,
    eval,
    play,
    sample,
    export,
    data,
    ablate,
    report,
    watch,
    algorithms,
    check_task,
    pretrain,
)


class Parser(argparse.ArgumentParser):
    """argparse, with mistakes in one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    started = time.perf_counter()
    if threading.current_thread() is threading.main_thread():
        # so that a KeyboardInterrupt which a user's own code raises is not taken for a Ctrl-C
        signal.signal(signal.SIGINT, _interrupt)
    try:
        typed = list(sys.argv[1:] if arguments is None else arguments)
        plain, dotted = _set_apart(list(typed))
        given, bare = _parser().parse_known_args(plain)
        given.started, given.command = started, shlex.join(["tinyzero", *typed])
        rest = {"none": [], "sections": dotted, "any": [*bare, *dotted]}[given.options]
        unknown = {"none": [*bare, *dotted], "sections": bare, "any": []}[given.options]
        if unknown:
            known = [*configs.option_keys(), *configs.SHORT] if given.run is train.run else []
            likely = near(unknown[0].lstrip("-"), known)
            raise UserError(
                f"unknown argument {unknown[0]}{likely} (see tinyzero {given.verb} --help)"
            )
        return int(given.run(given, rest))
    except UserError as error:
        print(f"tinyzero: error: {printable(str(error))}", file=sys.stderr)
        return 2
    except NonFiniteError as error:
        print(f"tinyzero: stopped: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output went away
        sys.stderr.close()
        return 1
    except OSError as error:
        print(
            f"tinyzero: error: {error.filename or 'the system'}: {error.strerror or brief(error)}",
            file=sys.stderr,
        )
        return 2


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise Interrupted


def _set_apart(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Arguments for argparse, and the `--section.option value` pairs, whose values it would take for its own."""
    known: list[str] = []
    dotted: list[str] = []
    while arguments:
        argument = arguments.pop(0)
        if not (argument.startswith("--") and "." in argument.partition("=")[0]):
            known.append(argument)
            continue
        dotted.append(argument)
        if "=" not in argument and arguments and not arguments[0].startswith("--"):
            dotted.append(arguments.pop(0))
    return known, dotted


def _parser() -> Parser:
    parser = Parser(prog="tinyzero", description=__doc__.split("\n\n")[0], allow_abbrev=False)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=Parser)

    def verb(name: str, run: Callable[..., int], text: str, **more: Any) -> argparse.ArgumentParser:
        made = verbs.add_parser(
            name,
            help=text,
            description=text.replace("%%", "%"),
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            **more,
        )
        made.set_defaults(run=run, options="sections")
        return made

    for command in COMMANDS:
        command.add(verb)
    return parser
