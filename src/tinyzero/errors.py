"""The errors of this package, and the one guard around a user's own code."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

LONGEST = 300  # characters of an error that are shown


class UserError(Exception):
    """A mistake the user can fix. The command line prints it as one line and exits with 2."""


class TaskError(UserError):
    """A user's own code raised. The message names the class and the line."""


class NonFiniteError(Exception):
    """Training broke down: logits, or several gradients in a row, are not finite."""


class Ungraded(Exception):
    """An answer could not be graded, through no fault of the answer: a network or a worker died.

    A task's reward may raise it. The answer is graded again, and dropped if that fails too.
    """


class Interrupted(KeyboardInterrupt):
    """A real Ctrl-C, as opposed to a KeyboardInterrupt that a user's code raises."""


@contextmanager
def building(what: str, given: Sequence[object]) -> Iterator[None]:
    """Turn whatever the constructor of a user's own class raises into a UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        how = (
            "with its Options"
            if given
            else "without arguments (give its class an Options if it needs some)"
        )
        raise UserError(f"{what} cannot be built {how}: {brief(error)}") from error


@contextmanager
def asking(owner: object) -> Iterator[None]:
    """The guard around a user's own code: whatever it raises becomes a UserError with its line.

    SystemExit and a KeyboardInterrupt of its own are no exception; only a real Ctrl-C, `Interrupted`,
    passes. Our own code is not guarded, because its traceback is what helps. Afterwards the process,
    the working directory and torch's gradient mode must be what they were.
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
    """What was raised, in one printable line of bounded length."""
    try:
        said = str(error)[: 4 * LONGEST]
    except BaseException:
        said = "(its text cannot be read)"
    text = " ".join(f"{type(error).__name__}: {said}".split())
    text = printable(text)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def printable(text: str) -> str:
    """`text` as a terminal may have it: new lines and tabs stay, other control characters are spelt."""
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)


def _line_of(error: BaseException) -> str:
    """The file and the line that raised `error`."""
    frames = traceback.extract_tb(error.__traceback__)
    return f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""


def _surroundings() -> tuple[int, str, bool | None]:
    """What a user's code must leave as it is: the process, the folder, the gradient mode."""
    torch = sys.modules.get("torch")
    return os.getpid(), os.getcwd(), torch.is_grad_enabled() if torch else None


def _restore(owner: object, before: tuple[int, str, bool | None]) -> None:
    """Undo what the user's code changed. A process that it forked must not go on as a second run."""
    pid, folder, gradients = before
    if os.getpid() != pid:
        sys.stderr.write(f"{type(owner).__name__} forked this process and returned: it ends here\n")
        sys.stderr.flush()
        os._exit(1)
    now = _surroundings()
    if now[1] != folder:
        os.chdir(folder)
    if gradients is not None and now[2] != gradients:
        sys.modules["torch"].set_grad_enabled(gradients)
