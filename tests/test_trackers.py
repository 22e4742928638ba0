"""Trackers get the same metrics as the run's own records, and their failures never end a run."""

import json
import math
import sqlite3
import struct
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import tiny

from tinyzero import cli, models
from tinyzero.errors import UserError
from tinyzero.run import records, trackers
from tinyzero.run.trackers import Tracking

SETTINGS = {"seed": 3, "task": {"name": "countdown"}}
RECORDS = [
    {"step": s, "reward": s / 10, "loss": math.nan, "split": "dev", "samples": 4 * s}
    for s in range(3)
]


def send(name: str, folder: Path) -> list[str]:
    """Send three records and an evaluation like the training loop, and return the messages."""
    said: list[str] = []
    with Tracking(name, folder, SETTINGS, said.append) as tracking:
        for record in RECORDS:
            tracking.log(record)
        evaluation = {"step": 3, "pass@1/operators=*/": 0.5, "problems": "3f2a", "right": [1, 0]}
        tracking.log(evaluation, "test/")
    return said


def tensorboard_of(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Every scalar of the event files, by tag: (step, value)."""
    pytest.importorskip("tensorboard", reason="needs tensorboard: pip install tinyzero[track]")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder / "tensorboard"))
    read.Reload()
    return {tag: [(e.step, e.value) for e in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of tensorboard's own
def test_tensorboard_files_hold_the_numbers(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs tensorboard: pip install tinyzero[track]")
    assert send("tensorboard", tmp_path) == []
    found = tensorboard_of(tmp_path)
    assert found.keys() == {"reward", "samples", "test/pass@1/operators=*/"}, (
        "no text and only finite numbers"
    )
    assert found["reward"] == [(s, pytest.approx(s / 10)) for s in range(3)]
    assert found["test/pass@1/operators=*/"] == [(3, 0.5)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of tensorboard's own
def test_a_resumed_run_s_tensorboard_holds_each_step_once(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs tensorboard: pip install tinyzero[track]")
    with Tracking(
        "tensorboard", tmp_path, SETTINGS, print
    ) as tracking:  # saved after two steps, killed after four
        for step in range(4):
            tracking.log({"step": step, "reward": 0.1 * step})
            tracking.log({"step": step + 1, "pass@1": 0.2 * step}, "dev/")
    for step in range(2):  # what a resumed run finds
        records.append(tmp_path / "metrics.jsonl", {"step": step, "reward": 0.1 * step})
        records.append(
            tmp_path / "eval.jsonl", {"step": step + 1, "split": "dev", "pass@1": 0.2 * step}
        )
    with Tracking("tensorboard", tmp_path, SETTINGS, print) as tracking:
        tracking.log({"step": 2, "reward": 0.7})
        tracking.log({"step": 3, "pass@1": 0.8}, "dev/")
    found = tensorboard_of(tmp_path)
    assert found["reward"] == [(0, 0.0), (1, pytest.approx(0.1)), (2, pytest.approx(0.7))]
    assert found["dev/pass@1"] == [(1, 0.0), (2, pytest.approx(0.2)), (3, pytest.approx(0.8))]


@pytest.mark.filterwarnings("ignore")  # of the package's own
def test_wandb_offline_holds_the_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="needs wandb: pip install tinyzero[track]")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    assert send("wandb", tmp_path) == []
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    history, config = wandb_records(file)
    assert [(row["step"], row["reward"], row["samples"]) for row in history[:3]] == [
        (s, s / 10, 4 * s) for s in range(3)
    ]
    assert history[3]["test/pass@1/operators=*/"] == 0.5
    assert config["seed"] == 3
    assert (tmp_path / ".wandb-id").read_text() in file.name


def wandb_records(file: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The history and the settings in an offline run's file."""
    from wandb.proto import wandb_internal_pb2

    def records() -> list[Any]:
        return [
            wandb_internal_pb2.Record.FromString(data) for data in leveldb_log(file.read_bytes())
        ]

    for _ in range(600):  # W&B's own process writes its last lines when it likes
        if any(record.WhichOneof("record_type") == "exit" for record in records()):
            break
        time.sleep(0.1)
    history, config = [], {}
    for record in records():
        if record.WhichOneof("record_type") == "history":
            history.append(
                {
                    i.key or "/".join(i.nested_key): json.loads(i.value_json)
                    for i in record.history.item
                }
            )
        if record.WhichOneof("record_type") == "run":
            config = {i.key: json.loads(i.value_json) for i in record.run.config.update}
    return history, config


def leveldb_log(data: bytes) -> Iterator[bytes]:
    """The records of a file in LevelDB's log format, after W&B's own 7 bytes.

    The format has blocks of 32 KiB. They consist of pieces with a checksum, a length and a type
    (1 whole, 2 first, 3 middle, 4 last).
    """
    assert data.startswith(b":W&B")
    at, record = 7, b""
    while at + 7 <= len(data):
        if 32_768 - at % 32_768 < 7:
            at += 32_768 - at % 32_768
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield record
            record = b""


@pytest.mark.filterwarnings("ignore")  # of the package's own
def test_trackio_s_local_store_holds_the_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "store"))
    pytest.importorskip("trackio", reason="needs trackio: pip install tinyzero[track]")
    assert send("trackio", tmp_path) == []
    with sqlite3.connect(tmp_path / "store" / "tinyzero.db") as store:
        rows = store.execute("select step, metrics from metrics order by step").fetchall()
    found = {step: json.loads(numbers) for step, numbers in rows}
    assert [found[s]["reward"] for s in range(3)] == [0.0, 0.1, 0.2]
    assert found[3]["test/pass@1/operators=*/"] == 0.5


