"""Multiplication: its distribution, splits, options and rewards."""

from __future__ import annotations

import pytest

from tinyzero.errors import UserError
from tinyzero.tasks import load_task
from tinyzero.tasks.multiplication.task import Multiplication, MultiplicationOptions
from tinyzero.tasks.splits import split_by_key
from tinyzero.types import SPLITS, Problem


def operands(task: Multiplication, count: int) -> list[int]:
    problems = [task.problem("train", index) for index in range(count)]
    return [problem.fields[name] for problem in problems for name in "ab"]


def test_a_problem_depends_on_nothing_but_seed_split_and_index() -> None:
    first, second = Multiplication(), Multiplication()
    forward = [first.problem("dev", index) for index in range(50)]
    assert [second.problem("dev", index) for index in reversed(range(50))] == forward[::-1]
    assert len({problem.id for problem in forward}) > 40
    other = Multiplication(MultiplicationOptions(data_seed=1))
    assert [other.problem("dev", index) for index in range(50)] != forward


def test_a_problem_never_changes_between_releases() -> None:
    first = Multiplication().problem("test", 0)
    assert first == Problem("436*981", {"a": 981, "b": 436}, "test", "436*981")


def test_operands_follow_tinyzeros_mix() -> None:
    drawn = operands(Multiplication(), 4000)
    assert (min(drawn), max(drawn) > 990) == (0, True)
    # 1/4 + 1/4 * 1/10 + 1/2 * 1/100, and 1/4 * 9/10 + 1/2 * 9/100, within five standard deviations
    assert sum(n < 10 for n in drawn) / len(drawn) == pytest.approx(0.28, abs=0.03)
    assert sum(10 <= n < 100 for n in drawn) / len(drawn) == pytest.approx(0.27, abs=0.03)


def test_a_problem_can_be_typed() -> None:
    task = Multiplication()
    for problem in (task.problem("test", index) for index in range(20)):
        assert task.pose(task.line(problem)) == problem
    for line in ("47*36", " 47 x 36", "47×36 "):
        assert task.pose(line).fields == {"a": 47, "b": 36}


@pytest.mark.parametrize(
    "line", ["", "47", "47*", "47*36*2", "-4*3", "4.5*2", "a*b", "1234567890*2", "4**3", "४*3"]
)
def test_a_line_that_is_not_a_multiplication_is_rejected(line: str) -> None:
    with pytest.raises(UserError, match="write two whole numbers of up to nine digits, as in 47"):
        Multiplication().pose(line)


def test_digits_can_be_fixed_or_a_range() -> None:
    exact = operands(Multiplication(MultiplicationOptions(min_digits=2, max_digits=2)), 500)
    assert 10 <= min(exact) < 15
    assert 95 < max(exact) <= 99
    mixed = operands(Multiplication(MultiplicationOptions(max_digits=4)), 1000)
    for digits in (1, 2, 3, 4):
        assert sum(len(str(n)) == digits for n in mixed) / len(mixed) == pytest.approx(
            0.25, abs=0.06
        )


def test_both_orders_share_key_id_and_split_and_no_key_is_in_two_splits() -> None:
    task = Multiplication(MultiplicationOptions(max_digits=2))
    seen: dict[frozenset[int], set[tuple[str, str, str]]] = {}
    for split in SPLITS:
        for index in range(600):
            problem = task.problem(split, index)
            assert problem.split == split == split_by_key(problem.key)
            pair = frozenset(problem.fields.values())
            seen.setdefault(pair, set()).add((problem.key, problem.id, problem.split))
    assert all(len(names) == 1 for names in seen.values())


def test_every_split_of_single_digits_has_problems() -> None:
    task = Multiplication(MultiplicationOptions(max_digits=1))
    sizes = {
        split: len({task.problem(split, index).key for index in range(200)}) for split in SPLITS
    }
    assert sum(sizes.values()) <= 55
    assert min(sizes.values()) >= 2


def test_reward_solution_prompt_and_description() -> None:
    task = Multiplication()
    problem = Problem("12*345", {"a": 345, "b": 12}, "train", "12*345")
    assert task.solution(problem) == "</think>\n<answer>4140</answer>"
    assert task.reward(problem, task.solution(problem)).value == 1
    assert task.reward(problem, "</think><answer>4141</answer>").value == 0.1
    assert task.reward(problem, "<answer>4140</answer>").value == 0
    assert task.prompt(problem, "compact") == "345*12\n<think>\n"
    assert "345 * 12" in str(task.prompt(problem, "base"))
    assert task.describe(problem) == {"digits": "2x3"}


def test_format_credit_can_be_zero() -> None:
    task = Multiplication(MultiplicationOptions(format_reward=0))
    reward = task.reward(
        Problem("2*3", {"a": 2, "b": 3}, "train", "2*3"), "</think><answer>5</answer>"
    )
    assert (reward.value, reward.parts) == (0, {"answer": 0.0, "format": 1.0})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_digits": 2}, "min_digits 2 needs max_digits"),
        ({"min_digits": 3, "max_digits": 2}, "min_digits 3 is above max_digits 2"),
        ({"max_digits": 10}, "task.max_digits is 10"),
        ({"digits": 3}, "unknown key task.digits: did you mean max_digits|min_digits?"),
        ({"format_reward": 1}, "task.format_reward is 1"),
    ],
)
def test_wrong_options_are_answered_in_one_line(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_task("multiplication", options)
    assert "\n" not in str(caught.value)
