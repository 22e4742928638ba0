"""Checkpoints survive flipped bytes, kill -9 at every step of saving, and full disks."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import largest_file
from safetensors.torch import save_file

from tinyzero.errors import UserError
from tinyzero.run import checkpoint
from tinyzero.run.checkpoint import load_latest, verify


def write_model(folder: Path) -> None:
    save_file({"weight": torch.arange(1000.0)}, folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "toy"}')


def state(step: int) -> dict[str, Any]:
    return {
        "step": step,
        "optimizer": {"exp_avg": torch.full((1000,), float(step)), "betas": (0.9, 0.95)},
    }


def save(run: Path, step: int, keep: int = 3) -> Path:
    return checkpoint.save(run, step, write_model, state(step), keep)


def fail(text: str) -> None:
    raise AssertionError(f"reported: {text}")


def names(run: Path) -> list[str]:
    return sorted(entry.name for entry in (run / "checkpoints").iterdir())


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    assert load_latest(tmp_path, fail) is None
    path = save(tmp_path, 100)
    assert path == tmp_path / "checkpoints" / "step_000100"
    assert sorted(contents(path)) == [
        "manifest.json",
        "model/config.json",
        "model/model.safetensors",
        "trainer.pt",
    ]
    assert verify(path) is None
    loaded = load_latest(tmp_path, fail)
    assert loaded is not None
    assert loaded[0] == path
    assert loaded[1]["step"] == 100
    assert loaded[1]["optimizer"]["betas"] == (0.9, 0.95)
    torch.testing.assert_close(
        loaded[1]["optimizer"]["exp_avg"], torch.full((1000,), 100.0), rtol=0, atol=0
    )


def test_the_newest_is_loaded_by_number(tmp_path: Path) -> None:
    for step in (999_999, 1_000_000):
        save(tmp_path, step)
    loaded = load_latest(tmp_path, fail)
    assert loaded is not None
    assert loaded[1]["step"] == 1_000_000


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (10, 20, 30, 40):
        save(tmp_path, step, keep=2)
    assert names(tmp_path) == ["step_000030", "step_000040"]
    (tmp_path / "checkpoints" / "notes").mkdir()
    save(tmp_path, 50, keep=1)
    assert names(tmp_path) == ["notes", "step_000050"]


def test_what_cannot_be_loaded_without_running_code_is_not_saved(tmp_path: Path) -> None:
    save(tmp_path, 10)
    with pytest.raises(TypeError, match=r"random.Random"):
        checkpoint.save(tmp_path, 20, write_model, {"rng": random.Random(0)}, keep=3)
    assert names(tmp_path) == ["step_000010"]


def test_a_mistake_in_writing_the_model_is_not_blamed_on_the_disk(tmp_path: Path) -> None:
    def broken(folder: Path) -> None:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        checkpoint.save(tmp_path, 10, broken, {}, keep=3)
    assert names(tmp_path) == []


# Damage


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


DAMAGES: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "flipped weights": (
        "model/model.safetensors",
        flip,
        "file model/model.safetensors was changed after",
    ),
    "flipped state": ("trainer.pt", flip, "file trainer.pt was changed after"),
    "truncated weights": (
        "model/model.safetensors",
        truncate,
        "file model/model.safetensors has 2040 bytes instead",
    ),
    "deleted weights": (
        "model/model.safetensors",
        Path.unlink,
        "file model/model.safetensors is missing",
    ),
    "deleted model": ("model", shutil.rmtree, "file model/config.json is missing"),
    "deleted state": ("trainer.pt", Path.unlink, "file trainer.pt is missing"),
    "torn manifest": ("manifest.json", truncate, "file manifest.json cannot be read"),
    "empty manifest": (
        "manifest.json",
        lambda path: path.write_text("{}") and None,
        "file manifest.json cannot",
    ),
    "deleted manifest": ("manifest.json", Path.unlink, "file manifest.json is missing"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    tmp_path: Path, damage: str
) -> None:
    name, spoil, reason = DAMAGES[damage]
    save(tmp_path, 10)
    spoil(save(tmp_path, 20) / name)
    reports: list[str] = []
    loaded = load_latest(tmp_path, reports.append)
    assert loaded is not None
    assert loaded[1]["step"] == 10
    (report,) = reports
    assert report.startswith(f"checkpoint step_000020 is damaged ({reason}")
    assert report.endswith("): using step_000010 instead")


def test_every_byte_of_every_file_is_guarded(tmp_path: Path) -> None:
    path = save(tmp_path, 10)
    rng = random.Random(0)
    for file in [entry for entry in path.rglob("*") if entry.is_file()]:
        whole = file.read_bytes()
        for _ in range(100):
            position, byte = rng.randrange(len(whole)), rng.randrange(256)
            changed = whole[:position] + bytes([byte]) + whole[position + 1 :]
            file.write_bytes(changed)
            # white space, or the same byte
            same = file.name == "manifest.json" and _json(changed) == _json(whole)
            assert (verify(path) is None) == (same or changed == whole), (file, position, byte)
        file.write_bytes(whole)


def _json(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def test_all_damaged_is_a_clear_end(tmp_path: Path) -> None:
    for step in (10, 20):
        flip(save(tmp_path, step) / "trainer.pt")
    with pytest.raises(
        UserError, match=r"every checkpoint in .*step_000020: file trainer.pt .*step_000010: file"
    ):
        load_latest(tmp_path, fail)


def test_a_run_that_fell_back_replaces_what_was_damaged(tmp_path: Path) -> None:
    save(tmp_path, 10)
    flip(save(tmp_path, 20) / "trainer.pt")
    flip(save(tmp_path, 30) / "trainer.pt")
    # resumed from 10: step 30 does not belong to this history and must not count as newest
    save(tmp_path, 20, keep=1)
    assert names(tmp_path) == ["step_000020"]
    assert verify(tmp_path / "checkpoints" / "step_000020") is None


def test_a_whole_checkpoint_of_the_same_step_is_left_as_it_is(tmp_path: Path) -> None:
    before = contents(save(tmp_path, 10))
    assert contents(checkpoint.save(tmp_path, 10, fail, {}, keep=3)) == before


# Sudden death

DYING = """
import os, shutil, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import test_checkpoint

