"""Countdown's levels, the rules of the TV show, and problems without a solution."""

from collections import Counter
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyzero.errors import UserError
from tinyzero.grading import evaluate_expression
from tinyzero.tasks import load_task
from tinyzero.tasks.countdown import solver
from tinyzero.tasks.countdown.task import make_problem
from tinyzero.types import Problem

numbers = st.lists(st.integers(1, 30), min_size=1, max_size=4)


def answer(text: str) -> str:
    return f"</think>\n<answer>{text}</answer>"


@settings(max_examples=40, deadline=None)
@given(numbers, st.integers(1, 120), st.sampled_from(["+-*/", "+-", "*/", "+*"]))
def test_the_fast_proof_agrees_with_trying_everything(
    given_numbers: list[int], target: int, operators: str
) -> None:
    exists = solver.solve(given_numbers, target, operators) is not None
    assert solver.is_solvable(given_numbers, target, operators) == exists

    some = any(
        solver.solve(chosen, target, operators) is not None
        for size in range(1, len(given_numbers) + 1)
        for chosen in combinations(given_numbers, size)
    )
    assert solver.is_solvable(given_numbers, target, operators, use_all=False) == some
    found = solver.solve(given_numbers, target, operators, use_all=False)
    assert (found is not None) == some


def drawn(count: int = 40, **options: Any) -> tuple[Any, list[Problem]]:
    task = load_task("countdown", options)
    return task, [task.problem("train", index) for index in range(count)]


def test_the_default_options_draw_what_they_always_drew() -> None:
    """From version 0.1 on; old runs and the bundled base depend on it."""
    task, problems = drawn(4)
    assert [problem.id for problem in problems] == PROBLEMS_OF_0_1
    assert {"tv_rules", "unsolvable"}.isdisjoint(task.given)


def test_the_tv_show_has_large_and_small_numbers() -> None:
    task, problems = drawn(tv_rules=True, min_count=6, max_count=6, max_target=999)
    for problem in problems:
        counts = Counter(problem.fields["numbers"])
        for number, count in counts.items():
            is_large = number in (25, 50, 75, 100)
            assert is_large or 1 <= number <= 10
            assert count <= (1 if is_large else 2)
        assert problem.fields["target"] not in counts, "nothing would be left to do"
    assert {len(set(p.fields["numbers"]) & {25, 50, 75, 100}) for p in problems} == set(range(5))
    assert {"max_number", "min_number"}.isdisjoint(task.given)


def test_on_television_numbers_may_be_left_over_but_not_used_twice() -> None:
    task, _ = drawn(0, tv_rules=True)
    problem = make_problem([3, 8, 50], 24, "train")
    rewards = {text: task.reward(problem, answer(text)).value for text in ("3*8", "8+8+8", "50-26")}
    assert rewards == {"3*8": 1.0, "8+8+8": 0.1, "50-26": 0.1}
    assert load_task("countdown").reward(problem, answer("3*8")).value == 0.1
    assert task.reward(problem, task.solution(problem)).value == 1
    assert "at most once" in task.rules
    assert "You do not have to use all" in task.prompt(problem, "base")


def test_a_share_of_the_problems_has_no_solution_and_the_solver_proves_it() -> None:
    task, problems = drawn(60, unsolvable=0.3)
    _, as_before = drawn(60)
    without = [p for p in problems if task.describe(p)["solvable"] == "no"]
    assert 10 <= len(without) <= 26
    assert all(
        p == before for p, before in zip(problems, as_before, strict=True) if p not in without
    ), "the others are the same as ever"

    for problem in problems:
        given_numbers, target = problem.fields["numbers"], problem.fields["target"]
        is_solvable = solver.solve(given_numbers, target) is not None
        assert is_solvable == (problem not in without)
        for claim in ("no solution", " No Solution "):
            earned = task.reward(problem, answer(claim))
            assert earned.value == (0.1 if is_solvable else 1.0)
        solution = task.solution(problem)
        assert ("no solution" in solution) != is_solvable
        assert task.reward(problem, solution).right
        if not is_solvable:
            expression = "+".join(map(str, given_numbers))
            assert evaluate_expression(expression) is not None
            assert task.reward(problem, answer(expression)).value == 0.1


def test_no_solution_is_no_answer_unless_problems_may_have_none() -> None:
    task, _ = drawn(0)
    problem = make_problem([1, 1], 24, "train")
    assert task.reward(problem, answer("no solution")).value == 0
    assert "no solution" not in task.prompt(problem, "base")
    with pytest.raises(UserError, match="24 cannot be made from 1, 1"):
        task.pose("24 from 1 1")
    asked = load_task("countdown", {"unsolvable": 0.5})
    assert "answer <answer> no solution </answer>" in asked.prompt(problem, "base")
    assert asked.pose("24 from 1 1").id == "1,1=24"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"unsolvable": 0.2, "max_count": 6}, "needs a max_count of at most 5, not 6"),
        ({"unsolvable": 0.2, "data": "x.jsonl"}, "unsolvable is for problems that are drawn"),
        ({"unsolvable": 2}, "task.unsolvable is 2: input should be less than or equal to 1"),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        load_task("countdown", options)


def test_unsolvable_problems_that_do_not_exist_are_one_line() -> None:
    """5 + 5 is always 10."""
    options = {"unsolvable": 1, "min_number": 5, "max_number": 5, "max_target": 10}
    options |= {"min_count": 2, "max_count": 2}
    with pytest.raises(UserError, match="no unsolvable Countdown problem of split 'train' in 300"):
        load_task("countdown", options).problem("train", 0)


PROBLEMS_OF_0_1 = ["38,60,72=50", "7,21,85=71", "60,66,94=88", "42,57,60=75"]
