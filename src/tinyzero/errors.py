"""The errors of this package, and the guard that wraps a user's code."""

from __future__ import annotations

import os
import shlex
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

LONGEST = 300  # most characters of an error that are shown


class UserError(Exception):
    """A mistake the user can fix. The command line prints it as one line and exits with 2."""


class TaskError(UserError):
    """An error that a user's code raised. The message names the class and the line."""


class NonFiniteError(Exception):
    """Training broke down: the logits, or several gradients in a row, are not finite."""


class Ungraded(Exception):
    """An answer could not be graded for a reason other than the answer, such as a network failure.

    A task's reward may raise it. The answer is graded again, and left out if that fails too.
    """


class Interrupted(KeyboardInterrupt):
    """A real Ctrl-C, as opposed to a KeyboardInterrupt that a user's code raises."""


@contextmanager
def constructing(what: str, given: Sequence[object]) -> Iterator[None]:
    """Turn any exception from the constructor of a user's class into a UserError.

    `what` names the class, and `given` are the arguments of its constructor.
    """
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"{what} cannot be built: no such file: {error.filename}") from error
    except OSError as error:
        named = f"{error.filename}: " if error.filename else ""
        reason = error.strerror or brief(error)
        raise UserError(f"{what} cannot be built: {named}{reason}") from error
    except Exception as error:
        without = "without arguments (give its class an Options if it needs some)"
        how = "with its Options" if given else without
        raise UserError(f"{what} cannot be built {how}: {brief(error)}") from error


@contextmanager
def guarding(owner: object) -> Iterator[None]:
    """Guard a user's code: any exception that it raises becomes a UserError that names the line.

    That includes SystemExit and a KeyboardInterrupt that the code itself raises. Only a real Ctrl-C
    (`Interrupted`) passes through. TinyZero's own code is not guarded, because its tracebacks help.
    Afterwards the process, the working folder and torch's gradient mode are restored.
    """
    if type(owner).__module__.partition(".")[0] == __package__:
        yield
        return

    before = _surroundings()
    try:
        yield
    except (UserError, NonFiniteError, Interrupted, Ungraded):
        raise
    except BaseException as error:
        if isinstance(error, GeneratorExit):
            raise
        raise TaskError(f"{type(owner).__name__} raised {brief(error)}{_line_of(error)}") from error
    finally:
        _restore(owner, before)


def brief(error: BaseException) -> str:
    """What was raised, in one printable line of at most about 300 characters.

    >>> brief(KeyError("name"))
    "KeyError: 'name'"
    """
    try:
        message = str(error)[: 4 * LONGEST]
    except BaseException:  # a user's class can raise anything here
        message = "(its text cannot be read)"

    text = printable(" ".join(f"{type(error).__name__}: {message}".split()))
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def printable(text: str) -> str:
    """`text` as a terminal may show it: control characters, except newline and tab, are escaped.

    >>> print(printable("\\x1b[2J"))
    \\x1b[2J
    """
    return "".join(
        character if character.isprintable() or character in "\n\t" else repr(character)[1:-1]
        for character in text
    )


def shown(value: object) -> str:
    """A value in one line of a message, whatever it is: a number may have too many digits for text.

    >>> shown([3, 4]), len(shown("x" * 1000))
    ('[3, 4]', 84)
    """
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        return f"a {type(value).__name__} that is too large to show"
    return text if len(text) <= 80 else f"{text[:80]} ..."


def short_path(path: Path) -> str:
    """`path` as a message names it: relative to the current folder if it lies below it."""
    try:
        return str(path.relative_to(Path.cwd()))
    except (OSError, ValueError):  # it lies elsewhere, or the current folder was deleted
        return str(path)


def typed_path(path: Path) -> str:
    """`path` as a command that is to be pasted into a shell names it.

    >>> typed_path(Path("runs/a b"))
    "'runs/a b'"
    """
    return shlex.quote(short_path(path))


def _line_of(error: BaseException) -> str:
    """The file and the line that raised `error`, in brackets; empty if that is not known."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return ""
    return f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})"


def _surroundings() -> tuple[int, str, bool | None]:
    """What a user's code must not change: the process, the working folder, the gradient mode."""
    torch = sys.modules.get("torch")
    return os.getpid(), os.getcwd(), torch.is_grad_enabled() if torch else None


def _restore(owner: object, before: tuple[int, str, bool | None]) -> None:
    """Undo what a user's code changed. A process that it forked must end here, not train too."""
    pid, folder, gradients = before
    if os.getpid() != pid:
        sys.stderr.write(
            f"{type(owner).__name__} forked this process and returned, so the fork was ended\n"
        )
        sys.stderr.flush()
        os._exit(1)

    _, current_folder, current_gradients = _surroundings()
    if current_folder != folder:
        os.chdir(folder)
    if gradients is not None and current_gradients != gradients:
        sys.modules["torch"].set_grad_enabled(gradients)


def first_line(error: BaseException) -> str:
    """The first line of an exception's text, short enough for an error message."""
    if "trust_remote_code" in str(error):
        return "it needs its own code, which is never run here: use a model that transformers knows"
    lines = [" ".join(line.split()) for line in str(error).strip().splitlines()]
    if not lines:
        return type(error).__name__

    says_more = lines[0].endswith(":") and len(lines) > 1
    text = f"{lines[0]} {lines[1]}" if says_more else lines[0]
    is_bare = " " not in text  # such as the key of a KeyError
    return f"{type(error).__name__}: {text}"[:LONGEST] if is_bare else text[:LONGEST]