run, events = Path(sys.argv[1]), 0

def die_at(event, arguments):
    # Everything that changes a folder is announced: opening, making, renaming, removing.
    global events
    if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"):
        events += 1
        if events == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

test_checkpoint.save(run / "0", 1, keep=2)
test_checkpoint.save(run / "0", 2, keep=2)
for fatal in range(1, 1000):
    run_copy = run / str(fatal)
    shutil.copytree(run / "0", run_copy)
    child = os.fork()
    if child == 0:
        sys.addaudithook(die_at)
        test_checkpoint.save(run_copy, 3, keep=2)
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        break
"""


def test_killed_at_every_change_of_the_folder(tmp_path: Path) -> None:
    here = str(Path(__file__).parent)
    subprocess.run([sys.executable, "-c", DYING, str(tmp_path), here], check=True, timeout=300)
    runs = sorted(tmp_path.iterdir(), key=lambda path: int(path.name))
    assert len(runs) > 20
    seen = [check_after_death(run) for run in runs]
    assert seen == sorted(seen)  # the old steps, then old and new, then the new ones
    assert set(seen) == {(1, 2), (1, 2, 3), (2, 3)}


def check_after_death(run: Path) -> tuple[int, ...]:
    """The steps that were seen. Each is whole, and the next save removes what is left behind."""
    seen = sorted((run / "checkpoints").glob("step_*"))
    assert [verify(path) for path in seen] == [None] * len(seen)
    loaded = load_latest(run, fail)
    assert loaded is not None
    assert loaded[0] == seen[-1]
    save(run, 4, keep=2)
    assert names(run) == [seen[-1].name, "step_000004"]
    return tuple(int(path.name.removeprefix("step_")) for path in seen)


SLEEPING = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import test_checkpoint

def half_a_model(folder):
    (folder / "config.json").write_text("{")
    print("writing", flush=True)
    time.sleep(600)

test_checkpoint.checkpoint.save(Path(sys.argv[1]), 20, half_a_model, {}, keep=3)
"""