class Broken:
    """A tracker that breaks in one place."""

    def __init__(self, where: str) -> None:
        self.where, self.calls = where, 0
        self._break("open")

    def _break(self, place: str) -> None:
        self.calls += 1
        if place == self.where:
            raise OSError("the service is\ngone")

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        self._break("log")

    def close(self) -> None:
        self._break("close")


@pytest.mark.parametrize("where", ["open", "log", "close"])
def test_a_tracker_s_failure_is_said_once(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(trackers.TRACKERS, "wandb", lambda folder, settings: Broken(where))
    (said,) = send("wandb", tmp_path)
    assert said == (
        "wandb failed and is sent nothing more (OSError: the service is gone); "
        "the run continues, with its own records"
    )


def test_no_name_tracks_nothing(tmp_path: Path) -> None:
    trackers.require("")
    assert send("", tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(
        UserError,
        match=r"run.track is wandb, which is not installed: pip install wandb",
    ):
        trackers.require("wandb")


@pytest.fixture
def small(tmp_path: Path) -> list[str]:
    """A training of two steps with an evaluation."""
    models.save_model(tiny.model(layers=1), tiny.tokenizer(), tmp_path / "base")
    options = {
        "model.name": tmp_path / "base",
        "model.threads": 1,
        "run.dir": tmp_path / "run",
        "steps": 2,
    }
    options |= {
        "task.name": f"{Path(__file__).with_name('toy_task.py')}:Early",
        "rollout.prompts": 2,
    }
    options |= {
        "rollout.samples": 2,
        "rollout.max_tokens": 4,
        "eval.every": 1,
        "eval.max_tokens": 4,
    }
    return [
        "train",
        *(
            f"--{key}={value}"
            for key, value in (options | {"eval.problems": 2, "eval.test_problems": 2}).items()
        ),
    ]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of tensorboard's own
def test_a_training_is_tracked_when_asked(small: list[str], tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs tensorboard: pip install tinyzero[track]")
    assert cli.main([*small, "--run.track=tensorboard"]) == 0
    found = tensorboard_of(tmp_path / "run")
    for record in records.read(tmp_path / "run" / "metrics.jsonl"):
        assert (record["step"], pytest.approx(record["reward"])) in found["reward"]
    for e in records.read(tmp_path / "run" / "eval.jsonl"):
        assert (e["step"], pytest.approx(e["pass@1"])) in found[f"{e['split']}/pass@1"]


def test_a_training_outlives_its_tracker(
    small: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(trackers.TRACKERS, "tensorboard", lambda folder, settings: Broken("log"))
    monkeypatch.setattr(trackers, "require", lambda name: None)
    assert cli.main([*small, "--run.track=tensorboard"]) == 0
    assert capsys.readouterr().out.count("tensorboard failed") == 1
    assert len(list(records.read(tmp_path / "run" / "metrics.jsonl"))) == 2


def test_a_training_whose_tracker_is_missing_leaves_nothing(
    small: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    assert cli.main([*small, "--run.track=trackio"]) == 2
    assert "pip install trackio" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_nothing_is_loaded_unless_asked(small: list[str]) -> None:
    before = {name for name in ("tensorboard", "wandb", "trackio") if name in sys.modules}
    assert cli.main(small) == 0
    assert {name for name in ("tensorboard", "wandb", "trackio") if name in sys.modules} == before
