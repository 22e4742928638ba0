"""Countdown: drawing problems, the solver compared with brute force, and the data files."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from fractions import Fraction
from itertools import permutations
from pathlib import Path
from types import SimpleNamespace

import pyarrow
import pyarrow.parquet
import pytest

from tinyzero.errors import UserError
from tinyzero.grading.arithmetic import evaluate_expression
from tinyzero.tasks import load_task
from tinyzero.tasks.countdown import data as countdown_data
from tinyzero.tasks.countdown import solver as countdown_solver
from tinyzero.tasks.countdown.data import Row, read_rows, stats, tinyzero_split, write_rows
from tinyzero.tasks.countdown.grading import expression_reward
from tinyzero.tasks.countdown.solver import (
    analyse,
    integers_suffice,
    plus_minus_suffices,
    solutions,
    solve,
)
from tinyzero.tasks.countdown.task import Countdown, CountdownOptions, key_of, split_of
from tinyzero.types import SPLITS, Problem

# The task


def test_a_problem_depends_on_nothing_but_seed_split_and_index() -> None:
    first, second = Countdown(), Countdown()
    forward = [first.problem("dev", index) for index in range(50)]
    assert [second.problem("dev", index) for index in reversed(range(50))] == forward[::-1]
    assert len({problem.id for problem in forward}) > 45
    other = Countdown(CountdownOptions(data_seed=1))
    assert [other.problem("dev", index) for index in range(50)] != forward


def test_a_problem_never_changes_between_releases() -> None:
    expected = Problem(
        "25,30,59,94=40", {"numbers": [94, 59, 25, 30], "target": 40}, "test", "25,30,59,94"
    )
    assert Countdown().problem("test", 0) == expected


def test_what_is_drawn_can_be_typed() -> None:
    task = Countdown(CountdownOptions(max_count=5, max_target=999))
    for problem in (task.problem("test", index) for index in range(20)):
        assert task.pose(task.line(problem)) == problem
    assert task.pose("24, 3, 5, 12") == task.pose(" 24 from 3 5 12 ")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_number": 20, "min_count": 3, "max_count": 3, "max_target": 99},
        {"min_count": 5, "max_count": 5, "max_target": 999},
        {"operators": "+-"},
        {"operators": "-", "max_number": 500},
        {"operators": "*/", "max_number": 12},
    ],
)
def test_problems_keep_to_their_options_and_their_solution_scores_full(
    options: dict[str, object],
) -> None:
    task = load_task("countdown", options)
    o = CountdownOptions.model_validate(options)
    for index in range(15):
        problem = task.problem("train", index)
        numbers, target = problem.fields["numbers"], problem.fields["target"]
        assert o.min_count <= len(numbers) <= o.max_count
        assert o.min_number <= min(numbers)
        assert max(numbers) <= o.max_number
        assert o.min_target <= target <= o.max_target
        reward = task.reward(problem, task.solution(problem))
        assert (reward.value, reward.parts) == (1.0, {"answer": 1.0, "format": 1.0})


def test_no_numbers_are_in_two_splits_whatever_their_order_or_target() -> None:
    task = Countdown(CountdownOptions(max_number=12, max_count=3))
    keys = {split: {task.problem(split, index).key for index in range(300)} for split in SPLITS}
    assert all(keys.values())
    assert not keys["train"] & keys["dev"]
    assert not keys["train"] & keys["test"]
    assert not keys["dev"] & keys["test"]
    assert {split_of(order) for order in permutations([7, 3, 12])} == {split_of([3, 7, 12])}
    shares = [split_of([a, b, c]) for a in range(1, 30) for b in range(a, 30) for c in range(b, 30)]
    assert [shares.count(split) / len(shares) for split in SPLITS] == pytest.approx(
        [0.8, 0.1, 0.1], abs=0.02
    )


def test_prompt_reward_and_description() -> None:
    task = Countdown()
    problem = Problem("3,3,8,8=24", {"numbers": [3, 8, 3, 8], "target": 24}, "train", "3,3,8,8")
    assert task.prompt(problem, "compact") == "24 from 3 8 3 8\n<think>\n"
    assert "Using the numbers [3, 8, 3, 8], create an equation that equals 24." in str(
        task.prompt(problem, "base")
    )
    with pytest.raises(UserError, match="unknown prompt template 'poem'"):
        task.prompt(problem, "poem")
    assert task.reward(problem, "</think><answer>8/(3-8/3)</answer>").value == 1
    assert task.reward(problem, "</think><answer>8*3</answer>").value == 0.1
    assert task.describe(problem) == {"numbers": 4, "operators": "*/"}
    easy = Problem("1,2,3=6", {"numbers": [1, 2, 3], "target": 6}, "train", "1,2,3")
    assert task.describe(easy) == {"numbers": 3, "operators": "+-"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_count": 5}, "task: min_count 5 is above max_count 4"),
        ({"min_number": 200}, "task: min_number 200 is above max_number 99"),
        ({"min_target": 101}, "task: min_target 101 is above max_target 100"),
        ({"operators": "+%"}, r"task: operators '\+%' must be some of"),
        ({"operators": ""}, "task: operators '' must be some of"),
        ({"max_count": 7}, "task.max_count is 7: input should be less than or equal to 6"),
        ({"max_number": "many"}, "task.max_number is 'many': input should be a valid integer"),
        ({"max_numbr": 9}, r"unknown key task.max_numbr: did you mean max_number\?"),
        ({"data_split": "rows"}, "task.data_split is 'rows': input should be 'keys' or 'tinyzero'"),
    ],
)
def test_wrong_options_are_answered_in_one_line(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_task("countdown", options)
    assert "\n" not in str(caught.value)


def test_options_that_allow_no_problem_are_rejected() -> None:
    task = Countdown(CountdownOptions(max_number=2, max_count=3, min_target=90, max_target=90))
    with pytest.raises(UserError, match="no Countdown problem of split 'train'"):
        task.problem("train", 0)


# The solver

# an expression's value, and its value if each number is replaced by a unique one
Traced = tuple[Fraction, Fraction]


def every_expression(numbers: tuple[Traced, ...]) -> Iterator[Traced]:
    """The slow reference: every binary tree over every order of the numbers, with repeats."""
    if len(numbers) == 1:
        yield numbers[0]
    for cut in range(1, len(numbers)):
        for x in every_expression(numbers[:cut]):
            for y in every_expression(numbers[cut:]):
                yield x[0] + y[0], x[1] + y[1]
                yield x[0] - y[0], x[1] - y[1]
                yield x[0] * y[0], x[1] * y[1]
                if y[0]:
                    yield x[0] / y[0], x[1] / y[1]


UNLIKE = (1_000_003, 10_000_019, 100_000_007, 1_000_000_007)


def brute_force(numbers: tuple[int, ...]) -> set[Traced]:
    traced = [(Fraction(n), Fraction(u)) for n, u in zip(numbers, UNLIKE, strict=False)]
    return {found for order in permutations(traced) for found in every_expression(order)}


@pytest.mark.parametrize(
    ("numbers", "count"), [((7,), 1), ((7, 50), 6), ((7, 50, 361), 68), ((7, 50, 361, 9001), 1170)]
)
def test_the_number_of_expressions_is_that_of_oeis_a140606(
    numbers: tuple[int, ...], count: int
) -> None:
    found = brute_force(numbers)
    assert len({trace for _, trace in found}) == count
    # The solver lists only one of each expression and its opposite: the one that is not negative.
    texts = {form.text for form in countdown_solver._forms(numbers)}
    assert sum(2 if "-" in text else 1 for text in texts) == count


@pytest.mark.parametrize(
    "numbers", [(4, 7), (2, 5, 11), (4, 9, 25), (7, 19, 44), (2, 5, 13, 29), (3, 7, 25, 50)]
)
def test_solver_against_brute_force_on_every_target(numbers: tuple[int, ...]) -> None:
    found = brute_force(numbers)
    whole = whole_values(numbers)
    signed = {sum(s) for s in signs(numbers)}
    hits: dict[Fraction, set[Fraction]] = {}
    for value, trace in found:
        hits.setdefault(value, set()).add(abs(trace))
    for target in random.Random(0).sample(range(1, 120), 30):
        expected = hits.get(Fraction(target), set())
        expression = solve(numbers, target)
        assert (expression is None) == (not expected)
        if expression is not None:
            assert evaluate_expression(expression) is not None
            text = f"</think><answer>{expression}</answer>"
            assert expression_reward(text, numbers, target, "+-*/", 0).value == 1
        assert analyse(numbers, target) == {
            "count": len(numbers),
            "plus_minus": target in signed,
            "integers": target in whole,
            "solutions": len(expected),
        }


def signs(numbers: tuple[int, ...]) -> list[list[int]]:
    if not numbers:
        return [[]]
    return [[sign * numbers[0], *rest] for sign in (1, -1) for rest in signs(numbers[1:])]


def whole_values(numbers: tuple[int, ...]) -> set[int]:
    """What classic Countdown reaches, by combining two numbers at a time."""
    if len(numbers) == 1:
        return {numbers[0]}
    values = set()
    for i, j in permutations(range(len(numbers)), 2):
        rest = tuple(n for k, n in enumerate(numbers) if k not in (i, j))
        a, b = numbers[i], numbers[j]
        results = [a + b, a * b] + [a - b] * (a >= b) + [a // b] * (b > 0 and a % b == 0)
        for result in results:
            values |= whole_values((*rest, result))
    return values


def test_solutions_are_legal_distinct_and_complete_if_numbers_are_equal_or_cancel() -> None:
    assert solutions([3], 3) == {"3"}
    assert solutions([6, 1], 6) == {"6*1", "6/1"}
    assert solutions([5, 3], 2) == {"5-3"}
    assert solutions([5, 5, 3], 3) == {"5+3-5", "5*3/5"}
    assert solutions([2, 2, 2], 2) == {"2+2-2", "2*2-2", "2*2/2", "(2+2)/2"}
    assert solutions([3, 3, 8, 8], 24) == {"8/(3-8/3)"}
    # Adding or subtracting a term worth 0 is the same, but it matters which term that is.
    assert solutions([1, 4, 9, 9], 1) == {"1+4*(9-9)", "1+(9-9)/4"}
    # A sum worth 0 is its own opposite in value, but is still written in one way only.
    assert solutions([9, 9, 6, 3, 2], 0) & {"9+6-9-3*2", "9+3*2-9-6", "6+9-9-3*2"} == {"9+3*2-9-6"}


def test_every_listed_solution_is_right() -> None:
    for numbers, target in [([2, 3, 5, 10], 10), ([1, 2, 3, 4], 24), ([2, 2, 4, 4], 8)]:
        texts = solutions(numbers, target)
        assert len(texts) >= 4
        for text in texts:
            reward = expression_reward(
                f"</think><answer>{text}</answer>", numbers, target, "+-*/", 0
            )
            assert reward.value == 1, text


@pytest.mark.parametrize(
    ("numbers", "target", "plus_minus", "integers"),
    [
        ([1, 2, 3], 6, True, True),
        ([9, 2, 3], 14, True, True),
        ([9, 2, 3], 15, False, True),
        ([3, 3, 8, 8], 24, False, False),
        ([1, 5, 5, 5], 24, False, False),
        ([1, 1, 1], 90, False, False),
    ],
)
def test_which_operators_and_integers_suffice(
    numbers: list[int], target: int, plus_minus: bool, integers: bool
) -> None:
    assert plus_minus_suffices(numbers, target) is plus_minus
    assert integers_suffice(tuple(numbers), target) is integers


def test_solver_takes_six_numbers_and_keeps_to_the_operators() -> None:
    expression = solve([3, 7, 9, 25, 50, 75], 952)
    assert expression is not None
    assert evaluate_expression(expression)[0] == 952  # type: ignore[index]
    assert solve([1] * 6, 952) is None
    assert solve([2, 3, 4], 24) is not None
    assert solve([2, 3, 4], 24, "+-") is None
    assert set(str(solve([2, 3, 4], 1, "+-"))) <= set("234+-()")
    assert solve([9, 3], 27, "*/") == "3*9"
    assert solve([9, 4, 2], 7, "-") in ("9-(4-2)", "2-(4-9)")


# The data files

ROWS = [Row(98, (44, 19, 35)), Row(24, (3, 3, 8, 8)), Row(6, (1, 2, 3))]


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_rows_come_back_as_written(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows.{suffix}"
    write_rows(path, ROWS)
    assert read_rows(path) == read_rows(str(path)) == ROWS
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_parquet_is_the_public_layout(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.parquet", ROWS)
    table = pyarrow.parquet.read_table(tmp_path / "rows.parquet")
    assert table.schema.field("target").type == pyarrow.int64()
    assert table.schema.field("nums").type == pyarrow.list_(pyarrow.int64())
    assert table.to_pylist()[0] == {"target": 98, "nums": [44, 19, 35]}


def test_jsonl_may_have_more_columns(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(
        '{"target": 6, "nums": [1, 2, 3], "note": "\u2028"}\n{"nums": [4, 5], "target": 9}'
    )
    assert read_rows(path) == [Row(6, (1, 2, 3)), Row(9, (4, 5))]


GOOD = '{"target": 6, "nums": [1, 2, 3]}\n'


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"target": 6}', "row 1 .* must be an object with target and nums"),
        ("[1, 2]", "row 1 .* must be an object"),
        ("{", "row 1 .* is not JSON: '{'"),
        ("", "row 1 .* is not JSON: ''"),
        (
            '{"target": 6.0, "nums": [1, 2]}',
            "row 1 .* has target 6.0: it must be a positive integer",
        ),
        ('{"target": true, "nums": [1, 2]}', "row 1 .* has target True"),
        ('{"target": null, "nums": [1, 2]}', "row 1 .* has target None"),
        ('{"target": 0, "nums": [1, 2]}', "row 1 .* has target 0"),
        ('{"target": 6, "nums": 3}', "row 1 .* has nums 3: it must be a list of 2 to 6"),
        ('{"target": 6, "nums": [6]}', r"row 1 .* has nums \[6\]"),
        ('{"target": 6, "nums": [1, 1, 1, 1, 1, 1, 1]}', "row 1 .* must be a list of 2 to 6"),
        ('{"target": 6, "nums": [1, "2"]}', "row 1 .* has '2' in nums"),
        ('{"target": 6, "nums": [1, 0]}', "row 1 .* has 0 in nums: each must be a positive"),
    ],
)
def test_a_malformed_row_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(GOOD + line + "\n" + GOOD)
    with pytest.raises(UserError, match=message) as caught:
        read_rows(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"target": [6], "numbers": [[1, 2, 3]]}, r"no column 'nums' \(it has target, numbers\)"),
        ({"goal": [6], "nums": [[1, 2, 3]]}, "no column 'target'"),
        ({"target": [6, None], "nums": [[1, 2, 3], [1, 2]]}, "row 1 .* has target None"),
        ({"target": [6.5], "nums": [[1, 2, 3]]}, "row 0 .* has target 6.5"),
        ({"target": [6], "nums": [[1, -2, 3]]}, "row 0 .* has -2 in nums"),
        ({"target": [], "nums": []}, "has no rows"),
    ],
)
def test_a_malformed_parquet_file_is_described(
    tmp_path: Path, columns: dict[str, list], message: str
) -> None:
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "rows.parquet")
    with pytest.raises(UserError, match=message):
        read_rows(tmp_path / "rows.parquet")


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 and nothing more")
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe")
    (tmp_path / "rows.csv").write_text("target,nums\n")
    (tmp_path / "empty.jsonl").write_text("")
    for name, message in [
        ("torn.parquet", "as parquet"),
        ("binary.jsonl", "cannot read"),
        ("rows.csv", "ends in .parquet or .jsonl"),
        ("none.parquet", "no data file"),
        ("none", "no data file"),
        ("empty.jsonl", "row 0 .* is not JSON"),
    ]:
        with pytest.raises(UserError, match=message) as caught:
            read_rows(tmp_path / name)
        assert name in str(caught.value)


def test_files_that_cannot_be_written_are_named_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ends in \.parquet or \.jsonl"):
        write_rows(tmp_path / "rows.csv", ROWS)
    for suffix in ("parquet", "jsonl"):
        with pytest.raises(UserError, match=r"cannot write .*none"):
            write_rows(tmp_path / "none" / f"rows.{suffix}", ROWS)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*: Not a directory"):
        write_rows(tmp_path / "file" / "rows.jsonl", ROWS)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_was_written_before_survives_a_failed_write(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_rows(path, ROWS)

    def broken() -> Iterator[Row]:
        yield ROWS[0]
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match=r"cannot write .*: No space left on device"):
        write_rows(path, broken())
    assert read_rows(path) == ROWS
    assert [file.name for file in tmp_path.iterdir()] == ["rows.jsonl"]


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.parquet", ROWS)
    for module in ("pyarrow", "pyarrow.parquet", "datasets"):
        monkeypatch.setitem(sys.modules, module, None)
    for action in (
        lambda: read_rows(tmp_path / "rows.parquet"),
        lambda: write_rows(tmp_path / "new.parquet", ROWS),
        lambda: read_rows("somebody/some-rows"),
    ):
        with pytest.raises(UserError, match=r"is not installed: pip install 'tinyzero\[data\]'"):
            action()


def test_a_hub_dataset_is_read_from_its_train_split(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    class Hub(dict):
        column_names = ("target", "nums")

    def load_dataset(name: str, split: str) -> Hub:
        asked.append((name, split))
        if name != "somebody/some-rows":
            raise RuntimeError("Dataset does not exist\nsee the log")
        return Hub(target=[6], nums=[[1, 2, 3]])

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    assert read_rows("somebody/some-rows") == [Row(6, (1, 2, 3))]
    assert asked == [("somebody/some-rows", "train")]
    with pytest.raises(
        UserError, match=r"cannot load somebody/none from the hub: Dataset does not exist$"
    ):
        read_rows("somebody/none")


def test_tinyzeros_split_is_by_row() -> None:
    train, test = tinyzero_split(range(400_000))
    assert (train[0], train[-1], test[0], test[-1]) == (0, 327_679, 327_680, 328_703)
    with pytest.raises(UserError, match="needs 328,704 rows, but there are only 328,703"):
        tinyzero_split(range(328_703))


def test_stats_of_a_file_worked_out_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        Row(6, (1, 2, 3)),  # 1+2+3
        Row(6, (3, 2, 1)),  # the same problem in another order
        Row(5, (1, 2, 3)),  # another target; 2*3-1 needs a product
        Row(24, (3, 3, 8, 8)),  # needs division
        Row(22, (8, 3, 8, 3)),  # 8+8+3+3
        Row(22, (3, 3, 8, 8)),  # a permutation of the row before
        Row(6, (2, 1, 3)),  # a permutation of the first
    ]
    expected = {
        "rows": 7,
        "by_count": {"3": 4, "4": 3},
        "numbers": [1, 8],
        "targets": [5, 24],
        "permutation_duplicates": 3,
        "plus_minus": pytest.approx(5 / 7),
        "plus_minus_by_count": {"3": 0.75, "4": pytest.approx(2 / 3)},
        "tinyzero_split": None,
    }
    assert stats(rows) == expected
    monkeypatch.setattr(countdown_data, "TINYZERO_TRAIN", 4)
    monkeypatch.setattr(countdown_data, "TINYZERO_TEST", 3)
    # The last three rows are all sums; only the last one reorders one of the first four.
    assert stats(rows) == expected | {"tinyzero_split": {"test": 3, "plus_minus": 3, "leaks": 1}}
    json.dumps(stats(rows))


def test_vectorised_plus_minus_agrees_with_the_solver() -> None:
    rng = random.Random(0)
    rows = [
        Row(rng.randint(1, 20), tuple(rng.randint(1, 20) for _ in range(rng.randint(2, 6))))
        for _ in range(500)
    ]
    solved = countdown_data._plus_minus(rows).tolist()
    assert solved == [plus_minus_suffices(row.nums, row.target) for row in rows]
    assert 100 < sum(solved) < 400


# The task over a data file


def test_rows_of_a_file_are_split_by_their_numbers(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    drawn = [Countdown().problem(split, index).fields for split in SPLITS for index in range(4)]
    rows = [
        Row(fields["target"], tuple(order))
        for fields in drawn
        for order in sorted(permutations(fields["numbers"]))[:2]
    ]
    write_rows(path, rows)
    task = Countdown(CountdownOptions(data=str(path)))
    for split in SPLITS:
        mine = [row for row in rows if split_of(row.nums) == split]
        assert len(mine) == 8
        for index in range(9):  # the first row follows the last one
            problem = task.problem(split, index)
            row = mine[index % 8]
            assert problem.fields == {"numbers": list(row.nums), "target": row.target}
            assert (problem.split, problem.key) == (split, key_of(row.nums))


def test_tinyzeros_own_split_is_an_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(countdown_data, "TINYZERO_TRAIN", 2)
    monkeypatch.setattr(countdown_data, "TINYZERO_TEST", 1)
    write_rows(tmp_path / "rows.jsonl", ROWS)
    task = Countdown(CountdownOptions(data=str(tmp_path / "rows.jsonl"), data_split="tinyzero"))
    assert [task.problem("train", index).fields["target"] for index in range(3)] == [98, 24, 98]
    assert task.problem("test", 0).fields == {"numbers": [1, 2, 3], "target": 6}


def test_a_row_without_solution_is_named_when_drawn(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", [Row(90, (1, 1, 1))])
    task = Countdown(CountdownOptions(data=str(tmp_path / "rows.jsonl")))
    home = split_of([1, 1, 1])
    with pytest.raises(
        UserError, match=r"row 0 of .*rows.jsonl \(target 90, nums \[1, 1, 1\]\) has no solution"
    ):
        task.problem(home, 0)
    empty = next(split for split in SPLITS if split != home)
    with pytest.raises(UserError, match=f"has no rows in split '{empty}'"):
        task.problem(empty, 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"target": 10000000000000000000, "nums": [9, 1]}', "row 0 .* at most 19 digits"),
        ('{"target": 9, "nums": [10000000000000000000, 1]}', "row 0 .* at most 19 digits"),
        ("[" * 100_000, "row 0 .* is not JSON"),
        ('{"target": ' + "1" * 5000 + ', "nums": [1, 2]}', "row 0 .* is not JSON"),
        ('{"target": 3, "nums": [1, 2]}\n\n{"target": 3, "nums": [1, 2]}', "row 1 .* is not JSON"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        read_rows(path)
    assert len(str(caught.value)) < 300


def test_empty_lines_at_the_end_are_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    for end in ("", "\n", "\n\n", "\r\n \n"):
        path.write_text('{"target": 3, "nums": [1, 2]}' + end)
        assert read_rows(path) == [Row(3, (1, 2))]


def test_the_largest_numbers_are_computed_exactly() -> None:
    largest = 10**19 - 1
    rows = [Row(2, (largest, largest, 4)), Row(2, (largest, largest - 2)), Row(largest, (1, 2))]
    assert stats(rows)["plus_minus"] == pytest.approx(1 / 3)
    # 2 * (2**63 - 1) + 4 is 2 in 64 bits
    assert stats([Row(2, (2**63 - 1, 2**63 - 1, 4))])["plus_minus"] == 0
