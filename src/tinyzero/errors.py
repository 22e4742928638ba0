"""The errors of this package, and the guard around a user's own code."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


class NonFiniteError(Exception):
    """Training broke down: logits, or several gradients in a row, are not finite."""


class UserError(Exception):
    """A mistake the user can mend. The command line prints it as one line and exits with 2."""


@contextmanager
def building(what: str, given: Sequence[object]) -> Iterator[None]:
    """Whatever the making of a user's own object raises becomes a UserError that names it and what it was `given`."""
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
    """Whatever a user's own task or algorithm raises becomes a UserError that names the line it comes from."""
    try:
        yield
    except (UserError, NonFiniteError):
        raise
    except Exception as error:
        if (
            type(owner).__module__.partition(".")[0] == __package__
        ):  # ours: its traceback is what helps
            raise
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise UserError(
            f"{type(owner).__name__} raised {brief(error)} ({Path(last.filename).name}, line {last.lineno})"
        ) from error


def brief(error: Exception) -> str:
    """What was raised, in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