def test_killed_while_the_model_is_written(tmp_path: Path) -> None:
    before = contents(save(tmp_path, 10))
    arguments = [sys.executable, "-c", SLEEPING, str(tmp_path), str(Path(__file__).parent)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        process.send_signal(signal.SIGKILL)
    assert names(tmp_path) == [".tmp-step_000020", "step_000010"]
    loaded = load_latest(tmp_path, fail)
    assert loaded is not None
    assert contents(loaded[0]) == before
    save(tmp_path, 30)
    assert names(tmp_path) == ["step_000010", "step_000030"]


# A full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 128 KiB. The test is skipped if this process may not mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "tinyzero-test", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def plain_model(folder: Path) -> None:
    (folder / "model.bin").write_bytes(bytes(100_000))


def large_safetensors(folder: Path) -> None:
    save_file({"weight": torch.zeros(100_000)}, folder / "model.safetensors")


# Each of the three writers fails in its own way: Python with an OSError, safetensors with an error
# in its own words, torch with a chained one.
TOO_LARGE: dict[str, tuple[Callable[[Path], None], dict[str, Any]]] = {
    "file": (plain_model, {}),
    "safetensors": (large_safetensors, {}),
    "state": (write_model, {"exp_avg": torch.zeros(100_000)}),
}


def check_refused(run: Path, kind: str, message: str) -> None:
    before = contents(run)
    with pytest.raises(UserError) as caught:
        checkpoint.save(run, 20, *TOO_LARGE[kind], keep=1)
    assert str(caught.value) == (
        f"cannot save checkpoint {run}/checkpoints/step_000020: {message}; "
        f"everything saved before is intact, up to {run}/checkpoints/step_000010; "
        "make room or make the folder writable, then resume"
    )
    assert contents(run) == before
    assert names(run) == ["step_000010"]
    assert verify(run / "checkpoints" / "step_000010") is None


@pytest.mark.parametrize("kind", TOO_LARGE)
def test_a_file_that_may_not_grow_loses_nothing(tmp_path: Path, kind: str) -> None:
    save(tmp_path, 10)
    with largest_file(50_000):
        check_refused(tmp_path, kind, "File too large")
    save(tmp_path, 20)
    assert names(tmp_path) == ["step_000010", "step_000020"]


@pytest.mark.parametrize("kind", TOO_LARGE)
def test_a_full_disk_loses_nothing(small_disk: Path, kind: str) -> None:
    save(small_disk, 10)
    (small_disk / "filler").write_bytes(bytes(60_000))
    check_refused(small_disk, kind, "No space left on device")
    (small_disk / "filler").unlink()
    save(small_disk, 20)
    assert names(small_disk) == ["step_000010", "step_000020"]


def test_a_read_only_disk_loses_nothing(small_disk: Path) -> None:
    save(small_disk, 10)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    check_refused(small_disk, "file", "Read-only file system")


def test_nothing_saved_before_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file where the run's folder should be")
    with pytest.raises(
        UserError, match=r"cannot save .*: Not a directory; no checkpoint was saved before"
    ):
        save(tmp_path / "run", 10)


# Added later


def test_what_is_known_later_replaces_what_was_saved(tmp_path: Path) -> None:
    path = save(tmp_path, 10)
    checkpoint.reseal(path, {"step": 11, "new": [1, "a"]})
    checkpoint.reseal(path, {"step": 12, "new": [2, "b"]})
    assert verify(path) is None
    loaded = load_latest(tmp_path, fail)
    assert loaded is not None
    assert loaded[1].keys() == {"step", "optimizer", "new"}
    assert (loaded[1]["step"], loaded[1]["new"]) == (12, [2, "b"])
    assert save(tmp_path, 10) == path, "an undamaged checkpoint is not written again"
    assert (load_latest(tmp_path, fail) or loaded)[1]["step"] == 12


def test_a_full_disk_leaves_a_checkpoint_as_it_was(tmp_path: Path) -> None:
    path = save(tmp_path, 10)
    before = contents(path)
    with largest_file(100), pytest.raises(UserError, match="cannot save checkpoint"):
        checkpoint.reseal(path, {"step": 11})
    assert contents(path) == before


def test_a_rehearsal_reads_what_it_wrote(tmp_path: Path) -> None:
    seen: list[list[str]] = []

    def read_back(folder: Path) -> None:
        seen.append(sorted(contents(folder)))
        raise UserError("another model")

    with pytest.raises(UserError, match="another model"):
        checkpoint.rehearse(tmp_path, write_model, state(0), read_back)
    assert seen == [["config.json", "model.safetensors"]]
    assert names(tmp_path) == []
