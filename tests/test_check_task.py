"""check-task passes sound tasks, and catches every way of being unsound that it promises to catch."""

from __future__ import annotations

import itertools
import random
import re
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel, ConfigDict

from tinyzero.errors import UserError
from tinyzero.grading.answers import extract_answer
from tinyzero.registry import load_object, validate
from tinyzero.tasks import check as checker
from tinyzero.tasks import load_task
from tinyzero.tasks.base import Task
from tinyzero.tasks.check import check_task
from tinyzero.types import Problem, Prompt, Reward, Split

EXAMPLE = str(Path(__file__).parent.parent / "examples" / "my_task.py")


class Sound:
    """Say the number again. Every broken task below is this one with one thing wrong."""

    def problem(self, split: Split, index: int) -> Problem:
        n = 3 * index + ("train", "dev", "test").index(split)
        return Problem(str(n), {"n": n}, split, str(n))

    def prompt(self, problem: Problem, template: str) -> Prompt:
        if template != "base":
            raise UserError(f"no template {template}")
        return f"Say {problem.fields['n']}."

    def reward(self, problem: Problem, text: str) -> Reward:
        right = extract_answer(text) == str(problem.fields["n"])
        return Reward(float(right), {"answer": float(right)})

    def solution(self, problem: Problem) -> str:
        return f"</think><answer>{problem.fields['n']}</answer>"


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("countdown", {}),
        ("countdown", {"operators": "-", "format_reward": 0.9}),
        ("multiplication", {}),
        ("multiplication", {"max_digits": 9}),
        (f"{EXAMPLE}:BeatTheSum", {}),
    ],
)
def test_the_tasks_that_ship_pass(name: str, options: dict[str, Any]) -> None:
    task = load_task(name, options)
    assert isinstance(task, Task)
    assert check_task(task, problems=12) == []


def test_a_sound_task_passes() -> None:
    assert check_task(Sound(), problems=20) == []


def raising(*arguments: object) -> Any:
    raise ValueError("oops")


def forever(self: Sound, problem: Problem, text: str) -> Reward:
    while len(text) > 10_000:
        pass
    return Sound.reward(self, problem, text)


def deaf(self: Sound, problem: Problem, text: str) -> Reward:
    while len(text) > 10_000:
        try:
            time.sleep(0.01)
        except Exception:  # as broad as a task's author may be
            continue
    return Sound.reward(self, problem, text)


def backtracking(self: Sound, problem: Problem, text: str) -> Reward:
    re.search(r"<answer>((-+)+)</answer>", text)
    return Sound.reward(self, problem, text)


def at_most_full_marks(limit: float) -> Callable[..., Reward]:
    return lambda self, problem, text: Reward(min(limit, Sound.reward(self, problem, text).value))


counter = itertools.count()
stream = random.Random(0)

