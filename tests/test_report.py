"""The report shows what the records say, warns when it should, and survives any text."""

import hashlib
import json
import math
import re
import shlex
import shutil
import socket
import threading
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from fnmatch import fnmatchcase
from html.parser import HTMLParser
from itertools import pairwise, product
from operator import mul
from pathlib import Path
from typing import Any

import fake_run
import pytest
from helpers import has_ipv6
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyzero import cli, config
from tinyzero.errors import UserError
from tinyzero.evaluate import distinct_problems
from tinyzero.run import glossary, records
from tinyzero.tasks import TASKS, load_task
from tinyzero.tasks.countdown import data as countdown_data
from tinyzero.tasks.countdown import thinking as behaviours
from tinyzero.tasks.countdown.task import Countdown, CountdownOptions
from tinyzero.tasks.countdown.thinking import Event
from tinyzero.tools.report import alarms, charts, compare, samples, story
from tinyzero.tools.report.columns import Columns, thin
from tinyzero.tools.report.page import default_page, write_report
from tinyzero.tools.report.read import Recorded, Tail, find_runs
from tinyzero.tools.report.samples import Ladder, marked, spread
from tinyzero.tools.report.watch import Handler, Live, Server
from tinyzero.tools.web.server import CONNECTIONS, PATIENCE


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_run.write(tmp_path_factory.mktemp("runs") / "made-up-0")


def told(*folders: Path, grid: Path | None = None) -> dict[str, Any]:
    """The page's data."""
    runs = [Recorded(folder) for folder in folders]
    for recorded in runs:
        recorded.update()
    found: dict[str, Any] = json.loads(json.dumps(story.page_data(runs, grid), allow_nan=False))
    return found


def data_of(html: str) -> dict[str, Any]:
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', html, re.DOTALL)
    assert found
    data: dict[str, Any] = json.loads(found[1])
    return data


# --- streams


def test_columns_mark_missing_and_infinite_values() -> None:
    columns = Columns()
    for record in ({"a": 1, "text": "x"}, {"b": 2.5}, {"a": None, "b": True}):
        columns.add(record)
    assert [str(v) for v in columns["a"]] == ["1.0", "nan", "inf"]
    assert [str(v) for v in columns["b"]] == ["nan", "2.5", "1.0"]
    assert "text" not in columns


def test_a_short_curve_is_kept_and_a_long_one_is_averaged() -> None:
    assert thin([1.0, math.nan, math.inf, 4.0], 4) == [1.0, None, None, 4.0]
    assert thin([1.0, 3.0, math.nan, 5.0, 7.0], 3) == [2.0, 5.0, 7.0]
    assert len(thin([0.0] * 5001, 600)) <= 600


@settings(deadline=None)
@given(st.integers(1, 400), st.integers(1, 8))
def test_a_ladder_keeps_a_few_evenly_spaced_items(count: int, half: int) -> None:
    ladder = Ladder[int](2 * half)
    for i in range(count):
        ladder.add(i)
    kept = ladder.items()
    assert kept == sorted(set(kept))
    assert (kept[0], kept[-1]) == (0, count - 1)
    assert len(kept) <= 2 * half + 1
    assert len({b - a for a, b in pairwise(kept[:-1])}) <= 1, "evenly, except for the newest"
    assert count <= 2 * half or len(kept) > half


@given(st.lists(st.integers(), min_size=1, max_size=50, unique=True), st.integers(2, 10))
def test_a_spread_includes_both_ends(items: list[int], most: int) -> None:
    found = spread(items, most)
    assert len(found) == min(most, len(items))
    assert (found[0], found[-1]) == (items[0], items[-1])
    assert [items.index(i) for i in found] == sorted(items.index(i) for i in found)


