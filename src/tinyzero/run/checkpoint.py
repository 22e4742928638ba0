"""Checkpoints that appear whole or not at all, and are verified before use.

    checkpoints/step_000100/
      model/          a Hugging Face folder
      trainer.pt      what else is needed to resume the run
      manifest.json   size and SHA-256 of every file above, written last; and what was recorded
                      about this step later, such as its evaluation

A checkpoint is written under a hidden name in the same folder, flushed to the disk, and then
renamed. So whenever the process dies, the visible checkpoints are whole. The next save removes what
is left over.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from tinyzero.errors import UserError, brief, short_path

FOLDER = "checkpoints"
MODEL = "model"
TRAINER = "trainer.pt"
MANIFEST = "manifest.json"
TEMPORARY = ".tmp-"


def save(
    run_dir: Path, step: int, write_model: Callable[[Path], None], state: dict[str, Any], keep: int
) -> Path:
    """Save the state after `step` steps and keep the newest `keep` checkpoints; returns the path.

    `write_model` fills the empty folder that it is given. `state` may hold tensors, numbers, text,
    None, lists, tuples and dictionaries, so that loading it runs no code. An undamaged checkpoint
    of the same step is not written again. Checkpoints of later steps are removed, because the run
    went back to this step.

    Raises UserError if the disk is full or not writable, in which case everything saved before is
    untouched, and TypeError if `state` holds anything else.
    """
    folder = run_dir / FOLDER
    final = folder / name_of(step)
    if final.is_dir() and verify(final) is None:
        return final

    temporary = folder / (TEMPORARY + final.name)
    with _refusals(final):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _remove_leftovers(folder)
            (temporary / MODEL).mkdir(parents=True)
            write_model(temporary / MODEL)
            _write_state(temporary / TRAINER, state)
            _write_manifest(temporary, step)
            _publish(temporary, final)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    _prune(folder, step, keep)
    return final


def rehearse(
    run_dir: Path,
    write_model: Callable[[Path], None],
    state: dict[str, Any],
    read_back: Callable[[Path], None],
) -> None:
    """Write a checkpoint, read it back, and remove it.

    `read_back` is called with the folder that `write_model` filled. Raises UserError if `save`
    could not write a checkpoint, and whatever `read_back` raises.
    """
    folder = run_dir / FOLDER
    temporary = folder / f"{TEMPORARY}rehearsal"
    with _refusals(folder):
        try:
            (temporary / MODEL).mkdir(parents=True)
            write_model(temporary / MODEL)
            _write_state(temporary / TRAINER, state)
            read_back(temporary / MODEL)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def reseal(path: Path, later: dict[str, Any]) -> None:
    """Add to the checkpoint at `path` what was learned about its run since it was saved.

    `later` replaces entries of the state when the checkpoint is loaded. It is kept in the manifest,
    which is replaced as a whole, so the checkpoint is always one of the two. Raises UserError if
    the disk refuses.
    """
    temporary = path / (TEMPORARY + MANIFEST)
    with _refusals(path):
        manifest = json.loads((path / MANIFEST).read_bytes())
        try:
            temporary.write_text(json.dumps(manifest | {"later": later}, indent=1))
            _flush(temporary)
            temporary.replace(path / MANIFEST)
            _flush(path)
        finally:
            temporary.unlink(missing_ok=True)


def load_latest(run_dir: Path, report: Callable[[str], None]) -> tuple[Path, dict[str, Any]] | None:
    """The newest undamaged checkpoint and its state, or None if nothing was ever saved.

    Tensors are on the CPU. Raises UserError if all checkpoints are damaged, or the state cannot be
    read without running code.
    """
    path = latest(run_dir, report)
    if path is None:
        return None

    try:
        state = torch.load(path / TRAINER, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a file that it did not write
        raise UserError(
            f"{short_path(path / TRAINER)} is not a run's state ({brief(error)}): "
            f"put it back, or delete {short_path(path)}"
        ) from None
    later = json.loads((path / MANIFEST).read_bytes()).get("later")
    if isinstance(state, dict) and isinstance(later, dict):
        state |= later
    return path, state


def latest(run_dir: Path, report: Callable[[str], None]) -> Path | None:
    """The newest undamaged checkpoint, or None if nothing was ever saved.

    `report` is called with a line about each damaged checkpoint that is passed over. Raises
    UserError if all are damaged.
    """
    damaged: list[tuple[Path, str]] = []
    for path in reversed(_checkpoints(run_dir / FOLDER)):
        reason = verify(path)
        if reason is not None:
            damaged.append((path, reason))
            continue
        for other, why in damaged:
            report(f"checkpoint {other.name} is damaged ({why}): using {path.name} instead")
        return path

    if damaged:
        reasons = "; ".join(f"{path.name}: {reason}" for path, reason in damaged)
        raise UserError(
            f"every checkpoint in {short_path(run_dir / FOLDER)} is damaged ({reasons}): "
            "start the run again in another folder"
        )
    return None


def verify(path: Path) -> str | None:
    """Why the checkpoint at `path` must not be used; None if every file is as it was written."""
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
        files = {
            name: (entry["size"], entry["sha256"]) for name, entry in manifest["files"].items()
        }
        name = name_of(manifest["step"])
    except FileNotFoundError:
        return f"file {MANIFEST} is missing"
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return f"file {MANIFEST} cannot be read"

    if path.name != name:
        return f"file {MANIFEST} is of {name}"
    if TRAINER not in files:
        return f"file {MANIFEST} does not list {TRAINER}"

    for file, (size, sha256) in files.items():
        if reason := _damage(path, file, size, sha256):
            return reason
    return None


def _damage(path: Path, name: str, size: int, sha256: str) -> str | None:
    """How the file `name` differs from what the manifest says, or None if it does not."""
    try:
        actual = (path / name).stat().st_size
        if actual != size:
            return f"file {name} has {actual} bytes instead of {size}"
        if _sha256(path / name) != sha256:
            return f"file {name} was changed after it was written"
    except FileNotFoundError:
        return f"file {name} is missing"
    except (OSError, ValueError):  # ValueError: a name that no file can have
        return f"file {name} cannot be read"
    return None


def _write_state(path: Path, state: dict[str, Any]) -> None:
    with path.open("wb") as file:  # opened here, so that a refusal of the disk is an OSError
        torch.save(state, file)

    unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    if unsafe:
        raise TypeError(
            f"the trainer's state holds {', '.join(unsafe)}: "
            "save tensors, numbers, text, lists and dicts"
        )


def _write_manifest(path: Path, step: int) -> None:
    """Write the manifest of every file below `path`, then flush files and folders to the disk."""
    files = sorted(file for file in path.rglob("*") if file.is_file())
    entries = {
        file.relative_to(path).as_posix(): {"size": file.stat().st_size, "sha256": _sha256(file)}
        for file in files
    }
    (path / MANIFEST).write_text(json.dumps({"step": step, "files": entries}, indent=1))

    for entry in [*path.rglob("*"), path]:
        _flush(entry)


def _publish(temporary: Path, final: Path) -> None:
    if final.exists():  # it is damaged, otherwise `save` would have kept it
        shutil.rmtree(final)
    temporary.rename(final)
    _flush(final.parent)
    _flush(final.parent.parent)


def _prune(folder: Path, step: int, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints of `step` and the steps before it."""
    paths = _checkpoints(folder)
    past = [path for path in paths if _step(path) <= step]

    for path in paths:
        if path not in past[-keep:]:
            # The new checkpoint is safe, so one that cannot be removed costs only space. It is
            # renamed first, because a checkpoint that is half removed must not look like one.
            hidden = path.with_name(TEMPORARY + path.name)
            with contextlib.suppress(OSError):
                path.rename(hidden)
                shutil.rmtree(hidden)


