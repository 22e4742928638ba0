"""Sums: its problems, its prompts and what counts as an answer."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyzero.config import read_recipe, resolve
from tinyzero.errors import UserError
from tinyzero.evaluate import distinct_problems
from tinyzero.tasks import load_task
from tinyzero.tasks.prompts import TEMPLATES
from tinyzero.tasks.splits import split_by_key
from tinyzero.tasks.sums import Sums, SumsOptions, last_number, make_problem
from tinyzero.types import SPLITS, Problem, Split


def test_a_problem_depends_on_nothing_but_seed_split_and_index() -> None:
    forward = [Sums().problem("dev", index) for index in range(50)]
    assert [Sums().problem("dev", index) for index in reversed(range(50))] == forward[::-1]
    other = Sums(SumsOptions(data_seed=1))
    assert [other.problem("dev", index) for index in range(50)] != forward


def test_a_problem_never_changes_between_releases() -> None:
    fields = {"a": 10, "operator": "+", "b": 6}
    assert Sums().problem("test", 0) == Problem("10+6", fields, "test", "6+10")


@pytest.mark.parametrize(("split", "count"), [("train", 187), ("dev", 30), ("test", 25)])
def test_the_default_problems_are_these(split: Split, count: int) -> None:
    """Together 2 * 11 * 11."""
    problems = distinct_problems(Sums(), split, count)
    assert {problem.fields["operator"] for problem in problems} == {"+", "*"}
    with pytest.raises(UserError, match=f"has only {count} distinct problems"):
        distinct_problems(Sums(), split, count + 1)


def test_the_recipe_scores_every_held_out_problem() -> None:
    recipe = resolve(read_recipe("real-laptop"), {})
    task = load_task(recipe.task.name, recipe.task.options)
    held_out: dict[Split, int] = {"dev": recipe.eval.problems, "test": recipe.eval.test_problems}
    for split, count in held_out.items():
        with pytest.raises(UserError, match=f"has only {count} distinct problems"):
            distinct_problems(task, split, count + 1)


def test_both_orders_share_a_key_and_no_key_is_in_two_splits() -> None:
    keys: dict[str, set[str]] = {split: set() for split in SPLITS}
    for split in SPLITS:
        for index in range(500):
            problem = Sums().problem(split, index)
            a, operator, b = (problem.fields[name] for name in ("a", "operator", "b"))
            assert make_problem(b, operator, a).key == problem.key
            assert problem.split == split == split_by_key(problem.key)
            keys[split].add(problem.key)
    assert (
        not keys["train"] & keys["dev"] | keys["train"] & keys["test"] | keys["dev"] & keys["test"]
    )


def test_options_choose_the_numbers_and_the_operator() -> None:
    task = Sums(SumsOptions(min_number=20, max_number=40, operators="*"))
    problems = [task.problem("train", index) for index in range(300)]
    assert {problem.fields["operator"] for problem in problems} == {"*"}
    numbers = {problem.fields[name] for problem in problems for name in "ab"}
    assert (min(numbers), max(numbers)) == (20, 40)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"min_number": 13}, "min_number 13 is above max_number 12: lower the first or raise"),
        ({"operators": "-"}, "operators '-' must be"),
        ({"operators": "++"}, "must be"),
        ({"min_number": 1}, "min_number is 1"),
    ],
)
def test_an_option_that_makes_no_sense_is_one_line(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError) as caught:
        load_task("sums", options)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_split_without_problems_is_an_error() -> None:
    task = Sums(SumsOptions(min_number=2, max_number=2))
    with pytest.raises(UserError, match=r"raise task\.max_number"):
        [task.problem(split, 0) for split in SPLITS]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("56", 56),
        ("56.", 56),
        (" 7 * 8 = 56.\n", 56),
        ("7*8=56", 56),
        ("**56**", 56),
        ("$56$", 56),
        ("(56)", 56),
        ("The answer is: 56!", 56),
        ("7 * 8 is 56, not 54", 54),
        ("1,200", 1200),
        ("12,345,678", 12345678),
        ("-56", -56),
        ("056", 56),
        ("", None),
        ("fifty-six", None),
        ("56.5", None),
        ("56.5kg", None),
        ("1,20", None),
        ("7*8", None),
        ("9**9**9**9", None),
        ("10-12", None),
        ("56th", None),
        ("x56", None),
        ("56²", None),
        ("٥٦", None),
        ("9" * 20, None),
        ("9" * 100_000, None),
    ],
)
def test_the_answer_is_the_last_number_if_it_is_whole(text: str, number: int | None) -> None:
    assert last_number(text) == number


@settings(deadline=None, max_examples=200, derandomize=True)
@given(st.text(alphabet="0123456789.,=-*+ \nax²٣", max_size=40))
def test_no_text_makes_the_grader_raise(text: str) -> None:
    number = last_number(text)
    assert number is None or str(abs(number)) in text.replace(",", "")


@given(st.integers(2, 9999), st.sampled_from("+*"), st.integers(2, 9999))
def test_only_the_right_number_is_rewarded(a: int, operator: str, b: int) -> None:
    task, problem = Sums(), make_problem(a, operator, b)
    assert task.reward(problem, task.solution(problem)).right is True
    for text in task.nonsense(problem):
        assert task.reward(problem, text).value == 0
    for template in TEMPLATES:
        prompt = task.prompt(problem, template)
        echoed = prompt if isinstance(prompt, str) else prompt[-1]["content"]
        assert task.reward(problem, echoed).value == 0


def test_the_parts_of_the_reward_tell_wrong_from_formless() -> None:
    problem = make_problem(7, "*", 8)
    assert Sums().reward(problem, "54").parts == {"answer": 0.0, "format": 1.0}
    assert Sums().reward(problem, "many").parts == {"answer": 0.0, "format": 0.0}


def test_the_prompt_ends_with_the_users_turn() -> None:
    messages = Sums().prompt(make_problem(7, "*", 8), "instruct")
    assert [message["role"] for message in messages] == ["system", "user"]  # type: ignore[index]
    assert Sums().prompt(make_problem(7, "*", 8), "compact") == "7*8="
    with pytest.raises(UserError, match="unknown prompt template 'x': use one of compact"):
        Sums().prompt(make_problem(7, "*", 8), "x")


def test_a_problem_can_be_typed() -> None:
    task = Sums()
    for problem in (task.problem("test", index) for index in range(20)):
        assert task.pose(task.line(problem)) == problem
    assert task.pose(" 7 x 8 ").id == task.pose("7×8").id == "7*8"
    assert task.pose("7 + 8").fields == {"a": 7, "operator": "+", "b": 8}


@pytest.mark.parametrize("line", ["", "7", "7*", "7-8", "7*8*9", "-7*8", "12345*2", "٧*8"])
def test_a_line_that_is_not_a_sum_is_rejected(line: str) -> None:
    with pytest.raises(UserError, match="as in 7"):
        Sums().pose(line)


@pytest.mark.parametrize(
    ("text", "bare", "restated"),
    [
        ("56", 1, 0),
        (" 56.\n", 1, 0),
        ("7 * 8 = 56", 0, 1),
        ("7 x 8=56", 0, 1),
        ("17 * 8 = 136", 0, 0),
        ("8 * 7 = 56", 0, 0),
        ("It is 56", 0, 0),
    ],
)
def test_the_form_of_a_reply_is_measured(text: str, bare: int, restated: int) -> None:
    measured = Sums().measure(make_problem(7, "*", 8), text)
    assert measured == {"bare": bare, "restated": restated}
    assert {f"behaviour/{name}" for name in measured} == set(Sums.glossary)