BROKEN: list[tuple[str, dict[str, Any], str]] = [
    (
        "a problem that raises",
        {"problem": raising},
        r"problem\('train', 0\) raises ValueError: 'oops'",
    ),
    (
        "a problem that is none",
        {"problem": lambda *_: None},
        r"problem\('train', 0\) gives None instead of a Problem",
    ),
    (
        "an endless problem",
        {"problem": lambda self, split, index: next(i for i in itertools.count() if i < 0)},
        r"problem\('train', 0\) raises TimeoutError",
    ),
    (
        "a key that is no text",
        {"problem": lambda self, split, index: Problem(str(index), {"n": index}, split, [index])},  # type: ignore[arg-type]
        r"instead of a Problem with id and key",
    ),
    (
        "the wrong split",
        {
            "problem": lambda self, split, index: Problem(
                str(index), {"n": index}, "train", str(index)
            )
        },
        r"problem\('dev', 0\) says that its split is 'train'",
    ),
    (
        "problems from a hidden stream",
        {
            "problem": lambda self, split, index: Problem(
                f"{split}{(n := stream.random())}", {"n": n}, split, split
            )
        },
        r"problem\('test', 19\) was .* and, asked again, gives",
    ),
    (
        "problems that count calls",
        {
            "problem": lambda self, split, index: Problem(
                f"{split}{next(counter)}", {"n": index}, split, f"{split}{index}"
            )
        },
        r"asked again, gives",
    ),
    (
        "splits that share keys",
        {
            "problem": lambda self, split, index: Problem(
                f"{split}{index}", {"n": index}, split, str(index)
            )
        },
        r"key '0' is in the splits train and dev",
    ),
    (
        "splits that share ids",
        {
            "problem": lambda self, split, index: Problem(
                str(index), {"n": index}, split, f"{split}{index}"
            )
        },
        r"id '0' is in the splits train and dev",
    ),
    (
        "no prompt",
        {"prompt": lambda *_: ""},
        r"prompt of problem '0' gives '' instead of text or messages, in any",
    ),
    (
        "messages without content",
        {"prompt": lambda *_: [{"role": "user"}]},
        r"prompt of problem '0' gives \[\{'role'",
    ),
    (
        "a prompt that raises",
        {"prompt": raising},
        r"prompt of problem '0' in template 'compact' raises ValueError",
    ),
    (
        "a prompt under no template",
        {"prompt": lambda *_: (_ for _ in ()).throw(UserError("no"))},
        r"in any template",
    ),
    (
        "no solution",
        {"solution": lambda *_: None},
        r"solution of problem '0' gives None instead of text",
    ),
    (
        "a solution that raises",
        {"solution": raising},
        r"solution of problem '0' raises ValueError: 'oops'",
    ),
    (
        "a wrong solution",
        {"solution": lambda *_: "</think><answer>x</answer>"},
        r"own solution .*x.* of problem '0' gives",
    ),
    (
        "no full marks",
        {"reward": at_most_full_marks(0.5)},
        r"own solution .* gives Reward\(value=0.5",
    ),
    ("a reward that raises", {"reward": raising}, r"own solution .* raises ValueError: 'oops'"),
    (
        "a reward that is a number",
        {"reward": lambda *_: 1.0},
        r"own solution .* gives 1.0 instead of Reward",
    ),
    (
        "full marks for anything",
        {"reward": lambda *_: Reward(1.0)},
        r"reward of '' for problem '0' gives Reward\(value=1.0",
    ),
    (
        "full marks for the question",
        {"reward": lambda self, problem, text: Reward(float(str(problem.fields["n"]) in text))},
        r"reward of 'Say 0.' for problem '0' gives Reward\(value=1.0",
    ),
    (
        "a reward that trusts the answer",
        {
            "reward": lambda self, problem, text: Reward(
                float(int(extract_answer(text) or -1) == problem.fields["n"])
            )
        },
        r"reward of '</think><answer>hello</answer>' for problem '0' raises ValueError",
    ),
    (
        "a reward that exits",
        {
            "reward": lambda self, problem, text: (
                sys.exit() if "None" in text else Sound.reward(self, problem, text)
            )
        },
        r"reward of '</think><answer>None</answer>' for problem '0' raises SystemExit",
    ),
    (
        "a reward that is not a number",
        {
            "reward": lambda self, problem, text: Reward(
                Sound.reward(self, problem, text).value or float("nan")
            )
        },
        r"gives Reward\(value=nan",
    ),
    (
        "a part that is no number",
        {
            "reward": lambda self, problem, text: Reward(
                Sound.reward(self, problem, text).value, {"answer": "yes"}
            )
        },  # type: ignore[dict-item]
        r"own solution .* raises TypeError",
    ),
    (
        "an endless reward",
        {"reward": forever},
        r"reward of 'aaa.*\(1,000,002 characters\) for problem '0' took over 0.1 s",
    ),
    ("an endless reward that catches all", {"reward": deaf}, r"reward of 'aaa.* took over 0.1 s"),
    (
        "a pattern that backtracks",
        {"reward": backtracking},
        r"reward of '</think><answer>-----.* took over 0.1 s",
    ),
]


@pytest.mark.parametrize(
    ("broken", "failure"), [row[1:] for row in BROKEN], ids=[row[0] for row in BROKEN]
)
def test_a_broken_task_is_caught(
    broken: dict[str, Any], failure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checker, "MAX_SECONDS", 0.1)
    monkeypatch.setattr(checker, "MAX_WAIT", 0.5)
    failures = check_task(type("Broken", (Sound,), broken)(), problems=20)
    assert any(re.search(failure, line) for line in failures), failures
    assert all("\n" not in line and len(line) < 400 for line in failures)


def test_failures_of_one_kind_are_not_repeated_without_end() -> None:
    failures = check_task(type("Broken", (Sound,), {"solution": raising})(), problems=20)
    assert len(failures) == checker.SHOWN


def test_nothing_tried_is_nothing_shown() -> None:
    with pytest.raises(UserError, match="0 problems show nothing"):
        check_task(Sound(), problems=0)


def test_the_alarm_is_put_back() -> None:
    before = signal.getsignal(signal.SIGALRM)
    check_task(Sound(), problems=1)
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


# Naming tasks and anything else


