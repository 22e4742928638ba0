"""check-task passes sound tasks, and catches every kind of unsound task that it promises to."""

from __future__ import annotations

import ast
import contextlib
import itertools
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel, ConfigDict

from tinyzero import cli
from tinyzero.errors import UserError
from tinyzero.grading import evaluate_expression, extract_answer
from tinyzero.registry import load_object, validate
from tinyzero.tasks import load_task
from tinyzero.tasks.base import Task
from tinyzero.tasks.check import check_task, examine
from tinyzero.tasks.check.wrapping import unwrap
from tinyzero.types import Problem, Prompt, Reward, Split

EXAMPLE = str(Path(__file__).parent.parent / "examples" / "my_task.py")


class Sound:
    """Repeat the number. Every broken task below is this task with one mistake."""

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
        ("countdown", {"answer_only": True, "min_count": 2}),
        ("sums", {}),
        ("sums", {"max_number": 9999, "operators": "*"}),
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
        except Exception:  # as broad as authors of tasks write it
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
        "a problem that is not a Problem",
        {"problem": lambda *_: None},
        r"problem\('train', 0\) gives None instead of a Problem",
    ),
    (
        "an endless problem",
        {"problem": lambda self, split, index: next(i for i in itertools.count() if i < 0)},
        r"problem\('train', 0\) raises TimeoutError",
    ),
    (
        "a key that is not text",
        {
            "problem": lambda self, split, index: Problem(
                str(index),
                {"n": index},
                split,
                [index],  # type: ignore[arg-type]
            )
        },
        r"problem\('train', 0\) gives the id '0' and the key \[0\] .* both must be text",
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
        "a reward that is text",
        {"reward": lambda *_: "1.0"},
        r"own solution .* gives '1.0' instead of Reward",
    ),
    (
        "full marks for anything",
        {"reward": lambda *_: Reward(1.0)},
        r"pays an empty form: reward of '' for problem '0' is 1 \(15 of 15 problems\): give 0 if",
    ),
    (
        "full marks for the question",
        {"reward": lambda self, problem, text: Reward(float(str(problem.fields["n"]) in text))},
        r"pays the echoed prompt: reward of 'Say 0.' for problem '0' is 1 ",
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
        "a part that is not a number",
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
        r"reward of 'a' \* 1_000_000 for problem '0' took over 0.1 s",
    ),
    (
        "an endless reward that catches all",
        {"reward": deaf},
        r"reward of 'a' \* 1_000_000 .* took over 0.1 s",
    ),
    (
        "a pattern that backtracks",
        {"reward": backtracking},
        r"reward of '</think><answer>' \+ '-' \* 1_000_000 .* took over 0.1 s",
    ),
]


@pytest.mark.parametrize(
    ("broken", "failure"), [row[1:] for row in BROKEN], ids=[row[0] for row in BROKEN]
)
def test_a_broken_task_is_caught(broken: dict[str, Any], failure: str) -> None:
    failures = examine(type("Broken", (Sound,), broken)(), 20, seconds=0.1, wait=0.5).failures
    assert any(re.search(failure, line) for line in failures), failures
    assert all("\n" not in line and len(line) < 400 for line in failures)


def test_a_failure_on_every_problem_is_one_line() -> None:
    failures = check_task(type("Broken", (Sound,), {"solution": raising})(), problems=20)
    assert failures == [
        "solution of problem '0' raises ValueError: 'oops' instead of text (60 of 60 problems): "
        "return a right completion, or raise NoSolution"
    ]


