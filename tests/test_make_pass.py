"""make-pass: its problems, what counts as an answer, rows of HumanEval and MBPP, and training."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tinyzero import cli
from tinyzero.config import resolve
from tinyzero.config.schema import GradingSection
from tinyzero.errors import UserError
from tinyzero.grading import WorkerPool
from tinyzero.grading.sandbox import tiers
from tinyzero.run import records
from tinyzero.run.parts import make_grader
from tinyzero.tasks import load_task
from tinyzero.tasks.check import examine
from tinyzero.tasks.make_pass import family, question, rows
from tinyzero.tasks.make_pass.task import MakePass, MakePassOptions
from tinyzero.tasks.prompts import TEMPLATES
from tinyzero.tasks.splits import split_by_key
from tinyzero.train import train
from tinyzero.types import SPLITS, Problem, Reward

HUMAN_EVAL = {
    "task_id": "Test/0",
    "prompt": "from typing import List\n\n\ndef total(numbers: List[int]) -> float:\n"
    '    """The sum, or nothing."""\n',
    "entry_point": "total",
    "canonical_solution": "    return sum(numbers) if numbers else None\n",
    "test": "METADATA = {}\n\n\ndef check(candidate):\n"
    "    assert candidate([1, 2]) == 3\n"
    "    assert candidate([-1]) == -1, 'negative'\n"
    "    assert candidate([]) is None\n"
    "    assert abs(candidate([0.1, 0.2]) - 0.3) < 1e-6\n"
    "    for n in range(9):\n        assert candidate([n]) == n\n",
}
MBPP = {
    "task_id": 7,
    "text": "Write a function to tell whether a text contains an a.",
    "code": "def has_a(text):\n    return 'a' in text",
    "test_list": ["assert has_a('cat')", "assert not has_a('dog')", "assert has_a('b') == False"],
    "challenge_test_list": ["assert has_a('a' * 3) == True"],
}
UNUSABLE = {**MBPP, "test_list": ["assert set(has_a('x')) == set()"], "challenge_test_list": []}


def task(**options: Any) -> MakePass:
    return MakePass(MakePassOptions(**options))


def written(tmp_path: Path, *lines: object) -> str:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return str(path)


def answered(code: str) -> str:
    return f"thoughts\n</think>\n<answer>\n{code}\n</answer>"


def problem(code: str, tests: list[list[object]], **fields: object) -> Problem:
    plain = {"question": "", "function": "f", "starter": "", "examples": [], "solution": code}
    return Problem("one", {**plain, "tests": tests, **fields}, "train", "one")


# --- the family


def test_a_problem_depends_on_nothing_but_its_arguments() -> None:
    forward = [task().problem("dev", index) for index in range(10)]
    assert [task().problem("dev", index) for index in reversed(range(10))] == forward[::-1]
    assert task(data_seed=1).problem("dev", 0) != forward[0]


def test_a_problem_never_changes_between_releases() -> None:
    one = task().problem("train", 1)
    assert one.key == "number-8cf003bca301900b"
    assert one.fields["solution"] == "def f(x):\n    return x * 4 if x < 7 else x + 5"
    assert one.fields["examples"] == [["4", "16"], ["10", "15"], ["6", "24"], ["3", "12"]]


def test_problems_are_worth_solving() -> None:
    for split in SPLITS:
        for index in range(40):
            one = task().problem(split, index)
            assert split_by_key(one.key) == one.split == split
            tests = one.fields["tests"]
            assert tests[: len(one.fields["examples"])] == one.fields["examples"]
            assert len(tests) == len({arguments for arguments, _ in tests}) == 24
            assert len({value for _, value in one.fields["examples"]}) > 1
            json.dumps(one.fields)


def test_functions_that_compute_the_same_share_a_key() -> None:
    one = family.Function("def f(x):\n    return x[::-1]", "text")
    other = family.Function("def f(x):\n    return ''.join(reversed(x))", "text")
    third = family.Function("def f(x):\n    return x[::-1] + ' '", "text")
    assert family.key_of(one) == family.key_of(other) != family.key_of(third)


def test_the_inputs_at_a_boundary_are_tested() -> None:
    one = task().problem("train", 1)  # x < 7
    tested = {arguments for arguments, _ in one.fields["tests"]}
    assert {"6", "7", "8"} <= tested
    near = one.fields["solution"].replace("x < 7", "x < 8")
    reward = task().reward(one, answered(near))
    assert reward.right is False
    assert reward.parts["cases"] == 23 / 24


# --- answers


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("</think>\n<answer>def f(x): return 1</answer>", "def f(x): return 1"),
        ("</think><answer>\n```python\ndef f(x):\n    return 1\n```\n</answer>",
         "def f(x):\n    return 1"),
        ("```\nfirst\n``` or ```py\nsecond\n```", "second"),
        ("```python\nin thought\n```\n</think>\n```python\nanswer\n```", "answer"),
        ("```python\nin thought\n```\n</think>\nnothing", None),
        ("<answer>def f(x): return 1</answer>", None),
        ("```python\ndef f(x): return 1", None),
        ("def f(x): return 1", None),
        ("</think><answer></answer>", None),
        ("</think><answer>" + "x" * 20_001 + "</answer>", None),
        ("```" + "x" * 20_001 + "```", None),
        ("", None),
        ("```" * 100_000, None),
    ],
)  # fmt: skip
def test_where_the_program_is(text: str, code: str | None) -> None:
    assert question.find_code(text) == code


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_prompt_shows_the_examples_and_hides_the_tests(template: str, tmp_path: Path) -> None:
    one = problem("", [["3", "47"], ["5", "83"]], examples=[["3", "47"]])
    shown = str(task().prompt(one, template))
    assert "f(3)" in shown
    assert "47" in shown
    assert "83" not in shown

    from_file = task(data=written(tmp_path, HUMAN_EVAL, MBPP))
    assert "def total(numbers" in str(from_file.prompt(row(from_file, "Test/0"), template))
    sentence = str(from_file.prompt(row(from_file, "7"), template))
    assert "contains an a." in sentence
    assert "dog" not in sentence


def row(from_file: MakePass, name: str) -> Problem:
    return next(
        Problem(one.id, one.fields, split, one.key)
        for split in SPLITS
        for one in from_file._rows[split]
        if one.id == name
    )


def test_own_solutions_are_right_and_others_are_wrong() -> None:
    grader = task()
    problems = [grader.problem("train", index) for index in range(20)]
    for one, other in zip(problems, problems[1:] + problems[:1], strict=True):
        reward = grader.reward(one, grader.solution(one))
        assert (reward.value, reward.right, reward.parts["cases"]) == (1.0, True, 1.0)
        assert grader.reward(one, grader.solution(other)).value == 0.0
    for text in grader.nonsense(problems[0]):
        assert grader.reward(problems[0], text).value == 0.0


@pytest.mark.parametrize(
    ("code", "failure"),
    [
        ("def f(x): return x + 1", None),
        ("def f(x) return x", "syntax"),
        ("def g(x): return x", "missing"),
        ("f = 3", "missing"),
        ("def f(x): return x / 0", "raised"),
        ("def f(x):\n    while True: pass", "timeout"),
        ("def f(x): return bytearray(10**10)", "memory"),
        ("def f(x): return 'a' * 10**7", "output"),
        ("import os\ndef f(x): os._exit(0)", "crashed"),
    ],
)
def test_why_programs_fail_is_counted(code: str, failure: str | None) -> None:
    one = problem("", [["1", "7"], ["2", "3"]])
    reward = task(seconds=1.0).reward(one, answered(code))
    names = {name for name in MakePass.glossary if name != "reward/answer"}
    assert {f"reward/{name}" for name in reward.parts} == {"reward/answer", *names}
    counted = {name for name, part in reward.parts.items() if part and name not in ("cases",)}
    assert counted == {"format", failure} - {None}
    assert (reward.value, reward.right) == (0.0, False)
    assert reward.parts["cases"] == (0.5 if failure is None else 0.0)


def test_types_count() -> None:
    one = problem("", [["1", "1"]])
    values = ("True", "1.0", "'1'", "[1]", "float('nan')", "1")
    rewards = [task().reward(one, answered(f"f = lambda x: {value}")).value for value in values]
    assert rewards == [0, 0, 0, 0, 0, 1]


def test_expected_values_never_enter_the_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[object] = []
    grader = task()
    run = grader._run
    monkeypatch.setattr(grader, "_run", lambda *given: sent.append(given) or run(*given))
    one = problem("", [["3", "918273"], ["4", "'a secret'"]], examples=[["3", "918273"]])
    assert grader.reward(one, answered("def f(x): return 0")).value == 0.0
    assert sent == [("def f(x): return 0", "f", ["3", "4"])]


# --- rows


def test_rows_become_calls_and_values(tmp_path: Path) -> None:
    from_file = task(data=written(tmp_path, HUMAN_EVAL, MBPP))
    assert row(from_file, "Test/0").fields["tests"] == [
        ["[1, 2]", "3", None],
        ["[-1]", "-1", None],
        ["[]", "None", None],
        ["[0.1, 0.2]", "0.3", 1e-6],
    ]
    assert row(from_file, "7").fields["tests"] == [
        ["'cat'", "True", None],
        ["'dog'", "False", None],
        ["'b'", "False", None],
    ]
    for name in ("Test/0", "7"):
        one = row(from_file, name)
        assert from_file.reward(one, from_file.solution(one)) == Reward(
            1.0, {**dict.fromkeys(part_names(), 0.0), "answer": 1, "format": 1, "cases": 1}
        )
    body = "def total(numbers: List[int]):\n    return sum(numbers)"
    reward = from_file.reward(row(from_file, "Test/0"), answered(body))
    assert (reward.right, reward.parts["cases"]) == (False, 0.75)


def part_names() -> list[str]:
    return [name.removeprefix("reward/") for name in MakePass.glossary]


@pytest.mark.parametrize(
    ("test", "case"),
    [
        ("assert f(1, 'a') == [2]", ("1, 'a'", "[2]", None)),
        ("assert (1, 2) == f()", ("", "(1, 2)", None)),
        ("assert f({1: 2}) is True", ("{1: 2}", "True", None)),
        ("assert not f(-1)", ("-1", "False", None)),
        ("assert abs(f(2) - 0.5) <= 0.01", ("2", "0.5", 0.01)),
        ("assert f(1) == g(1)", None),
        ("assert f(x) == 1", None),
        ("assert f(x=1) == 1", None),
        ("assert f(1) != 1", None),
        ("assert f(1) == 1 == 1", None),
        ("assert len(f(1)) == 1", None),
        ("assert f(" + "[" * 90 + "]" * 90 + ") == 1", ("[" * 90 + "]" * 90, "1", None)),
        ("print(f(1))", None),
    ],
)
def test_which_tests_can_be_used(test: str, case: tuple[object, ...] | None) -> None:
    import ast

    found = list(rows.cases_in(ast.parse(test).body, "f"))
    assert found == ([] if case is None else [case])


def test_a_relative_tolerance() -> None:
    import ast

    (case,) = rows.cases_in(ast.parse("assert math.isclose(f(1), 200, rel_tol=0.01)").body, "f")
    assert case.expected == "200"
    assert case.tolerance == pytest.approx(2)


def test_rows_without_a_usable_test_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, HUMAN_EVAL, UNUSABLE, UNUSABLE)
    assert len(rows.read_rows(path)) == 1
    assert "2 of 3 rows have no test that compares" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No such file"),
        ("", "no row with a test"),
        (json.dumps(UNUSABLE), "no row with a test"),
        ("{", "line 1 is not JSON"),
        ("\n[1]", "line 2 is not a JSON object"),
        (
            '{"question": 1, "answer": 2}',
            "has the columns question, answer: use those of HumanEval",
        ),
        (json.dumps({**MBPP, "code": "def ("}), "line 1 cannot be understood"),
        (json.dumps({**MBPP, "test_list": 3}), "line 1 cannot be understood"),
    ],
)
def test_a_file_that_is_no_good_is_one_line(text: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=message) as raised:
        load_task("make-pass", {"data": str(path)})
    assert "\n" not in str(raised.value)


def test_rows_are_permuted_anew_in_each_epoch(tmp_path: Path) -> None:
    many = [{**MBPP, "task_id": n, "text": f"Question {n}."} for n in range(60)]
    from_file = task(data=written(tmp_path, *many))
    size = from_file.size("train")
    assert size is not None
    assert sum(from_file.size(split) or 0 for split in SPLITS) == 60
    epochs = [
        [from_file.problem("train", epoch * size + i).id for i in range(size)] for epoch in (0, 1)
    ]
    assert set(epochs[0]) == set(epochs[1])
    assert len(set(epochs[0])) == size
    assert epochs[0] != epochs[1]


def test_a_split_without_rows_is_one_line(tmp_path: Path) -> None:
    from_file = task(data=written(tmp_path, MBPP))
    empty = next(split for split in SPLITS if not from_file.size(split))
    with pytest.raises(UserError, match=f"no problem in the split '{empty}': add rows"):
        from_file.problem(empty, 0)


# --- in a run


@pytest.mark.slow
def test_check_task_passes() -> None:
    findings = examine(load_task("make-pass", {"seconds": 0.5}), problems=3)
    assert findings.failures == []
    assert findings.attacks > 1000


def test_it_is_graded_in_workers_with_the_chosen_sandbox() -> None:
    guarded = load_task("make-pass")
    one = guarded.problem("train", 0)
    with closing(make_grader(guarded, GradingSection(workers=2, sandbox="plain"))) as grader:
        assert isinstance(grader, WorkerPool)
        grader.submit("a", [one] * 3, [guarded.solution(one), "nothing", answered("def f(x")])
        rewards = [verdict.reward for verdict in grader.collect("a")]
    assert [reward.value for reward in rewards if reward] == [1.0, 0.0, 0.0]
    assert rewards[2] is not None
    assert rewards[2].parts["syntax"] == 1.0


def test_a_run_without_a_sandbox_stops_at_the_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(tiers, "problem_with", lambda tier: "not here")
    run = tmp_path / "run"
    assert cli.main(["train", "--task", "make-pass", "--run.dir", str(run)]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("tinyzero: error: no sandbox works here (bwrap: not here;")
    assert not (run / "metrics.jsonl").exists()


def test_a_step_of_training(base: Path, tmp_path: Path) -> None:
    options = {
        "steps": 1,
        "task": {"name": "make-pass", "examples": 2},
        "algorithm": {"name": "grpo"},
        "model": {"name": str(base)},
        "rollout": {"prompts": 2, "samples": 2, "max_tokens": 8},
        "grading": {"workers": 1},
        "eval": {"every": 0, "test_problems": 0},
    }
    train(resolve(options, {}), tmp_path / "run")
    (step,) = records.read(tmp_path / "run" / "metrics.jsonl")
    assert {f"reward/{name}" for name in part_names()} <= step.keys()
    assert step["grading/raised"] == 0
