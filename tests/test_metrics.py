"""Records survive crashes and odd numbers, the glossary has every key, the console is right."""

import hashlib
import io
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import largest_file
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyzero.errors import UserError
from tinyzero.run import glossary
from tinyzero.run.console import Console
from tinyzero.run.glossary import define
from tinyzero.run.records import NOTHING, append, cut, read, seal


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "metrics.jsonl"
    for step in range(4):
        append(path, {"step": step, "reward": step / 10})
    return path


def steps(path: Path) -> list[int]:
    return [record["step"] for record in read(path)]


def test_one_object_a_line(path: Path) -> None:
    assert path.read_text().splitlines()[:2] == [
        '{"step": 0, "reward": 0.0}',
        '{"step": 1, "reward": 0.1}',
    ]
    assert steps(path) == [0, 1, 2, 3]


def test_numbers_that_are_not_finite_are_null(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    append(
        path,
        {"step": 0, "a": math.nan, "b": [math.inf, 1.5, {"c": -math.inf}], "d": (True, None, 3)},
    )
    assert list(read(path)) == [
        {"step": 0, "a": None, "b": [None, 1.5, {"c": None}], "d": [True, None, 3]}
    ]
    assert "NaN" not in path.read_text()


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.dictionaries(st.text(), json_values), max_size=4))
def test_what_is_appended_is_read(
    tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, Any]]
) -> None:
    path = tmp_path_factory.mktemp("run") / "m.jsonl"
    records = [record | {"step": step} for step, record in enumerate(records)]
    for record in records:
        append(path, record)
    assert list(read(path)) == records


def test_no_file_has_no_records(tmp_path: Path) -> None:
    assert list(read(tmp_path / "none.jsonl")) == []
    assert seal(tmp_path / "none.jsonl", 0) == NOTHING
    cut(tmp_path / "none.jsonl", *NOTHING)
    assert list(tmp_path.iterdir()) == []


def test_a_last_line_torn_anywhere_is_left_out(path: Path) -> None:
    whole = path.read_bytes()
    start = whole[:-1].rindex(b"\n") + 1
    for end in range(start, len(whole) - 1):
        path.write_bytes(whole[:end])
        assert steps(path) == [0, 1, 2]


def test_what_comes_after_what_was_sealed_is_cut(path: Path) -> None:
    whole = path.read_bytes()
    sealed = seal(path, len(whole))
    assert sealed == (len(whole), hashlib.sha256(whole).hexdigest())
    append(path, {"step": 4})
    path.write_bytes(path.read_bytes()[:-5])
    cut(path, *sealed)
    assert path.read_bytes() == whole
    append(path, {"step": 4})
    assert steps(path) == [0, 1, 2, 3, 4]
    assert [entry.name for entry in path.parent.iterdir()] == ["metrics.jsonl"]


SPOILT: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "lost": lambda lines: lines[:1] + lines[2:],
    "all lost": lambda lines: [],
    "doubled": lambda lines: [*lines[:2], *lines[1:]],
    "reordered": lambda lines: lines[::-1],
    "edited": lambda lines: [lines[0].replace(b"0.0", b"0.9"), *lines[1:]],
    "blank": lambda lines: [lines[0], b"\n", *lines[1:]],
    "begun later": lambda lines: [b"\x00", *lines],
}


@pytest.mark.parametrize("how", SPOILT)
def test_what_is_not_as_it_was_sealed_is_refused_and_left_alone(path: Path, how: str) -> None:
    sealed = seal(path, path.stat().st_size)
    append(path, {"step": 4})
    spoilt = b"".join(SPOILT[how](path.read_bytes().splitlines(keepends=True)))
    path.write_bytes(spoilt)
    with pytest.raises(UserError, match=r"metrics.jsonl has changed since the newest"):
        cut(path, *sealed)
    assert path.read_bytes() == spoilt


