"""The command line, `tinyzero COMMAND ...`, with one module per command.

Heavy imports wait until the command line is parsed, so that help and error messages appear at once.
A user's mistake gives a one-line error and exit code 2, never a traceback.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType, ModuleType
from typing import NoReturn

from tinyzero.cli import (
    ablate,
    algorithms,
    check_task,
    completion,
    convert,
    data,
    eval,
    explain,
    export,
    plan,
    play,
    prefer,
    pretrain,
    probe,
    recipes,
    report,
    sample,
    sandbox,
    survey,
    tasks,
    train,
    watch,
)
from tinyzero.cli.parsing import make_parser, require_readable
from tinyzero.errors import Interrupted, NonFiniteError, UserError, brief, printable

COMMANDS: tuple[ModuleType, ...] = (
    train,
    probe,
    survey,
    eval,
    play,
    sample,
    report,
    watch,
    plan,
    recipes,
    tasks,
    algorithms,
    explain,
    check_task,
    sandbox,
    data,
    ablate,
    export,
    convert,
    pretrain,
    prefer,
    completion,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    started = time.perf_counter()
    if threading.current_thread() is threading.main_thread():
        # so that a KeyboardInterrupt that a user's code raises is not taken for a Ctrl-C
        signal.signal(signal.SIGINT, _interrupt)
    if "_ARGCOMPLETE" in os.environ:
        return _complete()

    try:
        return _run(list(sys.argv[1:] if arguments is None else arguments), started)
    except UserError as error:
        print(f"tinyzero: error: {printable(str(error))}", file=sys.stderr)
        return 2
    except NonFiniteError as error:
        print(f"tinyzero: stopped: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output has closed it
        sys.stderr.close()
        return 1
    except OSError as error:
        source = error.filename or "the system"
        print(f"tinyzero: error: {source}: {error.strerror or brief(error)}", file=sys.stderr)
        return 2


def _run(words: list[str], started: float) -> int:
    """Understand the words of a command line, then run its command."""
    require_readable(words)
    parser = make_parser(COMMANDS)
    if not words:
        parser.print_help()
        return 0

    command = parser.command_of(words)
    if command:
        command.add_options(words[1:], make_parser(COMMANDS))
    given, unknown = parser.parse_known_args(words)
    (command or parser).refuse(unknown)

    given.started, given.command = started, shlex.join(["tinyzero", *words])
    overrides = command.overrides(given) if command else {}
    return int(given.run(given, overrides))


def _complete() -> int:
    """Answer the shell, which asks how the word under the cursor can continue."""
    import argcomplete
    from argcomplete.lexers import split_line

    parser = make_parser(COMMANDS)
    line, cursor = os.environ.get("COMP_LINE", ""), os.environ.get("COMP_POINT", "0")
    words = split_line(line, int(cursor))[3][1:]
    with suppress(UserError):
        if command := parser.command_of(words):
            command.add_options(words[1:], make_parser(COMMANDS))
    argcomplete.autocomplete(parser, always_complete_options=False)
    return 0


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise Interrupted