def test_an_object_is_loaded_by_module_or_by_file(tmp_path: Path) -> None:
    assert load_object("fractions:Fraction")(1, 2) == 0.5
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "same.py").write_text("class Thing: value = 1")
    (tmp_path / "same.py").write_text("class Thing: value = 2")
    assert load_object(f"{tmp_path}/a/same.py:Thing").value == 1
    assert load_object(f"{tmp_path}/same.py:Thing").value == 2
    assert load_object(f"{tmp_path}/same.py:Thing") is load_object(f"{tmp_path}/same.py:Thing")


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("countdown", "'countdown' names nothing: write package.module:Name or path/file.py:Name"),
        ("fractions:", "names nothing"),
        (":Fraction", "names nothing"),
        ("fractions:Fraktion", r"fractions has no 'Fraktion': did you mean Fraction\?"),
        (
            "no.such.module:Name",
            "cannot import no.such.module: ModuleNotFoundError: No module named 'no'",
        ),
        ("no/such/file.py:Name", "no file no/such/file.py"),
    ],
)
def test_a_name_for_nothing_is_answered_in_one_line(reference: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_object(reference)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def f(:", "SyntaxError"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("import absent_", "absent_"),
    ],
)
def test_a_file_that_does_not_import_says_why_and_can_be_mended(
    tmp_path: Path, code: str, message: str
) -> None:
    path = tmp_path / "task.py"
    path.write_text(code)
    with pytest.raises(UserError, match=f"cannot import .*task.py: .*{message}"):
        load_object(f"{path}:Mine")
    path.write_text("Mine = 'a longer file, so that no stale byte code is taken for it'")
    assert load_object(f"{path}:Mine").startswith("a longer file")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("countdwn", {}, r"unknown task 'countdwn': did you mean countdown\?"),
        ("chess", {}, "unknown task 'chess': use one of countdown, multiplication"),
        (
            "fractions:Fraction",
            {},
            "task fractions:Fraction lacks problem, prompt, reward, solution",
        ),
        ("json:dumps", {}, "task json:dumps is function, not a class"),
        (f"{EXAMPLE}:BeatTheSum", {"digits": 3}, "takes no options: remove task.digits"),
        (f"{EXAMPLE}:BeatTheSun", {}, r"has no 'BeatTheSun': did you mean BeatTheSum\?"),
    ],
)
def test_what_is_no_task_is_answered_in_one_line(
    name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_task(name, options)
    assert "\n" not in str(caught.value)


class Odd(Sound):
    def problem(self, split: Split, index: int) -> Problem:
        return replace(super().problem(split, index), fields=None)  # type: ignore[arg-type]


class Numpy(Sound):
    def reward(self, problem: Problem, text: str) -> Reward:
        found = super().reward(problem, text)
        return Reward(np.float32(found.value), {"answer": np.float32(found.value)})  # type: ignore[arg-type]


def test_fields_that_are_no_mapping_are_a_failure_and_no_crash() -> None:
    assert any(
        "fields of problem('train', 0) cannot be written" in line for line in check_task(Odd(), 2)
    )


def test_numbers_of_numpy_are_numbers() -> None:
    assert check_task(Numpy(), 2) == []


def test_a_task_that_needs_arguments_is_told_how_to_get_them(tmp_path: Path) -> None:
    (tmp_path / "task.py").write_text(
        "class Needy:\n    problem = prompt = reward = solution = print\n    def __init__(self, size): pass\n"
    )
    with pytest.raises(
        UserError, match=r"cannot be built without arguments \(give its class an Options.*'size'"
    ):
        load_task(f"{tmp_path}/task.py:Needy")


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    learning_rate: float = 1.0


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    inner: Inner = Inner()
    name: str


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "run.name is missing: give it a value"),
        ({"name": 3}, "run.name is 3: input should be a valid string"),
        ({"name": "x", "nme": 1}, r"unknown key run.nme: did you mean name\?"),
        (
            {"name": "x", "inner": {"learning_rat": 1}},
            r"unknown key run.inner.learning_rat: did you mean learning_rate\?",
        ),
        ({"name": "x", "zzz": 1}, "unknown key run.zzz: use one of inner, name"),
        ({"name": 3, "zzz": 1}, r"\(and 1 more\)"),
    ],
)
def test_wrong_values_are_answered_in_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        validate(Outer, values, "run")
    assert "\n" not in str(caught.value)


def test_right_values_become_the_model() -> None:
    assert validate(Outer, {"name": "x", "inner": {"learning_rate": "0.5"}}, "run") == Outer(
        name="x", inner=Inner(learning_rate=0.5)
    )