def test_a_last_line_without_its_newline_is_whole(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])
    assert steps(path) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "damage", ["{", "[]", "3", "", "\x00", "{}", '{"step": "1"}', "[" * 100_000]
)
def test_damage_elsewhere_is_named(path: Path, damage: str) -> None:
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], damage, *lines[2:]]) + "\n")
    with pytest.raises(
        UserError, match=r"line 2 of .*metrics.jsonl (is not a JSON object|has no step)"
    ):
        list(read(path))


def test_a_disk_that_refuses_is_one_clear_line(path: Path) -> None:
    before, sealed = path.read_bytes(), seal(path, path.stat().st_size - 12)
    with largest_file(len(before) // 2):
        with pytest.raises(UserError, match=r"cannot write .*metrics.jsonl: File too large"):
            append(path, {"step": 4})
        with pytest.raises(UserError, match=r"cannot write .*metrics.jsonl: File too large"):
            cut(path, *sealed)
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == ["metrics.jsonl"]


def test_a_folder_that_is_not_there_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot write .*: No such file or directory"):
        append(tmp_path / "gone" / "metrics.jsonl", {})


@pytest.mark.parametrize(
    "key", ["reward", "pass@1", "pass@32", "reward/format", "time/step", "time/sample", "greedy"]
)
def test_keys_are_defined(key: str) -> None:
    assert define(key)


@pytest.mark.parametrize("key", ["rewards", "", "step/", "pass", "behaviour/typo", "x/reward"])
def test_other_keys_are_not(key: str) -> None:
    assert define(key) is None


def test_the_entry_that_spells_out_most_defines() -> None:
    assert define("time/step") == glossary.GLOSSARY["time/step"]
    assert define("time/sample") == glossary.GLOSSARY["time/*"]
    assert define("pass@8/low") == glossary.GLOSSARY["pass@*/low"]
    assert define("pass@8/numbers=3") == glossary.GLOSSARY["pass@*/*=*"]
    assert define("pass@8/numbers=3/high") == glossary.GLOSSARY["pass@*/high"]


def test_definitions_are_sentences() -> None:
    assert all(
        text[0].isupper() and text.endswith(".") and "\n" not in text
        for text in glossary.GLOSSARY.values()
    )


RECORD = {
    "step": 1,
    "reward": 0.25,
    "accuracy": 0.125,
    "response_length": 80.26,
    "behaviour/attempts": 3.5,
    "tokens/generated": 9000,
    "time/sample": 2.0,
    "time/step": 2.0,
}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_plain_lines_elsewhere_than_on_a_terminal() -> None:
    out = io.StringIO()
    highlights = {"behaviour/attempts": "attempts"}
    with Console(steps=200, file=out, highlights=highlights) as console:
        console.show(RECORD, seconds_left=495)
        console.note("saved checkpoints/step_000002 " + "and more " * 20)
    line, note = out.getvalue().splitlines()
    assert line == "step 2/200  reward 0.250  accuracy 0.125  length 80  attempts 3.5  left 8:15"
    assert note.startswith("saved checkpoints/step_000002 and more")


def test_a_line_has_at_most_80_columns_and_every_line_the_same_figures() -> None:
    out = io.StringIO()
    gpu = {
        "flops": 1.2e17,
        "time/flops_total": 3.8e18,
        "time/gpu_hours": 0.12,
        "time/gpu_hours_total": 3.754,
        "time/utilisation": 0.314,
    }
    with Console(1000, out, {"behaviour/attempts": "attempts"}) as console:
        console.show(RECORD | gpu | {"step": 0}, seconds_left=7)
        console.show(RECORD | gpu | {"step": 998}, seconds_left=40_000)
        console.show(RECORD | gpu | {"step": 999}, seconds_left=0)
    lines = out.getvalue().splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert lines[2] == "step 1000/1000  accuracy 0.125  GPU-hours 0.12 of 3.75  left 0:00"
    assert [word for word in lines[1].split() if word.isalpha()] == [
        "step",
        "accuracy",
        "of",
        "left",
    ]


def test_what_was_not_measured_is_not_shown() -> None:
    out = io.StringIO()
    with Console(steps=2, file=out) as console:
        console.show({"step": 1, "reward": None, "accuracy": 0.5}, seconds_left=0)
    assert out.getvalue() == "step 2/2  accuracy 0.500  left 0:00\n"


def test_costs_are_shown_if_the_run_has_a_gpu_or_a_price() -> None:
    flops = {"flops": 1.2e17, "time/flops_total": 3.8e18}
    hours = {"time/gpu_hours": 0.12, "time/gpu_hours_total": 3.754, "time/utilisation": 0.314}
    dollars = {"time/dollars": 0.3, "time/dollars_total": 9.385}
    shown = {
        "": flops,
        "  FLOP 1.2e+17 of 3.8e+18  cost $0.30 of $9.38": flops | dollars,
        "  of peak 31%  GPU-hours 0.12 of 3.75": flops | hours,  # with the FLOP it is 81 columns
        "  of peak 31%  GPU-hours 0.12 of 3.75  cost $0.30 of $9.38": hours | dollars,
    }
    for text, record in shown.items():
        out = io.StringIO()
        with Console(steps=1, file=out) as console:
            console.show({"step": 0} | record, seconds_left=0)
        assert out.getvalue() == f"step 1/1{text}  left 0:00\n"


def test_an_evaluation_elsewhere_than_on_a_terminal_is_a_line_per_minute(
    clock: list[float],
) -> None:
    out = io.StringIO()
    with Console(steps=2, file=out) as console:
        console.evaluating("test after 0 steps", 0, 1024)
        for answered in range(1, 1025):
            clock[0] += 0.125  # 128 s in total
            console.evaluating("test after 0 steps", answered, 1024)
        console.evaluating("dev after 2 steps", 0, 256, expected_seconds=42)
        clock[0] += 60  # longer than expected
        console.evaluating("dev after 2 steps", 192, 256, expected_seconds=42)
    assert out.getvalue().splitlines() == [
        "evaluating test after 0 steps: 1,024 problems ...",
        "evaluating test after 0 steps: 480 of 1,024 problems, left 1:08",
        "evaluating test after 0 steps: 960 of 1,024 problems, left 0:08",
        "evaluating dev after 2 steps: 256 problems, left 0:42 ...",
        "evaluating dev after 2 steps: 192 of 256 problems, left 0:20",
    ]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_live_table_on_a_terminal(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    out = Terminal()
    with Console(steps=30, file=out) as console:
        for step in range(15):
            console.show({**RECORD, "step": step}, seconds_left=30 - step)
        console.note("a note stays")
    shown = out.getvalue()
    assert "a note stays" in shown
    last = shown[shown.rindex("accuracy") :]
    assert "15/30" in last
    assert "4,500" in last
    assert "6/30" in last
    assert " 5/30" not in last  # ten rows at most


def test_an_evaluation_on_a_terminal_is_redrawn_below_the_table(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    out = Terminal()
    with Console(steps=30, file=out) as console:
        console.show(RECORD, seconds_left=30)
        console.evaluating("dev after 2 steps", 0, 256)
        for answered in range(1, 257):
            clock[0] += 0.125
            console.evaluating("dev after 2 steps", answered, 256)
    shown = out.getvalue()
    assert "evaluating dev after 2 steps: 128 of 256 problems, left 0:16" in shown
    assert shown.count("of 256 problems") == 1 + 127, "once per 0.25 s, and not at the end"
    assert "accuracy" in shown[shown.rindex("of 256 problems") :], "the table stays, the line goes"


def test_plain_lines_on_a_terminal_that_cannot_redraw(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    out = Terminal()
    with Console(steps=2, file=out) as console:
        console.show({"step": 0}, seconds_left=0)
        assert out.getvalue().startswith("step 1/2")