def test_a_tail_reads_each_line_once_and_waits_for_incomplete_ones(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    tail = Tail(path)
    assert list(tail.records()) == []
    path.write_text('{"step": 0}\n{"step": 1')
    assert [r["step"] for r in tail.records()] == [0]
    assert list(tail.records()) == []
    with path.open("a") as file:
        file.write("}\n")
    assert [r["step"] for r in tail.records()] == [1]
    assert not tail.replaced()
    records.cut(path, *records.seal(path, len(b'{"step": 0}\n')))
    assert tail.replaced()


def test_a_line_damaged_in_the_middle_is_named(tmp_path: Path) -> None:
    folder = fake_run.write(tmp_path / "run", steps=2)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    (folder / "metrics.jsonl").write_text("\n".join([lines[0][:-9], lines[1], ""]))
    with pytest.raises(UserError, match=r"byte 0 of .*metrics.jsonl"):
        Recorded(folder).update()


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("metrics.jsonl", {"step": None}),
        ("eval.jsonl", {"step": -1}),
        ("eval.jsonl", {"split": "tset"}),
        ("eval.jsonl", {"pass@1/low": "low"}),
        ("rollouts.jsonl", {"split": "tset"}),
        ("rollouts.jsonl", {"fields": []}),
        ("rollouts.jsonl", {"parts": {"answer": "yes"}}),
    ],
)
def test_a_line_that_is_not_a_runs_record_is_named(
    name: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    folder = fake_run.write(tmp_path / "run", steps=2)
    text = (folder / name).read_text()
    first = json.loads(text.splitlines()[0])
    for line in ({}, first | changes):
        (folder / name).write_text(text + json.dumps(line) + "\n")
        with pytest.raises(
            UserError,
            match=rf"byte {(folder / name).stat().st_size} of .*{name} .*fix or remove it",
        ):
            told(folder)


@pytest.mark.parametrize("name", ["metrics.jsonl", "eval.jsonl", "rollouts.jsonl"])
def test_an_incomplete_last_line_is_not_an_error(name: str, tmp_path: Path) -> None:
    folder = fake_run.write(tmp_path / "run", steps=10)
    whole = told(folder)["runs"][0]
    path = folder / name
    text = path.read_bytes()
    last = text[:-1].rindex(b"\n") + 1
    path.write_bytes(text[:last])
    without = told(folder)["runs"][0]
    assert without != whole
    for end in (last + 1, (last + len(text)) // 2, len(text) - 2):
        path.write_bytes(text[:end])
        assert told(folder)["runs"][0] == without
    path.write_bytes(text)
    assert told(folder)["runs"][0] == whole


def test_a_growing_run_is_followed_and_a_resumed_one_is_read_again(tmp_path: Path) -> None:
    folder = fake_run.write(tmp_path / "run", steps=10, every=5)
    recorded = Recorded(folder)
    assert recorded.update()
    assert not recorded.update()
    records.append(folder / "metrics.jsonl", fake_run.step_record(10, 20))
    assert recorded.update()
    assert recorded.steps.length == 11
    for name in ("metrics.jsonl", "rollouts.jsonl"):
        lines = (folder / name).read_bytes().splitlines(keepends=True)
        kept = b"".join(line for line in lines if json.loads(line)["step"] < 5)
        (folder / f".{name}").write_bytes(kept)
        (folder / f".{name}").replace(folder / name)  # like a resumed run
    assert recorded.update()
    assert recorded.steps.length == 5


# --- comparing runs


def entry(**changes: Any) -> dict[str, Any]:
    same = {"task": "countdown", "split": "test", "n": 4, "problems": "ab", "max_tokens": 100}
    return {**same, "temperature": 1.0, "k": 2, "clusters": [0, 1, 2, 2], **changes}


@pytest.mark.parametrize(
    ("other", "comparable", "says"),
    [
        ({}, "yes", ""),
        ({"k": 8}, "yes", ""),
        ({"problems": "cd"}, "no", "differ in the problems."),
        ({"n": 8, "problems": "cd"}, "no", "differ in the number of problems (4 or 8)."),
        ({"temperature": 0.5}, "no", "differ in the temperature (1 or 0.5)."),
        (
            {"task": "multiplication", "problems": "cd", "n": 5, "max_tokens": 50},
            "no",
            "differ in the task (countdown or multiplication), the number of problems (4 or 5) "
            "and the token limit (100 or 50).",
        ),
    ],
)
def test_runs_are_compared_only_if_they_were_evaluated_alike(
    other: dict[str, Any], comparable: str, says: str
) -> None:
    found, reason = compare.check_comparable([entry(), entry(**other)])
    assert found == comparable
    assert reason.endswith(says)


def test_runs_of_older_versions_cannot_be_checked() -> None:
    old = {key: value for key, value in entry().items() if key not in ("problems", "max_tokens")}
    assert compare.check_comparable([old, entry()]) == ("unknown", compare.UNKNOWN)
    assert compare.check_comparable([old, old]) == ("unknown", compare.UNKNOWN)
    assert compare.check_comparable([old, entry(n=8)])[0] == "no", "what is known differs"
    assert compare.check_comparable([entry()]) == ("", "")


def test_a_paired_difference_and_its_interval_by_hand() -> None:
    """Differences 1, 0, 0, 1 with mean 1/2; the last two problems are one cluster.

    The clusters' sums of deviations are 1/2, -1/2 and 0, and those of the two invented clusters are
    4/3 and -4/3: the variance is 5/4 * (1/2 + 32/9) / (5 * 4/3)**2 = 73/640.
    """
    found = compare.paired_difference(entry(right=[0, 1, 2, 0]), entry(right=[2, 1, 2, 2]))
    half = 1.959964 * math.sqrt(73 / 640)
    assert found == {"value": 0.5, "low": pytest.approx(0.5 - half), "high": 1.0}
    eight = entry(right=[8, 4, 8, 8], k=8)
    assert compare.paired_difference(entry(right=[0, 1, 2, 0]), eight) == found, "as shares of k"


def test_a_run_is_the_best_only_if_it_can_be_told_apart_from_every_other() -> None:
    """Of 64 problems `low` solves none, `high` 32 and `close` 30 of the same."""
    scores = {"low": 0, "high": 32, "close": 30}
    many = {"n": 64, "k": 1, "clusters": list(range(64))}
    runs = {
        name: entry(**many, right=[1] * solved + [0] * (64 - solved), **{"pass@1": solved / 64})
        for name, solved in scores.items()
    }
    assert compare.find_leaders(list(runs.items())) == ["high", "close"]
    assert compare.find_leaders([("low", runs["low"]), ("high", runs["high"])]) == ["high"]
    assert compare.find_leaders([("one", runs["low"]), ("two", runs["low"])]) == ["one", "two"]


def test_several_comparisons_widen_a_paired_difference() -> None:
    """Five comparisons at 95 % need 99 % each, where a normal variable lies within ± 2.575829."""
    same = entry(right=[0, 1] * 32, clusters=list(range(64)))
    found = compare.paired_difference(same, same, comparisons=5)
    assert found is not None
    assert found["high"] == pytest.approx(2.575829 * math.sqrt(2 / 65 / 66))


def test_equal_results_leave_an_interval_with_width() -> None:
    """64 problems without a difference: the variance is that of the two invented clusters alone."""
    same = entry(right=[0, 1] * 32, clusters=list(range(64)))
    half = 1.959964 * math.sqrt(66 / 65 * 2 / 66**2)
    assert compare.paired_difference(same, same) == {
        "value": 0.0,
        "low": pytest.approx(-half),
        "high": pytest.approx(half),
    }


@pytest.mark.parametrize(
    "other",
    [{}, {"right": [1]}, {"right": [0] * 4, "k": 0}, {"right": [0] * 4, "clusters": [0] * 4}],
)
def test_a_paired_difference_needs_whole_records(other: dict[str, Any]) -> None:
    known = entry(right=[0, 1, 2, 0])
    broken = entry(**other)
    assert compare.paired_difference(broken, known) is None


def test_settings_that_differ_are_listed(tmp_path: Path) -> None:
    folders = [
        fake_run.write(tmp_path / name, steps=2, **changes)
        for name, changes in {
            "a": {"seed": 0, "run.dir": "x"},
            "b": {"seed": 3, "optimizer.learning_rate": 1e-5, "run.dir": "y"},
        }.items()
    ]
    rows = told(*folders)["comparison"]["settings"]
    assert {row["key"]: row["values"] for row in rows} == {
        "seed": ["0", "3"],
        "optimizer.learning_rate": ["0.0006", "1e-05"],
    }
    assert told(folders[0])["comparison"] is None


# --- the current figures


def test_the_current_figures_and_the_time_left_are_those_of_the_last_steps(tmp_path: Path) -> None:
    folder = fake_run.write(tmp_path / "run", steps=40, every=10)
    lines = [line for line in records.read(folder / "metrics.jsonl") if line["step"] < 20]
    (folder / "metrics.jsonl").unlink()
    for line in lines:
        records.append(folder / "metrics.jsonl", line)
    evals = [line for line in records.read(folder / "eval.jsonl") if line["step"] <= 20]
    (folder / "eval.jsonl").unlink()
    for line in evals:
        records.append(folder / "eval.jsonl", line)
    run = told(folder)["runs"][0]
    assert (run["done"], run["finished"]) == (20, False)
    now = run["headline"]["now"]
    assert now["steps"] == 5
    assert now["accuracy"] == pytest.approx(0.2 + 0.6 * 17 / 40), "steps 16 to 20"
    assert now["behaviour/attempts"] == pytest.approx(1 + 5 * now["accuracy"])
    assert run["headline"]["left"] * 60 == pytest.approx(20 * 2.5 + 2 * 6), "and two evaluations"


def test_peak_memory_is_that_of_the_run_although_a_resumed_process_starts_again(
    tmp_path: Path,
) -> None:
    peaks = [1.0, 3.0, 2.0, None, 4.0]
    columns: dict[str, Any] = {"memory/peak": lambda step: peaks[step]}
    folder = fake_run.write(tmp_path / "run", steps=5, every=5, columns=columns)
    assert told(folder)["runs"][0]["curves"]["steps"]["memory/peak"] == [1, 3, 3, 3, 4]


def test_malformed_is_left_out_if_the_reward_has_no_part_for_the_form(tmp_path: Path) -> None:
    folder = fake_run.write(tmp_path / "run", steps=2)
    assert "malformed" in told(folder)["runs"][0]["curves"]["steps"]
    text = (folder / "metrics.jsonl").read_text().replace('"reward/format"', '"reward/date"')
    (folder / "metrics.jsonl").write_text(text)
    assert "malformed" not in told(folder)["runs"][0]["curves"]["steps"]


# --- alarms


HEALTHY: dict[str, list[float]] = {
    "step": [float(i) for i in range(40)],
    "accuracy": [0.2 + 0.015 * i for i in range(40)],
    "reward/format": [0.5 + 0.01 * i for i in range(40)],
    "response_length": [50.0 + 5 * i for i in range(40)],
    "entropy": [0.5 - 0.01 * i for i in range(40)],
    "flat_groups": [0.3] * 40,
    "skipped": [0.0] * 40,
    "truncated": [0.05] * 40,
    "behaviour/repeat_rate": [0.3] * 40,
    "reward_errors": [0.0] * 40,
    "mismatch": [0.01] * 40,
    "correction": [0.99] * 40,
    "rollouts/looping": [0.0, 0.0, 0.0, 1.0] * 5 + [0.0] * 80,
}
STUCK = [0.2] * 40


@pytest.mark.parametrize(
    ("check", "sick", "says"),
    [
        ("format_farming", {"accuracy": STUCK}, "from 54 % to 86 %"),
        ("length_without_success", {"accuracy": STUCK}, "from 68 to 228 tokens"),
        (
            "entropy_collapse",
            {"entropy": [0.5] * 5 + [0.01] * 35},
            "from 0.5 to 0.01 nats while only 73 %",
        ),
        ("equal_groups", {"flat_groups": [0.85] * 40, "accuracy": STUCK}, "85 % of the groups"),
        (
            "equal_groups",
            {"flat_groups": [0.95] * 40, "accuracy": [0.99] * 40},
            "99 % of the answers right",
        ),
        ("mismatch", {"mismatch": [0.2] * 40}, "0.2 nats apart"),
        ("mismatch", {"correction": [0.7] * 40}, "is 0.70 on average"),
        (
            "not_finite",
            {"skipped": [0.0] * 30 + [1.0] * 2 + [0.0] * 8},
            "2 steps skipped updates, first in step 31",
        ),
        (
            "not_finite",
            {"entropy": [0.5] * 39 + [math.inf]},
            "entropy could not be written as a number, first in step 40",
        ),
        (
            "endless_repetition",
            {"rollouts/looping": [0.0] * 80 + [1.0] * 20},
            "20 of the last 20 stored answers",
        ),
        ("endless_repetition", {"behaviour/repeat_rate": [0.6] * 40}, "60 % of the attempts"),
        ("truncation", {"truncated": [0.4] * 40, "accuracy": STUCK}, "40 % of the answers"),
        ("reward_errors", {"reward_errors": [0.0] * 39 + [3.0]}, "raised an error on 3 answers"),
        (
            "reward_errors",
            {
                "reward_errors": [1.0] * 40,
                "grading/timeout": [0.75] * 40,
                "grading/ungraded": [0.0] * 39 + [2.0],
                "samples/generated": [50.0 * i for i in range(1, 41)],
            },
            "raised an error on 10 answers, took too long for 30, could not judge 2 "
            "(2 % of all answers)",
        ),
    ],
)
def test_an_alarm_is_given_if_and_only_if_it_should_be(
    check: str, sick: dict[str, list[float]], says: str
) -> None:
    looks = getattr(alarms, check)
    assert looks in alarms.CHECKS.values()
    assert looks(HEALTHY) is None
    found = looks(HEALTHY | sick)
    assert says in found.seen
    assert found in alarms.find_alarms(HEALTHY | sick)


def test_a_grader_that_fails_once_in_a_hundred_is_not_an_alarm() -> None:
    generated = {"samples/generated": [100.0 * i for i in range(1, 41)]}
    assert alarms.reward_errors(HEALTHY | generated | {"reward_errors": [1.0] * 40}) is None
    more = HEALTHY | generated | {"reward_errors": [1.0] * 39 + [2.0]}
    assert "raised an error on 41 answers" in getattr(alarms.reward_errors(more), "seen", "")


def test_a_check_that_fails_is_a_line_among_the_alarms(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(streams: alarms.Streams) -> alarms.Alarm | None:
        raise ValueError("no\nsuch column")

    monkeypatch.setitem(alarms.CHECKS, "trouble", broken)
    (alarm,) = alarms.find_alarms(HEALTHY)
    assert alarm.seen == "The check for trouble raised ValueError: no such column."


def test_a_healthy_run_and_an_empty_one_give_no_alarm() -> None:
    assert alarms.find_alarms(HEALTHY) == []
    assert alarms.find_alarms({}) == []


def test_a_run_too_short_for_a_trend_gives_none() -> None:
    short = {key: values[:9] for key, values in (HEALTHY | {"accuracy": STUCK}).items()}
    assert alarms.find_alarms(short) == []


def test_low_entropy_after_success_is_not_a_collapse() -> None:
    solved = HEALTHY | {
        "accuracy": [0.95] * 40,
        "entropy": [0.5] * 5 + [0.01] * 35,
        "flat_groups": [0.85] * 40,
    }
    assert alarms.entropy_collapse(solved) is None
    assert alarms.equal_groups(solved) is None


def test_steps_with_only_flat_groups_do_not_count_for_entropy() -> None:
    idle = HEALTHY | {"flat_groups": [0.3] * 20 + [1.0] * 20, "entropy": [0.5] * 20 + [0.0] * 20}
    assert alarms.entropy_collapse(idle) is None


def test_the_files_of_a_run_reach_the_alarms(tmp_path: Path) -> None:
    def nan(step: int) -> float:
        return math.nan if step == 7 else 0.1

    loop = "12*5=60,60+3=63 vs 24 no\n" * 20
    folder = fake_run.write(
        tmp_path / "run", steps=20, columns={"grad_norm": nan, "accuracy": lambda step: 0.2}
    )
    for step in range(20):
        records.append(
            folder / "rollouts.jsonl",
            fake_run.rollout(step, "train", 0, loop, finish_reason="length"),
        )
    titles = [alarm["title"] for alarm in told(folder)["runs"][0]["alarms"]]
    assert titles == [
        "Answers get longer but not better",
        "Numbers that are not finite",
        "It repeats itself",
    ]


# --- samples


events = st.builds(
    lambda kind, start, length: Event(kind, start, start + length, "yes"),
    st.sampled_from([*load_task("countdown").kinds, "other"]),
    st.integers(0, 30),
    st.integers(0, 12),
)


@settings(deadline=None, max_examples=50)
@given(st.text(max_size=40), st.lists(events, max_size=8), st.integers(0, 10), st.integers(0, 45))
def test_marking_keeps_the_text_and_covers_each_event(
    text: str, found: list[Event], start: int, end: int
) -> None:
    end = min(max(start, end), len(text))
    start = min(start, end)
    found = [e._replace(end=min(e.end, len(text))) for e in found if e.start <= len(text)]
    pieces = marked(text, found, start, end)
    assert "".join(p if isinstance(p, str) else p[0] for p in pieces) == text[start:end]
    at = start
    for piece in pieces:
        content, called = (piece, "") if isinstance(piece, str) else piece
        for place in range(at, at + len(content)):
            wanted = {e.kind for e in found if e.start <= place < e.end}
            assert wanted <= set(called.split())
        at += len(content)


def test_an_event_without_length_marks_what_follows() -> None:
    assert marked("ab", [Event("backtrack", 1, 1)]) == ["a", ("b", "backtrack")]


def test_the_search_is_marked_where_it_happens() -> None:
    pieces = samples.shown(fake_run.rollout(10, "dev", 0, fake_run.SEARCH), load_task("countdown"))[
        "text"
    ]
    named = [
        (text, set(called.split()))
        for text, called in (p for p in pieces if not isinstance(p, str))
    ]
    assert named == [
        ("12*5=60,", {"step", "attempt"}),
        ("60+3=63", {"step", "attempt"}),
        (" vs 24 no", {"verification", "no"}),
        ("5-3=2,", {"backtrack", "step", "attempt", "right"}),
        ("12*2=24", {"step", "attempt", "right"}),
        (" vs 24 yes", {"verification", "yes"}),
        ("12*(5-3)", {"answer"}),
    ]


def test_every_kind_of_event_has_a_description() -> None:
    assert load_task("countdown").kinds.keys() == behaviours.KINDS.keys() - {"claim"}


@pytest.mark.parametrize(
    ("text", "does"),
    [
        (fake_run.SEARCH, True),
        ("12*5=60,60+3=63 vs 24 no\n</think>\n<answer>12*(5-3)</answer>", False),
        ("5-3=2,2*12=24 vs 24 yes\n</think>\n<answer>12*(5-3)</answer>", False),
        ("12*5=60,60+3=63\n5-3=2,2*12=24 vs 24 yes\n</think>\n<answer>12*(5-3)</answer>", False),
        (
            "5-3=2,2*12=24\n12*5=60,60+3=63 vs 24 no\n60-3=57 vs 24 yes\n</think>\n"
            "<answer>12*(5-3)</answer>",
            False,
        ),
    ],
)
def test_a_revision_is_a_failed_check_and_then_a_confirmed_hit(text: str, does: bool) -> None:
    record = fake_run.rollout(0, "dev", 0, text)
    assert samples.revises(samples.find_events(record, load_task("countdown"))) is does


@pytest.mark.parametrize(
    "piece",
    ["a", "wait, ", "12*5=60,60+3=63 vs 24 no\n", "x" * 30 + "\n" + "y" * 300, "abab" * 9 + "c"],
)
@pytest.mark.parametrize("cut", [0, 1, 3])
def test_a_loop_is_detected_wherever_it_is_cut(piece: str, cut: int) -> None:
    text = "5-3=2\n" + piece * max(5, 60 // len(piece))
    assert samples.loops(text[: len(text) - cut])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "abc" * 3,
        "no\nno\nno\n",
        "1+2=3 vs 24 no\n2+1=3 vs 24 no\n" * 2 + "12*3=36",
        "=" * 20,
    ],
)
def test_what_is_not_a_loop(text: str) -> None:
    assert not samples.loops(text)


@given(st.text("ab", min_size=1, max_size=12), st.text("abc", max_size=9))
def test_loops_are_those_of_the_definition(piece: str, before: str) -> None:
    text = before + piece * (-(-40 // len(piece)) + 4)
    assert samples.loops(text)


def test_the_same_problems_are_followed_and_the_first_revision_is_found(run: Path) -> None:
    found = told(run)["runs"][0]
    problem = [
        s for s in found["samples"] if s["problem"] == "24 from 3 5 12" and s["split"] == "dev"
    ]
    assert [s["step"] for s in problem] == [0, 10, 20, 30, 40]
    assert [s["right"] for s in problem] == [False, True, True, True, True]
    first = found["samples"][found["revision"]]
    assert (first["step"], first["split"], first["revises"]) == (0, "train", True)
    before, after = (found["samples"][i] for i in found["opening"]["test"])
    assert (before["right"], after["right"], before["step"], after["step"]) == (False, True, 0, 40)


def test_only_a_few_of_many_rollouts_are_kept(tmp_path: Path) -> None:
    kept = samples.Samples()
    for step in range(3000):
        for _ in range(8):
            kept.add(fake_run.rollout(step, "train", 0, fake_run.SEARCH))
            kept.add(fake_run.rollout(step, "train", 0, fake_run.GUESS))
    assert sum(len(group) for group in kept.ladders["train"].items()) <= 4 * (
        samples.KEPT_STEPS + 1
    )
    steps = sorted({record["step"] for record in kept.chosen()})
    assert (steps[0], steps[-1]) == (0, 2999)
    assert len(steps) == samples.SHOWN_STEPS


def test_the_search_for_a_revision_ends_and_says_how_far_it_came(tmp_path: Path) -> None:
    kept, long = samples.Samples(), fake_run.SEARCH.replace(" yes", "") + " " * 400_000
    for step in range(20):
        kept.add(fake_run.rollout(step, "train", 0, long) | {"reward": 1.0, "parts": {}})
    assert (kept.revision, kept.searched) == (None, 8)
    folder = fake_run.write(tmp_path / "run", steps=2, text=lambda step: fake_run.GUESS)
    assert (told(folder)["runs"][0]["revision"], told(folder)["runs"][0]["searched"]) == (
        None,
        None,
    )


def test_a_very_long_answer_loses_its_middle_and_says_so() -> None:
    text = "".join(f"{i:06d}\n" for i in range(5000))
    pieces = samples.shown(fake_run.rollout(0, "dev", 0, text))["text"]
    gap = next(i for i, p in enumerate(pieces) if p[1] == "gap")
    before, after = (
        "".join(p if isinstance(p, str) else p[0] for p in half)
        for half in (pieces[:gap], pieces[gap + 1 :])
    )
    assert text.startswith(before)
    assert text.endswith(after)
    assert (
        pieces[gap][0] == f"{len(text) - len(before) - len(after):,} characters are left out here"
    )


# --- the page's data


def test_the_numbers_in_the_page_are_those_of_the_streams(run: Path, tmp_path: Path) -> None:
    write_report([run], tmp_path / "page.html")
    found = data_of((tmp_path / "page.html").read_text())["runs"][0]
    steps, evals = list(records.read(run / "metrics.jsonl")), list(records.read(run / "eval.jsonl"))
    for key in steps[0].keys() - {"step"}:
        assert found["curves"]["steps"][key] == pytest.approx([s[key] for s in steps], rel=1e-5), (
            key
        )
    for split in ("dev", "test"):
        scored = [e for e in evals if e["split"] == split]
        for key in ("pass@1", "pass@1/low", "pass@1/high", "response_length"):
            assert found["curves"][split][key] == pytest.approx([e[key] for e in scored], rel=1e-5)
        assert found["curves"][split]["x/step"] == [e["step"] for e in scored]
    speed = [s["tokens/generated"] / s["time/sample"] for s in steps]
    assert found["curves"]["steps"]["tokens/s"] == pytest.approx(speed)
    first, *_, last = [e for e in evals if e["split"] == "test"]
    for when, e in (("before", first), ("after", last)):
        assert found["headline"][when]["value"] == e["pass@1"]
        assert (found["headline"][when]["low"], found["headline"][when]["high"]) == (
            e["pass@1/low"],
            e["pass@1/high"],
        )
    assert found["headline"]["samples"] == steps[-1]["samples/generated"]
    assert found["headline"]["minutes"] * 60 == pytest.approx(
        steps[-1]["time/elapsed"] + 12, 1e-9
    ), "two evaluations"
    assert (found["done"], found["finished"]) == (40, True)


def test_a_step_is_placed_after_what_came_before_it(run: Path) -> None:
    curves = told(run)["runs"][0]["curves"]
    assert curves["steps"]["x/step"][:3] == [1, 2, 3], "steps count from 1"
    assert curves["dev"]["x/step"] == [0, 10, 20, 30, 40], "0 is before training"
    assert curves["steps"]["x/samples"][:3] == [0, 256, 512]
    assert curves["steps"]["x/minutes"][1] == pytest.approx(22.5 / 60)
    assert curves["dev"]["x/samples"] == [0, 2560, 5120, 7680, 10240]
    assert curves["dev"]["x/minutes"][-1] == pytest.approx(120 / 60)
    for source in ("steps", "dev", "test"):
        assert curves[source]["x/length"] == curves[source]["response_length"]
    assert curves["steps"].keys() >= {f"x/{axis}" for axis in story.AXES}


def test_every_curve_is_in_the_glossary_and_has_an_explanation(run: Path) -> None:
    for section in told(run)["sections"]:
        for chart in section["charts"]:
            assert chart["says"].endswith(".")
            assert all(chart["means"].values()), chart["title"]


def test_every_key_of_the_glossary_is_drawn_or_left_out_for_a_reason() -> None:
    tasks = [load_task(name) for name in TASKS]
    own = charts.charts_of(tasks, {"behaviour/unheard_of"})
    drawn = [
        line.key
        for chart in [*own, *(c for _, _, cs in charts.SECTIONS.values() for c in cs)]
        for line in chart.lines
    ]
    keys = {*glossary.GLOSSARY, *(key for task in tasks for key in task.glossary)}
    for key in keys:
        found = any(fnmatchcase(key, line) or fnmatchcase(line, key) for line in drawn)
        assert found or key in charts.LEFT_OUT, key
        assert not (key in drawn and key in charts.LEFT_OUT), key
    assert [key for key in charts.LEFT_OUT if glossary.define(key) is None] == []


def test_any_task_can_be_reported(tmp_path: Path) -> None:
    own = Path(__file__).with_name("toy_task.py")
    columns = {"behaviour/carries": lambda step: 0.25}
    folder = fake_run.write(tmp_path / "run", steps=2, every=1, columns=columns)
    settings = (folder / "config.toml").read_text()
    named = settings.replace('name = "countdown"', f'name = "{own}:Early"')
    assert named != settings
    (folder / "config.toml").write_text(named)
    fields = {"a": 12, "b": 34}
    (folder / "rollouts.jsonl").write_text("")
    for step in (0, 2):
        record = fake_run.rollout(step, "dev", 0, "12+34=46", fields=fields)
        records.append(folder / "rollouts.jsonl", record)

    story = told(folder)
    (run,) = story["runs"]
    assert [s["problem"] for s in run["samples"]] == ["a 12, b 34"] * 2, (
        "nothing is guessed from the names of fields"
    )
    assert [s["kinds"] for s in run["samples"]] == [[], []]
    assert story["marks"] == {}
    assert (run["shortcut"], run["headline"]["highlights"]) == (None, {})
    (section,) = (s for s in story["sections"] if s["name"] == "behaviours")
    (chart,) = section["charts"]
    assert {line["key"]: line["label"] for line in chart["lines"]}["behaviour/carries"] == "carries"
    assert chart["means"]["behaviour/carries"] == charts.OWN


def test_a_bundled_task_describes_its_own_metrics(run: Path) -> None:
    story = told(run)
    assert story["marks"] == dict(load_task("countdown").kinds)
    (one,) = story["runs"]
    assert one["shortcut"] == "+ and − alone"
    assert one["headline"]["highlights"] == {"behaviour/attempts": "attempts"}
    means = {k: m for s in story["sections"] for c in s["charts"] for k, m in c["means"].items()}
    assert means["behaviour/attempts"] == load_task("countdown").glossary["behaviour/attempts"]


@pytest.mark.parametrize("fields", [{}, {"numbers": "3", "target": []}, {"numbers": [{}]}])
def test_a_record_that_does_not_fit_the_task_is_shown_unmarked(fields: dict[str, Any]) -> None:
    record = fake_run.rollout(0, "dev", 0, "12-3=9", fields=fields)
    shown = samples.shown(record, load_task("countdown"))
    assert shown["text"] == ["12-3=9"] or shown["kinds"]
    assert shown["problem"]


def test_every_part_of_a_reward_has_a_curve(tmp_path: Path) -> None:
    parts = {f"reward/{name}": lambda step: 0.5 for name in ("truncated", "style", "answer")}
    folder = fake_run.write(tmp_path / "run", steps=2, columns=parts)
    (chart,) = (
        c
        for section in told(folder)["sections"]
        for c in section["charts"]
        if c["title"] == "Reward"
    )
    assert [line["label"] for line in chart["lines"]] == [
        "reward",
        "for the answer",
        "well-formed",
        "style",
    ]
    assert chart["band"]


def test_pass_at_k_is_drawn_if_it_was_measured(tmp_path: Path) -> None:
    folder = fake_run.write(tmp_path / "run", steps=2)
    records.append(
        folder / "eval.jsonl", fake_run.evaluation(1, "dev", 0.5) | {"pass@16": 0.9, "pass@2": 0.6}
    )
    found = {
        chart["title"]: chart for section in told(folder)["sections"] for chart in section["charts"]
    }
    assert [line["label"] for line in found["The best of several answers"]["lines"]] == [
        "one of 1",
        "one of 2",
        "one of 16",
    ]


def test_the_command_is_the_one_that_was_typed(run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(run, tmp_path / "it's a run"))

    def told() -> str:
        recorded = Recorded(folder)
        recorded.update()
        return str(story.run_data(recorded, "run")["command"])

    assert told() == f"tinyzero train {shlex.quote(str(folder / 'config.toml'))}", "0.1 wrote none"
    line = "tinyzero train laptop --task 'my tasks.py:T' --task.hard true"
    asked = config.asked_toml({"task": {"name": "my tasks.py:T", "hard": True}}, [line])
    (folder / "asked.toml").write_text(asked)
    assert told() == line, "the task that it names is not loaded"
    again = config.asked_again(folder, config.Command("tinyzero train --resume run", {"steps": 9}))
    (folder / "asked.toml").write_text(again or "")
    assert told() == f"tinyzero train {shlex.quote(str(folder / 'asked.toml'))}"
    assert config.read_asked(folder).steps == 9
    for odd in ("command = 3", "[command]\nlines = [1]", "[command]\nlines = 'x'"):
        (folder / "asked.toml").write_text(odd)
        assert told() == f"tinyzero train {shlex.quote(str(folder / 'asked.toml'))}"


def test_the_ceiling_of_plus_and_minus_is_counted() -> None:
    table = config.read_recipe("laptop")["task"]
    ceilings = story.shortcut(json.dumps(table | {"max_count": 4}), 60)
    options = {key: value for key, value in table.items() if key != "name"} | {"max_count": 4}
    problems = [
        p.fields for p in distinct_problems(Countdown(CountdownOptions(**options)), "test", 60)
    ]
    can = [
        any(
            sum(map(mul, p["numbers"], signs)) == p["target"]
            for signs in product((1, -1), repeat=len(p["numbers"]))
        )
        for p in problems
    ]
    assert ceilings[""] == sum(can) / 60
    for n in (3, 4):
        of_n = [c for c, p in zip(can, problems, strict=True) if len(p["numbers"]) == n]
        assert ceilings[f"numbers={n}"] == sum(of_n) / len(of_n)
    assert story.shortcut(json.dumps({"name": "multiplication"}), 60) == {}
    assert story.shortcut(json.dumps(table | {"data": "some.parquet"}), 60) == {}


def test_the_ceiling_of_problems_from_a_file_is_counted_in_its_rows(tmp_path: Path) -> None:
    table = config.read_recipe("laptop")["task"]
    task = Countdown(
        CountdownOptions(**{key: value for key, value in table.items() if key != "name"})
    )
    problems = distinct_problems(task, "test", 20)
    countdown_data.write_rows(
        tmp_path / "rows.jsonl",
        [countdown_data.Row(p.fields["target"], tuple(p.fields["numbers"])) for p in problems],
    )
    can = [task.describe(p)["operators"] == "+-" for p in problems]
    assert 0 < sum(can) < 20
    found = story.shortcut(json.dumps(table | {"data": str(tmp_path / "rows.jsonl")}), 20)
    assert found[""] == sum(can) / 20
    assert story.shortcut(json.dumps(table | {"data": str(tmp_path / "rows.jsonl")}), 21) == {}, (
        "too few of them"
    )


def test_a_grid_is_reported(run: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        fake_run.write(tmp_path / "grid" / f"grpo-{seed}", steps=10, seed=seed)
    mean = {
        "before": 0.2,
        "after": 0.8,
        "after/low": 0.7,
        "after/high": 0.9,
        "length": 110,
        "minutes": 2,
        "samples": 2560,
    }
    about: dict[str, Any] = {
        "command": "tinyzero ablate g.toml",
        "grid": {"axes": {"algorithm": {"grpo": {}}}, "seeds": [0, 1]},
    }
    about["results"] = {"grpo": {"mean": mean, "seeds": {"0": {}, "1": {}}}}
    (tmp_path / "grid" / "ablation.json").write_text(json.dumps(about))
    write_report([tmp_path / "grid"], tmp_path / "page.html")
    found = data_of((tmp_path / "page.html").read_text())
    assert found["grid"]["differences"] is None, "as in records of version 0.1"
    ppo = {"difference": -0.1, "low": -0.2, "high": 0.0}
    about["differences"] = {"from": "grpo", "choices": {"ppo": ppo}}
    (tmp_path / "grid" / "ablation.json").write_text(json.dumps(about))
    write_report([tmp_path / "grid"], tmp_path / "page.html")
    found = data_of((tmp_path / "page.html").read_text())
    assert found["grid"]["differences"] == about["differences"]
    assert found["grid"]["choices"]["grpo"]["runs"] == ["grpo-0", "grpo-1"]
    assert found["grid"]["choices"]["grpo"]["after"] == 0.8
    (tmp_path / "grid" / "ablation.json").write_text("{}")
    with pytest.raises(UserError, match="tinyzero ablate"):
        write_report([tmp_path / "grid"], tmp_path / "page.html")


def test_baselines_are_shown_if_they_were_measured(tmp_path: Path) -> None:
    folder = fake_run.write(tmp_path / "run", steps=2)
    assert told(folder)["runs"][0]["baselines"] == []
    measured = {"value": 0.5, "low": 0.4, "high": 0.6, "tokens": 160.0}
    (folder / "baselines.json").write_text(
        json.dumps({"baselines": {"base forced to go on": measured}})
    )
    assert told(folder)["runs"][0]["baselines"] == [{"label": "base forced to go on", **measured}]
    (folder / "baselines.json").write_text("[]")
    with pytest.raises(UserError, match="what_training_added"):
        told(folder)


def test_runs_of_the_same_name_get_different_names(tmp_path: Path) -> None:
    folders = [fake_run.write(tmp_path / place / "run", steps=2) for place in ("a", "b")]
    assert [run["name"] for run in told(*folders)["runs"]] == ["a/run", "b/run"]
    places = [Path("/x/a/one/run"), Path("/y/a/one/run"), Path("/y/b/run"), Path("/y/c")]
    assert story.names_of(places) == ["x/a/one/run", "y/a/one/run", "b/run", "c"]
    assert story.names_of([Path("/a/run"), Path("/run")]) == ["a/run", "/run"], (
        "the end of the other one"
    )


def test_a_run_named_twice_is_shown_once(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.parent)
    assert len(find_runs([run, Path(run.name), run.parent])) == 1


def test_a_run_that_has_not_begun_is_shown(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(config.to_toml(config.Config()))
    found = told(tmp_path)["runs"][0]
    assert (found["done"], found["finished"], found["headline"]["before"], found["samples"]) == (
        0,
        False,
        None,
        [],
    )


# --- the page


class Scripts(HTMLParser):
    """The scripts that a browser finds by the rules of HTML."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.handlers: list[str] = []
        self._in = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in = tag == "script"
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        if self._in:
            self.scripts.append((dict(attrs), ""))

    def handle_data(self, data: str) -> None:
        if self._in:
            attributes, text = self.scripts[-1]
            self.scripts[-1] = (attributes, text + data)

    def handle_endtag(self, tag: str) -> None:
        self._in = False


EVIL = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<!--<script>",
    "]]></SCRIPT ><svg onload=alert(1)>",
    "\u2028\u2029{{SCRIPTS}}{{DATA}}\\u003c",
]


def test_what_a_model_writes_cannot_become_markup(tmp_path: Path) -> None:
    folder = fake_run.write(
        tmp_path / EVIL[1].replace("/", ""), steps=10, text=lambda step: "".join(EVIL)
    )
    write_report([folder], tmp_path / "page.html")
    html = (tmp_path / "page.html").read_text()
    data, *code = Scripts(html).scripts
    assert data[0]["type"] == "application/json"
    found = json.loads(data[1])
    texts = {
        "".join(p if isinstance(p, str) else p[0] for p in s["text"])
        for s in found["runs"][0]["samples"]
    }
    assert "".join(EVIL) in texts
    assert Scripts(html).handlers == []
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)
    assert policy
    for _, text in code:
        assert f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" in policy[1]
    assert "unsafe" not in policy[1]
    assert policy[1].startswith("default-src 'none'")
    assert "connect-src 'none'" in policy[1]


def test_the_page_loads_nothing(run: Path, tmp_path: Path) -> None:
    write_report([run], tmp_path / "page.html")
    html = (tmp_path / "page.html").read_text()
    markup = html.split("<script")[0]
    assert {
        "#" if link.startswith("#") else link
        for link in re.findall(r'(?:src|href)="([^"]*)"', markup)
    } == {
        "#",
        "data:,",
    }
    assert re.findall(r"(?:@import|url\()", markup) == []


@pytest.mark.parametrize("piece", ["12*5=60,60+3=63 vs 24 no\n", "<<<<<<<<<<<<", "12*5=60 é"])
def test_the_page_of_long_runs_is_small_and_shows_each_to_its_end(
    piece: str, tmp_path: Path
) -> None:
    def text(step: int) -> str:
        return f"{step}{piece * (10_000 // len(piece))}"

    folders = [
        fake_run.write(tmp_path / str(i), steps=400, every=5, text=text, seed=i) for i in range(9)
    ]
    assert write_report(folders[:1], tmp_path / "one.html") < 5e6
    assert write_report(folders, tmp_path / "nine.html") < 5e6
    for run in data_of((tmp_path / "nine.html").read_text())["runs"]:
        assert {0, 400} <= {s["step"] for s in run["samples"]}


def test_room_goes_to_one_problem_after_another_and_to_the_ends_first() -> None:
    at = [(0, "dev"), (0, "dev"), (0, "train"), (4, "dev"), (4, "dev"), (9, "dev"), (9, "dev")]
    assert story.by_turns([{"step": step, "split": split} for step, split in at]) == [
        0,
        2,
        5,
        3,
        1,
        6,
        4,
    ]


def test_an_answer_is_marked_up_only_once(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = Recorded(run)
    recorded.update()
    first = story.page_data([recorded])
    monkeypatch.setattr(samples, "shown", lambda record: pytest.fail("marked up again"))
    assert story.page_data([recorded]) == first


def test_the_commands(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "page.html"
    assert cli.main(["report", str(run), "--out", str(out)]) == 0
    assert str(out) in capsys.readouterr().out
    assert data_of(out.read_text())["runs"][0]["name"] == "made-up-0"
    assert cli.main(["report", str(run)]) == 0
    assert (run / "report.html").read_text() == out.read_text()


def test_the_page_of_several_runs_is_written_next_to_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        fake_run.write(tmp_path / "runs" / name, steps=2)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["report", "runs/a", str(tmp_path / "runs" / "b")]) == 0
    assert f"wrote {tmp_path / 'runs' / 'report-a-b.html'} " in capsys.readouterr().out
    assert not (tmp_path / "runs" / "report.html").exists(), "that is the page of all runs"
    assert cli.main(["report", "runs"]) == 0
    assert (tmp_path / "runs" / "report.html").exists()


def test_the_page_of_several_runs_has_a_name_of_bounded_length(tmp_path: Path) -> None:
    one, two, three = (tmp_path / f"{'x' * 100}-{seed}" for seed in range(3))
    assert default_page([one]) == one / "report.html"
    assert default_page([one, one]) == one / "report.html", "the same run twice"
    pages = {default_page(pair) for pair in ([one, two], [one, three], [two, three])}
    assert len(pages) == 3, "different runs have different pages"
    assert all(page.parent == tmp_path and len(page.name) < 90 for page in pages)
    nested = default_page([tmp_path / "a" / "run", tmp_path / "b" / "run"])
    assert nested == tmp_path / "report-a-run-b-run.html"


# --- live


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """An empty folder and the address of its live page."""
    folder = tmp_path / "run"
    folder.mkdir()
    with Server(folder, "127.0.0.1", 0) as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{made.server_address[1]}"
        made.shutdown()
        thread.join()


def get(url: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    request = urllib.request.Request(
        url, headers={k.replace("_", "-"): v for k, v in headers.items()}
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), error.read()


def test_a_watched_run_is_updated_as_it_grows(server: tuple[Path, str]) -> None:
    folder, address = server
    assert b'<script id="data" type="application/json">null</script>' in get(address + "/")[2]
    assert "waiting for a run" in json.loads(get(address + "/data.json")[2])["waiting"]
    fake_run.write(folder, steps=10)
    status, headers, body = get(address + "/data.json")
    assert (status, json.loads(body)["runs"][0]["done"]) == (200, 10)
    assert get(address + "/data.json", If_None_Match=headers["ETag"])[0] == 304
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 10, "accur')
    assert get(address + "/data.json", If_None_Match=headers["ETag"])[0] == 304, (
        "a torn line is not there yet"
    )
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('acy": 0.5}\n')
    assert (
        json.loads(get(address + "/data.json", If_None_Match=headers["ETag"])[2])["runs"][0]["done"]
        == 11
    )
    rollouts = (folder / "rollouts.jsonl").read_text()
    (folder / "rollouts.jsonl").write_text(rollouts + "{}\n")
    assert "rollouts.jsonl" in json.loads(get(address + "/data.json")[2])["error"]
    (folder / "rollouts.jsonl").write_text(rollouts)
    assert json.loads(get(address + "/data.json")[2])["runs"][0]["done"] == 11, "repaired"
    with (folder / "metrics.jsonl").open("a") as file:
        file.write("damaged\n{}\n")
    assert "metrics.jsonl" in json.loads(get(address + "/data.json")[2])["error"]


def test_what_cannot_be_shown_is_a_line_on_the_page_and_in_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fake_run.write(tmp_path / "run", steps=2)
    said: list[str] = []
    live = Live(folder, said.append)

    def broken(*args: Any) -> Any:
        raise ZeroDivisionError("no\nsteps")

    with monkeypatch.context() as patched:
        patched.setattr(story, "curves", broken)
        for _ in range(2):
            error = json.loads(live.data()[0])["error"]
    assert error == f"the records in {folder} cannot be shown: ZeroDivisionError: no steps"
    assert said == [error], "once"
    assert json.loads(live.data()[0])["runs"][0]["done"] == 2
    (folder / "metrics.jsonl").write_text("damaged\n{}\n")
    assert "metrics.jsonl" in json.loads(live.data()[0])["error"]
    assert len(said) == 2


def test_only_this_machine_s_names_are_answered_and_only_this_page(
    server: tuple[Path, str],
) -> None:
    _, address = server
    assert get(address + "/", Host="localhost:80")[0] == 200
    for host in ("evil.example", "[::1"):
        assert get(address + "/data.json", Host=host)[0] == 403
    assert get(address + "/data.json", Origin="http://evil.example")[0] == 403
    assert get(address + "/../config.toml")[0] == 404


def test_the_live_page_has_a_content_security_policy(server: tuple[Path, str]) -> None:
    _, headers, body = get(server[1] + "/")
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    for text in re.findall(rb"<(?:script|style)>(.*?)</(?:script|style)>", body, re.DOTALL):
        assert f"'sha256-{b64encode(hashlib.sha256(text).digest()).decode()}'" in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert get(server[1] + "/data.json")[1]["Content-Security-Policy"] == policy


def test_the_live_page_limits_connections_and_time(server: tuple[Path, str]) -> None:
    port = int(server[1].rpartition(":")[2])
    idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(CONNECTIONS)]
    with pytest.raises(OSError):
        get(server[1] + "/")
    for connection in idle:
        connection.close()
    assert Handler.timeout == PATIENCE


def test_the_live_page_prints_its_address_and_who_can_see_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        Server, "serve_forever", lambda self: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    hosts = {"127.0.0.1": ("http://127.0.0.1:", False), "0.0.0.0": ("http://127.0.0.1:", True)}
    for host, (address, open_to_all) in (
        hosts | ({"::1": ("http://[::1]:", False)} if has_ipv6() else {})
    ).items():
        assert cli.main(["watch", str(tmp_path), "--port", "0", "--host", host]) == 0
        said = capsys.readouterr().out
        assert address in said
        assert ("there is no password" in said) == open_to_all
    assert cli.main(["watch", str(tmp_path), "--host", "no.such.host.invalid"]) == 2
    said = capsys.readouterr().err
    assert "or --host" in said
    assert said.count("\n") == 1


def test_a_missing_folder_or_a_used_port_is_an_error(
    server: tuple[Path, str], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"no folder .*nothing"):
        Server(tmp_path / "nothing", "127.0.0.1", 0)
    port = int(server[1].rpartition(":")[2])
    with pytest.raises(UserError, match=f"cannot listen on 127.0.0.1 port {port}"):
        Server(tmp_path, "127.0.0.1", port)


# ---- records from elsewhere

ODD = {
    "nan": float("nan"),
    "infinite": float("inf"),
    "huge": 10**400,
    "long": int("9" * 4000),
    "text": "7",
    "object": {"a": 1},
    "list": [1],
    "null": None,
}


def odd_run(folder: Path, odd: Any) -> Path:
    """A run whose records hold `odd` in place of every number that may be missing."""
    fake_run.write(folder, steps=4, every=2)
    for name, needed in (
        ("metrics.jsonl", {"step"}),
        ("eval.jsonl", {"step", "split", "n", "pass@1", "pass@1/low", "pass@1/high"}),
    ):
        lines = [json.loads(line) for line in (folder / name).read_text().splitlines()]
        changed = [{k: v if k in needed else odd for k, v in line.items()} for line in lines]
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in changed))
    return folder


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD.keys())
def test_values_that_are_not_numbers_count_as_missing(odd: Any, tmp_path: Path) -> None:
    folder = odd_run(tmp_path / "run", odd)
    write_report([folder], tmp_path / "page.html")
    told = data_of((tmp_path / "page.html").read_text())["runs"][0]
    assert told["headline"]["minutes"] is None
    assert told["headline"]["after"]["value"] == pytest.approx(0.8)
    body, _ = Live(folder).data()
    assert json.loads(body)["runs"][0]["headline"] == told["headline"]


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD.keys())
def test_an_odd_rollout_is_shown_or_named(
    odd: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line that cannot belong to a run is an error of one line, never a traceback."""
    fields = [{"numbers": odd, "target": odd}, {"numbers": [odd], "target": 3}, {"a": odd, "b": 2}]
    changes: list[dict[str, Any]] = [{"fields": field} for field in fields]
    changes += [{"reward": odd}, {"response_length": odd}, {"parts": {"answer": odd}}]
    for number, change in enumerate(changes):
        folder = fake_run.write(tmp_path / f"run{number}", steps=2, every=1)
        line = fake_run.rollout(2, "test", 0, fake_run.SEARCH, **change)
        with (folder / "rollouts.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        if "fields" in change:
            write_report([folder], tmp_path / f"{number}.html")
        elif cli.main(["report", str(folder)]):
            assert "is not a run's record" in capsys.readouterr().err


def test_a_billion_problems_are_counted_up_to_a_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fake_run.write(tmp_path / "run", steps=2, every=1)
    text = (folder / "eval.jsonl").read_text().replace('"n": 64', '"n": 1000000000')
    (folder / "eval.jsonl").write_text(text)
    asked: list[int] = []
    monkeypatch.setattr(story, "shortcut", lambda task, problems: asked.append(problems) or {})
    write_report([folder], tmp_path / "page.html")
    assert asked == [story.CEILING]


@pytest.mark.parametrize("odd", [float("nan"), 10**400, "7", {}, None])
def test_a_grid_or_a_baseline_of_anything_is_named(odd: Any, tmp_path: Path) -> None:
    folder = fake_run.write(tmp_path / "grid" / "grpo-0", steps=2)
    baseline = {"value": odd, "low": 0.4, "high": 0.6, "tokens": 160.0}
    (folder / "baselines.json").write_text(json.dumps({"baselines": {"base": baseline}}))
    with pytest.raises(UserError, match=r"baselines\.json is not what"):
        write_report([folder], tmp_path / "page.html")


def test_a_run_of_a_version_with_fewer_options_is_shown(tmp_path: Path) -> None:
    folder = fake_run.write(tmp_path / "run", steps=2)
    text = (folder / "config.toml").read_text()
    older = re.sub(r"\n\[grading\][^\[]*", "\n", text)
    older = "".join(line for line in older.splitlines(True) if not line.startswith("too_long"))
    assert "grading" not in older
    assert older != text
    (folder / "config.toml").write_text(older)
    (folder / "asked.toml").unlink(missing_ok=True)
    assert write_report([folder], tmp_path / "page.html")


def test_every_alarm_works_without_any_column() -> None:
    """A user's algorithm may not record what the bundled ones record."""
    keys = ["step", "reward", "accuracy", "entropy", "flat_groups", "skipped", "mismatch"]
    keys += ["truncated", "response_length", "reward_errors", "samples/generated", "loss"]
    whole = {key: [0.5] * 20 for key in keys}
    for key in keys:
        alarms.find_alarms({k: v for k, v in whole.items() if k != key})
        alarms.find_alarms({key: whole[key]})
    alarms.find_alarms({})


def test_a_run_of_ones_own_algorithm_and_task_is_reported_watched_and_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The repository's own examples, trained for two real steps."""
    examples = Path(__file__).parent.parent / "examples"
    folder = tmp_path / "own"
    settings = {
        "--algorithm": f"{examples / 'my_algorithm.py'}:RAFT",
        "--task": f"{examples / 'my_task.py'}:BeatTheSum",
        "--steps": 2,
        "--rollout.prompts": 8,
        "--rollout.samples": 8,
        "--rollout.max_tokens": 60,
        "--eval.every": 1,
        "--eval.problems": 4,
        "--eval.test_problems": 4,
        "--eval.max_tokens": 60,
        "--model.threads": 1,
        "--run.dir": folder,
    }
    arguments = [str(part) for pair in settings.items() for part in pair]
    assert cli.main(["train", *arguments]) == 0
    assert cli.main(["report", str(folder)]) == 0
    (run,) = data_of((folder / "report.html").read_text())["runs"]
    assert run["finished"]
    assert run["algorithm"]["name"] == "RAFT (my_algorithm.py)"
    assert run["task"]["name"] == "BeatTheSum (my_task.py)"
    assert f"{examples / 'my_algorithm.py'}:RAFT" in run["config"], "the whole path"
    assert [alarm["title"] for alarm in run["alarms"] if alarm["title"] == "A check failed"] == []
    assert "malformed" not in run["curves"]["steps"], "its reward has no part for the form"
    assert "imitated" in run["curves"]["steps"]
    assert json.loads(Live(folder).data()[0])["runs"][0]["headline"] == run["headline"]

    fake_run.write(tmp_path / "other", steps=2, every=1)
    page = tmp_path / "page.html"
    assert cli.main(["report", str(folder), str(tmp_path / "other"), "--out", str(page)]) == 0
    compared = data_of(page.read_text())["comparison"]
    assert compared["comparable"] == "no"
    assert "differ in the task (" in compared["reason"]
    keys = {row["key"] for row in compared["settings"]}
    assert {"task.name", "algorithm.name", "rollout.samples"} <= keys