def _remove_leftovers(folder: Path) -> None:
    for path in folder.glob(TEMPORARY + "*"):
        shutil.rmtree(path)


def _checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, oldest first."""
    paths = [path for path in folder.glob("step_*") if re.fullmatch(r"step_\d+", path.name)]
    return sorted(paths, key=_step)


def name_of(step: int) -> str:
    """The name of the folder with the checkpoint after `step` steps.

    >>> name_of(100)
    'step_000100'
    """
    return f"step_{step:06d}"


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step_"))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    """Wait until a file, or the list of names in a folder, is on the disk."""
    descriptor = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _os_error(error: BaseException) -> OSError | None:
    """The OSError behind `error`, if any: torch chains it, safetensors only mentions its number."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError):
            return cause
        if mentioned := re.search(r"\(os error (\d+)\)", str(cause)):
            number = int(mentioned[1])
            return OSError(number, os.strerror(number))
        cause = cause.__cause__ or cause.__context__
    return None


@contextlib.contextmanager
def _refusals(final: Path) -> Iterator[None]:
    """Turn a refusal of the operating system to save `final` into a UserError."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        refusal = _os_error(error)
        if refusal is None:
            raise
        raise UserError(_not_saved(final, refusal)) from error


def _not_saved(final: Path, refusal: OSError) -> str:
    saved = _checkpoints(final.parent)
    before = (
        f"everything saved before is intact, up to {saved[-1]}"
        if saved
        else "no checkpoint was saved before"
    )
    reason = refusal.strerror or str(refusal)
    return (
        f"cannot save checkpoint {short_path(final)}: {reason}; {before}; "
        "make room or make the folder writable, then resume"
    )