def test_no_problems_are_rejected() -> None:
    with pytest.raises(UserError, match="problems is 0: try at least 1 problem"):
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
def test_a_wrong_reference_is_answered_in_one_line(reference: str, message: str) -> None:
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
def test_a_file_that_does_not_import_says_why_and_can_be_fixed(
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
        ("chess", {}, "unknown task 'chess': use one of countdown, judge, make-pass"),
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
def test_a_reference_that_is_not_a_task_is_answered_in_one_line(
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
        value: Any = np.float32(found.value)
        return Reward(value, {"answer": value})


def test_fields_that_are_not_a_mapping_are_a_failure_and_not_a_crash() -> None:
    assert any(
        "fields of problem('train', 0) cannot be written" in line for line in check_task(Odd(), 2)
    )


def test_numbers_of_numpy_are_numbers() -> None:
    assert check_task(Numpy(), 2) == []


def test_a_task_that_needs_arguments_is_told_how_to_get_them(tmp_path: Path) -> None:
    (tmp_path / "task.py").write_text(
        "class Needy:\n"
        "    problem = prompt = reward = solution = print\n"
        "    def __init__(self, size): pass\n"
    )
    with pytest.raises(
        UserError, match=r"cannot be built without arguments \(give its class an Options.*'size'"
    ):
        load_task(f"{tmp_path}/task.py:Needy")


def test_a_missing_file_of_an_option_is_named_in_plain_words(tmp_path: Path) -> None:
    (tmp_path / "task.py").write_text(
        "from pydantic import BaseModel\n"
        "class Options(BaseModel):\n    file: str\n"
        "class Rows:\n"
        "    problem = prompt = reward = solution = print\n"
        "    Options = Options\n"
        "    def __init__(self, options): open(options.file)\n"
    )
    with pytest.raises(UserError) as caught:
        load_task(f"{tmp_path}/task.py:Rows", {"file": "nope.jsonl"})
    assert str(caught.value).endswith("task.py:Rows cannot be built: no such file: nope.jsonl")

    with pytest.raises(UserError, match=r"cannot be built: .*: Is a directory$"):
        load_task(f"{tmp_path}/task.py:Rows", {"file": str(tmp_path)})


def test_a_file_without_the_name_of_a_class_is_answered_with_the_class(tmp_path: Path) -> None:
    path = tmp_path / "dates.py"
    path.write_text(
        "raise SystemExit('it must not run')\n"
        "class Options: pass\n"
        "class Dates:\n    def problem(self, split, index): ...\n"
    )
    with pytest.raises(UserError, match=r"name the class too: \S*dates\.py:Dates$"):
        load_task(str(path))

    path.write_text("class Broken(:\n")
    with pytest.raises(UserError, match=r"name the class too: \S*dates\.py:NAME$"):
        load_task(str(path))


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


# Graders that can be gamed


def tagged(text: str) -> str:
    return extract_answer(text) or ""


class Made:
    """Make the target from the numbers, each used once. The graders below are typical ones."""

    def problem(self, split: Split, index: int) -> Problem:
        rng = random.Random(f"{split}{index}")
        a, b, c = (rng.randint(3, 60) for _ in range(3))
        fields = {"numbers": [a, b, c], "target": a * b - c}
        return Problem(f"{split}{a},{b},{c}", fields, split, f"{split}{a},{b},{c}")

    def prompt(self, problem: Problem, template: str) -> Prompt:
        return f"Make {problem.fields['target']} from {problem.fields['numbers']}."

    def pays(self, problem: Problem, answer: str) -> bool:
        found = evaluate_expression(answer)
        return found is not None and found[0] == problem.fields["target"]

    def once(self, problem: Problem, answer: str) -> bool:
        found = evaluate_expression(answer)
        numbers = sorted(problem.fields["numbers"])
        return self.pays(problem, answer) and found is not None and sorted(found[1]) == numbers

    def reward(self, problem: Problem, text: str) -> Reward:
        return Reward(float(self.once(problem, tagged(text))))

    def solution(self, problem: Problem) -> str:
        a, b, c = problem.fields["numbers"]
        return f"</think>\n<answer>{a}*{b}-{c}</answer>"


def any_tag(self: Made, problem: Problem, text: str) -> Reward:
    guesses = re.findall("<answer>(.*?)</answer>", text)
    return Reward(float(any(self.once(problem, guess) for guess in guesses)))


def any_line(self: Made, problem: Problem, text: str) -> Reward:
    return Reward(float(any(self.once(problem, guess) for guess in tagged(text).split("\n"))))


def anywhere(self: Made, problem: Problem, text: str) -> Reward:
    found = re.search(r"[\d(][\d+*/() -]*[\d)]", text.replace("<answer>", " ").strip())
    return Reward(float(found is not None and self.once(problem, found[0])))


def with_eval(self: Made, problem: Problem, text: str) -> Reward:
    answer = tagged(text)
    if sorted(re.findall(r"\d+", answer)) != sorted(map(str, problem.fields["numbers"])):
        return Reward(0.0)  # so that only what looks right is run
    try:
        return Reward(float(eval(answer, {"__builtins__": None}) == problem.fields["target"]))
    except Exception:
        return Reward(0.0)


def with_exec(self: Made, problem: Problem, text: str) -> Reward:
    try:
        exec(compile(ast.parse(f"x = {tagged(text)}"), "answer", "exec"), {"__builtins__": {}})
    except BaseException:
        return Reward(0.0)
    return Made.reward(self, problem, text)


def opens(self: Made, problem: Problem, text: str) -> Reward:
    with contextlib.suppress(OSError, ValueError), open(tagged(text), "a") as file:
        file.write("spoilt")
    return Made.reward(self, problem, text)


def spawns(self: Made, problem: Problem, text: str) -> Reward:
    with contextlib.suppress(OSError, ValueError):
        subprocess.run(["/no/such/program", tagged(text)], check=False)
    return Made.reward(self, problem, text)


def connects(self: Made, problem: Problem, text: str) -> Reward:
    with contextlib.suppress(OSError), socket.socket() as made:
        made.settimeout(0.01)
        made.connect(("127.0.0.1", 9))
    return Made.reward(self, problem, text)


def leaves(self: Made, problem: Problem, text: str) -> Reward:
    if "nan" in text:
        os._exit(0)
    return Made.reward(self, problem, text)


def forks(self: Made, problem: Problem, text: str) -> Reward:
    if "nan" in text:
        os.fork()
    return Made.reward(self, problem, text)


GAMED: list[tuple[str, Callable[..., Reward], str]] = [
    (
        "each number once is forgotten",
        lambda self, problem, text: Reward(float(self.pays(problem, tagged(text)))),
        r"pays the field target: reward of '</think>\\n<answer>\d+</answer>' .* of 9 problems",
    ),
    ("any of many tags", any_tag, "pays twenty wrapped answers, one of them right"),
    ("any of many lines", any_line, "pays twenty answers, one of them right"),
    (
        "an expression outside the tags",
        anywhere,
        "pays answer outside the wrapper.*; "
        "if this is intended, allow 'answer outside the wrapper'",
    ),
    ("eval", with_eval, r"runs the model's text: compile .*test_check_task.py, line \d+\)"),
    ("exec of a tree", with_exec, "runs the model's text: exec "),
    ("a file of the model's", opens, "opens or changes files, named by the model's text: open"),
    ("a process", spawns, "starts or stops processes.*subprocess.Popen"),
    ("a connection", connects, "uses the network: socket.connect"),
    ("an exit", leaves, "reward of .*nan.* ended the process it runs in"),
    ("a fork", forks, "starts or stops processes: os.fork"),
]


@pytest.mark.parametrize(("reward", "line"), [r[1:] for r in GAMED], ids=[r[0] for r in GAMED])
def test_a_grader_that_can_be_gamed_is_caught(
    reward: Callable[..., Reward], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    failures = check_task(type("Gamed", (Made,), {"reward": reward})(), problems=3, seconds=0.2)
    assert any(re.search(line, failure) for failure in failures), failures
    assert list(tmp_path.iterdir()) == [], "a file that an attack names is never written"


class Puzzle:
    """Reach a target with each number once: like Countdown, but written independently."""

    counts: Callable[[list[int], list[int]], bool] = staticmethod(lambda used, given: used == given)

    def problem(self, split: Split, index: int) -> Problem:
        numbers = sorted([2 + index % 7, 3 + index % 5, 11 + index])
        offset = {"train": 0, "dev": 1000, "test": 2000}[split]
        fields = {"numbers": numbers, "target": sum(numbers), "offset": offset + index}
        return Problem(f"{split}:{index}", fields, split, f"{split}:{index}")

    def prompt(self, problem: Problem, template: str) -> str:
        return f"{problem.fields['target']} from {problem.fields['numbers']}"

    def reward(self, problem: Problem, text: str) -> bool:
        found = evaluate_expression(extract_answer(text) or "")
        given = list(problem.fields["numbers"])
        return bool(
            found and found[0] == problem.fields["target"] and self.counts(sorted(found[1]), given)
        )

    def solution(self, problem: Problem) -> str:
        return f"</think>\n<answer>{'+'.join(map(str, problem.fields['numbers']))}</answer>"


@pytest.mark.parametrize(
    "counts",
    [
        lambda used, given: set(used) == set(given),
        lambda used, given: set(used) <= set(given),
        lambda used, given: set(given) <= set(used),
    ],
)
def test_a_grader_that_forgets_to_count_is_caught(counts: Any) -> None:
    forgetful = type("Forgetful", (Puzzle,), {"counts": staticmethod(counts)})
    failures = check_task(forgetful(), problems=5)
    assert any("pays given numbers used again" in line for line in failures), failures
    assert not check_task(Puzzle(), problems=5)


def test_memory_is_limited() -> None:
    def reward(self: Made, problem: Problem, text: str) -> Reward:
        return (
            Reward(float(len(bytearray(20 << 30)))) if "nan" in text else base(self, problem, text)
        )

    base = Made.reward
    failures = check_task(type("Greedy", (Made,), {"reward": reward})(), problems=2)
    assert any("raises MemoryError" in line for line in failures), failures


# Sound tasks of other kinds


class Plain(Sound):
    """The answer is the whole text, and only the exact text is rewarded."""

    def answer(self, problem: Problem) -> str:
        return str(problem.fields["n"])

    def reward(self, problem: Problem, text: str) -> Reward:
        return Reward(float(text.strip() == self.answer(problem)))

    def solution(self, problem: Problem) -> str:
        return self.answer(problem)


class Addition(Plain):
    def problem(self, split: Split, index: int) -> Problem:
        n = 3 * index + ("train", "dev", "test").index(split)
        return Problem(str(n), {"a": n, "b": n % 7}, split, str(n))

    def prompt(self, problem: Problem, template: str) -> Prompt:
        return f"{problem.fields['a']}+{problem.fields['b']}="

    def answer(self, problem: Problem) -> str:
        return str(problem.fields["a"] + problem.fields["b"])


class Choice(Addition):
    def prompt(self, problem: Problem, template: str) -> Prompt:
        return [{"role": "user", "content": f"Which of A, B, C and D is {problem.id}?"}]

    def answer(self, problem: Problem) -> str:
        return "ABCD"[problem.fields["a"] * 7 % 4]


class Boxed(Addition):
    stop = ()

    def reward(self, problem: Problem, text: str) -> Reward:
        found = re.fullmatch(r"[^\\]*\\boxed\{(\d+)\}", text)
        return Reward(float(found is not None and found[1] == self.answer(problem)))

    def solution(self, problem: Problem) -> str:
        return f"It is {problem.id}.\n\\boxed{{{self.answer(problem)}}}"


class LineEnd(Addition):
    stop = ("\n",)

    def reward(self, problem: Problem, text: str) -> Reward:
        return Reward(float(text.split("\n")[0] == self.answer(problem)))

    def solution(self, problem: Problem) -> str:
        return f"{self.answer(problem)}\n"


class Lenient(Plain):
    allowed_attacks: tuple[str, ...] = ()

    def reward(self, problem: Problem, text: str) -> Reward:
        return Reward(float((re.findall(r"-?\d+", text) or [""])[-1] == self.answer(problem)))


class Reader(Plain):
    """Reads its data once, and imports a module on the first call."""

    known: str = ""

    def reward(self, problem: Problem, text: str) -> Reward:
        import wave  # noqa: F401

        self.known = self.known or Path(EXAMPLE).with_name("my_task.py").read_text()
        return super().reward(problem, text)


class Literal(Plain):
    """Parses the answer as a literal, which does not run it."""

    def reward(self, problem: Problem, text: str) -> Reward:
        try:
            found = ast.literal_eval(text.strip()) if len(text) < 20 else None
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            return Reward(0.0)
        return Reward(float(type(found) is int and found == problem.fields["n"]))


@pytest.mark.parametrize("task", [Made, Plain, Addition, Choice, Boxed, LineEnd, Reader, Literal])
def test_sound_tasks_raise_no_alarm(task: Callable[[], Task]) -> None:
    assert check_task(task(), problems=4) == []


def test_a_finding_that_the_author_allows_is_not_a_failure() -> None:
    failures = check_task(Lenient(), problems=4)
    asked = {name for line in failures for name in re.findall("allow '(.*)'", line)}
    assert "junk around the answer" in asked
    assert "wrong then right" in asked
    assert all("; if this is intended" in line or "the echoed prompt" in line for line in failures)

    class Allows(Lenient):
        allowed_attacks = ("junk around the answer",)

    found = examine(Allows(), problems=4, allow=["wrong then right"])
    assert found.allowed == ["junk around the answer", "wrong then right"]
    assert all("the echoed prompt" in line for line in found.failures)


def test_an_unknown_name_to_allow_is_rejected() -> None:
    with pytest.raises(UserError, match="'guessing' cannot be allowed"):
        check_task(Plain(), allow=["guessing"])


def test_the_tasks_own_nonsense_is_tried() -> None:
    class Odd(Plain):
        def nonsense(self, problem: Problem) -> list[str]:
            return ["xyzzy"]

        def reward(self, problem: Problem, text: str) -> Reward:
            return Reward(1.0) if text == "xyzzy" else super().reward(problem, text)

    assert [line for line in check_task(Odd(), problems=2) if "own nonsense" in line]


@pytest.mark.parametrize(
    ("solutions", "wrapping", "answers"),
    [
        (["It is 13.", "It is 18."], ("It is ", "."), ["13", "18"]),
        (["x</think>\n<answer>1</answer>"] * 2, ("x</think>\n<answer>", "</answer>"), ["1", "1"]),
        (["3+4\n#### 7", "5+6\n#### 11"], ("\n#### ", ""), ["7", "11"]),
        (["so \\boxed{\\frac{1}{2}}."], ("so \\boxed{", "}."), ["\\frac{1}{2}"]),
        (
            ["```python\nf(1)\n```", "```python\ng()\n```"],
            ("```python\n", "\n```"),
            ["f(1)", "g()"],
        ),
        (["cat", "dog"], ("", ""), ["cat", "dog"]),
        (["12\n", "130\n"], ("", "\n"), ["12", "130"]),
    ],
)
def test_the_wrapping_is_found_in_the_solutions(
    solutions: list[str], wrapping: tuple[str, str], answers: list[str]
) -> None:
    shared, _, found = unwrap(solutions)
    assert (shared, found) == (wrapping, answers)


# Reward functions of other trainers


ROWS = [
    {"prompt": f"What is {n} and {n + 30}?", "answer": str(2 * n + 30), "source": "sums"}
    for n in range(1, 7)
]
TRL = """
import re

def good(prompts, completions, answer, **kwargs):
    found = [re.fullmatch(r"[^<]*<answer>(\\d+)</answer>", text) for text in completions]
    return [2.0 * (f is not None and f[1] == a) for f, a in zip(found, answer)]

def bad(completions, answer, **kwargs):
    return [float(a in text) for text, a in zip(completions, answer)]

def chat(completions, answer):
    return [float(c[0]["content"] == a) for c, a in zip(completions, answer)]

def needy(completions, level, **kwargs):
    return [0.0 for _ in completions]

def never(completions, answer, **kwargs):
    return [0.0 for _ in completions]

def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    return {"score": float(solution_str.strip() == f"#### {ground_truth}"), "seen": data_source}

def bad_score(data_source, solution_str, ground_truth, extra_info=None):
    return float(str(eval(re.findall(r"[-+\\d ]+", solution_str + " 0")[0])) == ground_truth)

def strange(a, b):
    return 0
"""


def check_function(
    folder: Path, name: str, rows: Sequence[Mapping[str, object]], *more: str
) -> int:
    (folder / "mine.py").write_text(TRL)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["check-task", f"{folder}/mine.py:{name}", "--data", f"{folder}/rows.jsonl"]
    return cli.main([*command, *more])


MESSAGES = [{**row, "prompt": [{"role": "user", "content": row["prompt"]}]} for row in ROWS]
VERL = [
    {"prompt": row["prompt"], "reward_model": {"ground_truth": row["answer"]}} for row in MESSAGES
]


@pytest.mark.parametrize(
    ("name", "rows", "code", "said"),
    [
        ("good", ROWS, 0, "every check passed"),
        ("bad", ROWS, 1, "pays twenty answers, one of them right"),
        ("chat", MESSAGES, 0, "attacks on 6 problems"),
        ("never", ROWS, 1, "never rewards the answer '32' in none of the usual formats"),
        ("compute_score", VERL, 0, "every check passed"),
        ("bad_score", VERL, 1, "runs the model's text"),
    ],
)
def test_a_reward_function_of_another_trainer_is_checked(
    name: str,
    rows: Sequence[Mapping[str, object]],
    code: int,
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert check_function(tmp_path, name, rows) == code
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "rows", "said"),
    [
        ("needy", ROWS, "rows.jsonl: no column level, which needy needs"),
        ("good", [*ROWS, {"answer": "3"}], "rows.jsonl: no column prompt (nor question"),
        (
            "good",
            [{"prompt": "?"}],
            "rows.jsonl: no column with the answer: one of ground_truth, answer",
        ),
        ("good", [], "rows.jsonl has no rows"),
        ("strange", ROWS, "strange takes a, b: a reward function takes completions"),
    ],
)
def test_rows_that_do_not_fit_are_answered_in_one_line(
    name: str,
    rows: Sequence[Mapping[str, object]],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert check_function(tmp_path, name, rows) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_function_without_rows_is_told_what_it_lacks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.py").write_text(TRL)
    assert cli.main(["check-task", f"{tmp_path}/mine.py:good"]) == 2
    assert "give its rows with --data" in capsys.readouterr().err
    assert cli.main(["check-task", "countdown", "--data", "rows.jsonl"]) == 2
    assert "--data is for a reward function" in capsys.readouterr().err


def test_a_note_says_which_of_two_complete_answers_counts() -> None:
    found = examine(Made(), problems=2)
    assert found.failures == found.notes == [], "sampling stops at the first answer"

    class NeverStops(Made):
        stop = ()

    found = examine(NeverStops(), problems=2)
    assert found.failures == []
    assert [note.partition(":")[0] for note in found.notes] == ["pays the last of several answers"]


class Naps(Sound):
    """Its reward waits, as for a remote judge."""

    def problem(self, split: Split, index: int) -> Problem:
        return super().problem(split, index % 2)

    def size(self, split: Split) -> int:
        return 1

    def reward(self, problem: Problem, text: str) -> Reward:
        time.sleep(0.012)
        return super().reward(problem, text)


class Launches(Sound):
    """Its reward starts a process for each answer."""

    allowed_attacks = ("processes",)

    def size(self, split: Split) -> int:
        return 1

    def reward(self, problem: Problem, text: str) -> Reward:
        subprocess.run(["true"], check=True)
        return super().reward(problem, text)


@pytest.mark.parametrize(
    ("task", "note"),
    [
        (Naps, r"reward takes \d+ ms per call, so the 256 answers of a laptop step take \d\.\d s"),
        (
            Launches,
            r"reward starts a process in ([\d,]+) of \1 calls, \d+ ms per call.*start it once",
        ),
    ],
)
def test_a_slow_reward_passes_with_a_note_that_has_its_milliseconds(
    task: Callable[[], Task], note: str
) -> None:
    found = examine(task(), problems=2)
    assert found.failures == []
    assert [line for line in found.notes if re.match(note, line)] == found.notes
    assert len(found.notes) == 1
    assert re.search(r", [\d.]+ ms per reward$", found.summary())


def test_a_reward_that_is_too_slow_ends_the_check_after_a_few_calls() -> None:
    class Sleeps(Sound):
        def reward(self, problem: Problem, text: str) -> Reward:
            time.sleep(0.3)
            return super().reward(problem, text)

    start = time.perf_counter()
    found = examine(Sleeps(), problems=4, seconds=0.2)
    assert time.perf_counter() - start < 20, "every attack was tried"

    (line,) = found.failures
    assert re.match(r"reward takes \d{3,4} ms per call, so no attack was tried: one step", line)
    assert "calls it 256 times" in line
    assert found.attacks == 0
    assert found.reward_seconds > 0.3


def test_a_descriptor_whose_number_is_in_the_answer_is_not_a_file() -> None:
    class Pipes(Sound):
        def reward(self, problem: Problem, text: str) -> Reward:
            reading, writing = os.pipe()
            with open(reading, "rb"), open(writing, "wb"):
                return super().reward(problem, text)

    assert check_task(Pipes(), problems=4) == []


def test_one_kind_of_finding_is_one_line_and_names_the_fix() -> None:
    class Loose(Sound):
        def prompt(self, problem: Problem, template: str) -> Prompt:
            raise ValueError("oops")

        def reward(self, problem: Problem, text: str) -> Reward:
            return Reward(float(str(problem.fields["n"]) in text))

    failures = check_task(Loose(), problems=4)
    kinds = [line.partition(" of ")[0].partition(":")[0] for line in failures]
    assert kinds.count("prompt") == 2, failures  # it raises, and no template works
    assert len(set(failures)) == len(failures)
    assert all(re.search(r"\(\d+ of \d+ problems\): \w+", line) for line in failures), failures
    assert any(
        line.startswith("pays twenty answers, one of them right: reward of '</think><answer>")
        and "is 1 (12 of 12 problems): compare the whole answer" in line
        for line in failures
    ), failures
