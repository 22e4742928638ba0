"""The task write-tests: its functions, their mutants, what is read as tests, and the reward."""

from __future__ import annotations

import ast
import json
import random
import time
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyzero.errors import UserError
from tinyzero.grading import extract_answer
from tinyzero.tasks import corpora, load_task
from tinyzero.tasks.check import examine
from tinyzero.tasks.prompts import TEMPLATES
from tinyzero.tasks.splits import split_by_key
from tinyzero.tasks.write_tests import WriteTests, WriteTestsOptions, corpus
from tinyzero.tasks.write_tests.corpus import SuitesOptions
from tinyzero.tasks.write_tests.functions import (
    COMPARISONS,
    Condition,
    Function,
    Value,
    compute,
    mutants,
    read,
    smallest_suite,
)
from tinyzero.tasks.write_tests.question import EXAMPLE, EXAMPLE_TESTS
from tinyzero.tasks.write_tests.suites import UnitTest, read_suite, suite_reward
from tinyzero.tasks.write_tests.task import key_of
from tinyzero.types import SPLITS, Problem

# a busy machine is not a failure
calm = settings(deadline=None, max_examples=150, derandomize=True)

CODE = "x*2 if x<7 else x+9"
PROBLEM = WriteTests().pose(CODE)

numbers = st.integers(0, 99)
values = st.builds(Value, st.sampled_from(["+", "-", "*", ""]), numbers)
conditions = st.builds(Condition, st.sampled_from(COMPARISONS), numbers)


@st.composite
def functions(pick: Any) -> Function:
    count = pick(st.integers(1, 3))
    chosen = [pick(values) for _ in range(count + 1)]
    return Function(tuple(chosen), tuple(pick(conditions) for _ in range(count)))


def answered(tests: str) -> str:
    return f"</think>\n<answer>{tests}</answer>"


def python_value(code: str, x: int) -> int:
    """What Python computes: the slow reference. `code` is our own, never a model's."""
    compiled = compile(ast.parse(code, mode="eval"), "reference", "eval")
    return int(eval(compiled, {"__builtins__": {}}, {"x": x}))


# Functions and mutants


@calm
@given(functions(), st.integers(0, 99))
def test_a_function_computes_what_its_code_computes_in_python(function: Function, x: int) -> None:
    assert compute(function, x) == python_value(function.code, x)


@calm
@given(functions())
def test_code_is_read_back(function: Function) -> None:
    assert read(function.code) == function


@pytest.mark.parametrize(
    "code",
    [
        "",
        "x",
        "x+1",
        "x*2 if x<7",
        "x*2 if x<7 else",
        "x*2 if x!=7 else x",
        "x*x if x<7 else 1",
        "y*2 if x<7 else 1",
        "x**2 if x<7 else 1",
        "x*2 if 7>x else 1",
        "x*1000 if x<7 else 1",
        "x*٢ if x<7 else 1",
        "1 if x<1 else 2 if x<2 else 3 if x<3 else 4 if x<4 else 5",
        "__import__('os') if x<7 else 1",
        "1 if x<7 else " * 100_000,
    ],
)
def test_other_code_is_rejected_in_one_line(code: str) -> None:
    with pytest.raises(UserError, match="is not a function of this task: write one to 3") as caught:
        WriteTests().pose(code)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


def caught_at(code: str) -> dict[str, list[int]]:
    return {m.function.code: sorted(m.caught_at) for m in mutants(read(code), 20)}


def test_mutants_of_one_condition_worked_out_by_hand() -> None:
    assert caught_at(CODE) == {
        "x*2 if x<6 else x+9": [6],  # 12 became 15
        "x*2 if x<8 else x+9": [7],  # 16 became 14
        "x*3 if x<7 else x+9": [1, 2, 3, 4, 5, 6],  # 0*2 is 0*3
        "x*2 if x<7 else x+10": list(range(7, 21)),
    }


def test_mutants_of_an_equality_worked_out_by_hand() -> None:
    assert caught_at("4 if x==7 else x-2") == {
        "4 if x==6 else x-2": [7],  # 6-2 is 4 as well, so 6 does not show it
        "4 if x==8 else x-2": [7, 8],
        "5 if x==7 else x-2": [7],
        "4 if x==7 else x-3": [x for x in range(21) if x != 7],
    }


def test_a_mutant_that_no_input_shows_is_left_out() -> None:
    """At 9, x*2 and x+9 are equal, so the condition may as well be x<10."""
    assert list(caught_at("x*2 if x<9 else x+9")) == [
        "x*2 if x<8 else x+9",
        "x*3 if x<9 else x+9",
        "x*2 if x<9 else x+10",
    ]


@pytest.mark.parametrize("split", SPLITS)
def test_no_mutant_of_a_problem_equals_its_function(split: Any) -> None:
    for index in range(60):
        code = WriteTests().problem(split, index).fields["code"]
        expected = [python_value(code, x) for x in range(21)]
        for mutant in mutants(read(code), 20):
            returned = [python_value(mutant.function.code, x) for x in range(21)]
            differ = {x for x in range(21) if returned[x] != expected[x]}
            assert differ == mutant.caught_at != set()


def test_the_smallest_suite_is_that_of_an_exhaustive_search() -> None:
    for index in range(40):
        function = read(WriteTests().problem("train", index).fields["code"])
        wanted = [m.caught_at for m in mutants(function, 20)]
        fewest = next(
            count
            for count in range(1, 5)
            for inputs in combinations(range(21), count)
            if all(not at.isdisjoint(inputs) for at in wanted)
        )
        suite = smallest_suite(function, 20, most=4)
        assert suite is not None
        assert len(suite) == fewest
        assert all(not at.isdisjoint(suite) for at in wanted)
        assert smallest_suite(function, 20, most=fewest - 1) is None


# Reading tests


@pytest.mark.parametrize(
    "answer",
    [
        "f(6)=12 f(7)=16",
        "f(6)=12,f(7)=16",
        "f(6)=12; f(7)=16;",
        "\n f(6) = 12\n f(7) = 16 \n",
        "f(6)==12\r\nf(7)==16",
        "f( 6 )=12 \t f(7)=16,",
    ],
)
def test_ways_to_write_the_same_tests(answer: str) -> None:
    assert read_suite(answer, 4, 20) == [UnitTest(6, 12), UnitTest(7, 16)]


@pytest.mark.parametrize(
    "answer",
    [
        "",
        " ",
        "f",
        "f(6)",
        "f(6)=",
        "f(6)=12 and f(7)=16",
        "f(6)=12 # f(7)=16",
        "f(6)=6*2",
        "f(6)=12.0",
        "f(6)=1e1",
        "f(6)=012",
        "f(06)=12",
        "f(6)=-0",
        "f(6)=+12",
        "f(6)=1_2",
        "f(٦)=12",
        "f(6)=1234567890",
        "f(21)=30",
        "f(-1)=-2",
        "f(x)=x*2",
        "assert f(6)=12",
        "g(6)=12",
        "F(6)=12",
        "f(6)!=12",
        "f(6)=12f(7)=16",
        "f(6)===12",
        "f(6)=12,,f(7)=16",
        ",f(6)=12",
        "f(6)=12\u00a0f(7)=16",
        "f(1)=2 f(2)=4 f(3)=6 f(6)=12 f(7)=16",
    ],
)
def test_other_answers_are_not_tests(answer: str) -> None:
    assert read_suite(answer, 4, 20) is None
    assert WriteTests().reward(PROBLEM, answered(answer)).value == 0


@calm
@given(st.lists(st.builds(UnitTest, st.integers(0, 20), st.integers(-(10**6), 10**6)), min_size=1))
def test_tests_are_read_back(suite: list[UnitTest]) -> None:
    answer = " ".join(test.code for test in suite)
    assert read_suite(answer, len(suite), 20) == suite
    assert read_suite(answer, len(suite) - 1, 20) is None


HOSTILE = (
    " ",
    "f(6)=12 ",
    "f(6)=12",
    "f(",
    "f (",
    "f(6)=",
    "f(6)=1" + "2" * 50,
    "f(6)= \t\r\n",
    "\n\t ",
    ",;",
    "9",
    "-",
    "f(6)=12\n\n",
    "</think><answer>f(6)=12",
)


@pytest.mark.parametrize("part", HOSTILE)
def test_hostile_texts_take_linear_time(part: str) -> None:
    """A hundred thousand characters are read at once; in quadratic time they would take minutes."""
    text = part * (100_000 // len(part))
    started = time.process_time()
    for answer in (text, f"f(6)=12{text}", f"{text}x", f"f(6)=12{text}x"):
        read_suite(answer, 10**9, 20)
        WriteTests().reward(PROBLEM, answered(answer))
        WriteTests().measure(PROBLEM, answer)
        WriteTests().mark(PROBLEM, answer)
    assert time.process_time() - started < 2


# The reward


@pytest.mark.parametrize(
    ("tests", "value"),
    [
        ("f(6)=12 f(7)=16", 1.0),
        ("f(7)=16 f(6)=12", 1.0),
        ("f(0)=0 f(6)=12 f(7)=16 f(20)=29", 1.0),
        ("f(6)=12", 2 / 4),  # x<6 and x*3
        ("f(7)=16", 2 / 4),  # x<8 and x+10
        ("f(3)=6", 1 / 4),  # x*3
        ("f(0)=0", 0.0),
        ("f(3)=6 f(12)=21", 2 / 4),
        ("f(3)=6 f(3)=6", 1 / 4),
        ("f(6)=12 f(7)=17", 0.0),  # one test is false
        ("f(6)=15 f(7)=14", 0.0),  # the mutants' values
    ],
)
def test_a_reward_worked_out_by_hand(tests: str, value: float) -> None:
    reward = WriteTests().reward(PROBLEM, f"6<7 yes\n6*2=12\n{answered(tests)}")
    assert reward.value == value
    assert reward.right is (value == 1)
    assert reward.parts["answer"] == float(value == 1)
    assert reward.parts["format"] == 1


def test_the_parts_say_what_was_wrong() -> None:
    reward = WriteTests().reward
    false, unreadable = answered("f(6)=13"), answered("f(6)=12 and so on")
    assert reward(PROBLEM, false).parts == {"answer": 0, "format": 1, "true": 0}
    assert reward(PROBLEM, answered("f(0)=0")).parts == {"answer": 0, "format": 1, "true": 1}
    assert reward(PROBLEM, unreadable).parts == {"answer": 0, "format": 0, "true": 0}
    assert reward(PROBLEM, "f(6)=12 f(7)=16").value == 0, "the thinking did not end"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_conditions": 3, "max_tests": 6},
        {"min_conditions": 2, "max_input": 99},
        {"answer_only": True, "data_seed": 3},
        {"max_tests": 2, "max_conditions": 1},
        {"max_conditions": 3},
        {"max_input": 9, "max_conditions": 1},
    ],
)
def test_a_solution_catches_all_mutants_and_nonsense_never(options: dict[str, Any]) -> None:
    task = load_task("write-tests", options)
    for index in range(60):
        problem = task.problem(SPLITS[index % 3], index)
        solution = task.solution(problem)
        assert task.reward(problem, solution).value == 1
        assert all(not task.reward(problem, text).right for text in task.nonsense(problem))

        answer = solution if options.get("answer_only") else extract_answer(solution)
        suite = read_suite(answer or "", 9, 99)
        assert suite is not None
        assert len(suite) == task.describe(problem)["tests"] <= task.options.max_tests


@calm
@given(st.integers(0, 200), st.sets(st.integers(0, 20), min_size=1, max_size=4))
def test_true_tests_earn_the_share_of_mutants_that_fail_one_of_them(
    index: int, inputs: set[int]
) -> None:
    code = WriteTests().problem("dev", index).fields["code"]
    function = read(code)
    suite = [UnitTest(x, python_value(code, x)) for x in sorted(inputs)]
    reward = suite_reward(function, suite, 20)

    codes = [mutant.function.code for mutant in mutants(function, 20)]
    failing = [c for c in codes if any(python_value(c, t.x) != t.expected for t in suite)]
    assert reward.value == len(failing) / len(codes)

    spoilt = [suite[0]._replace(expected=suite[0].expected + 1), *suite[1:]]
    assert suite_reward(function, spoilt, 20).value == 0


@calm
@given(st.text(max_size=300))
def test_no_text_makes_the_reward_fail(text: str) -> None:
    for completion in (text, answered(text), answered(f"f(6)=12{text}")):
        reward = WriteTests().reward(PROBLEM, completion)
        assert 0 <= reward.value <= 1
        WriteTests().measure(PROBLEM, completion)
        WriteTests().mark(PROBLEM, completion)


def test_every_input_is_too_many_tests() -> None:
    every = " ".join(UnitTest(x, compute(read(CODE), x)).code for x in range(21))
    assert WriteTests().reward(PROBLEM, answered(every)).value == 0


def test_random_tests_leave_headroom() -> None:
    """Four true tests of random inputs: few catch everything, and more tests catch more."""
    rng = random.Random(0)
    mean: dict[int, float] = {}
    for count in (1, 4):
        rewards = []
        for index in range(200):
            function = read(WriteTests().problem("dev", index).fields["code"])
            inputs = rng.sample(range(21), count)
            suite = [UnitTest(x, compute(function, x)) for x in inputs]
            rewards.append(suite_reward(function, suite, 20))
        mean[count] = sum(reward.value for reward in rewards) / len(rewards)
    assert 0.1 < mean[1] < mean[4] < 0.6
    assert 0.01 < sum(bool(reward.right) for reward in rewards) / len(rewards) < 0.1


def test_check_task_passes() -> None:
    task = load_task("write-tests")
    check = examine(task, 8)
    assert check.failures == []
    assert check.attacks > 1000


# Problems


def test_a_problem_never_changes_between_releases() -> None:
    problem = WriteTests().problem("test", 0)
    assert (problem.id, problem.fields) == (
        "x+4 if x<13 else x-4",
        {"code": "x+4 if x<13 else x-4"},
    )
    assert problem.split == split_by_key(problem.key) == "test"


def test_equal_functions_have_one_key_and_no_key_is_in_two_splits() -> None:
    pairs = [
        ("x*2 if x<7 else x+9", "x*2 if x<=6 else x+9"),
        ("4 if x>3 else 5", "5 if x<4 else 4"),
    ]
    for one, other in pairs:
        assert key_of(read(one), 20) == key_of(read(other), 20)

    task = WriteTests()
    keys = [{task.problem(split, index).key for index in range(150)} for split in SPLITS]
    assert not keys[0] & keys[1] | keys[0] & keys[2] | keys[1] & keys[2]
    assert min(map(len, keys)) > 140


def test_problems_have_the_conditions_that_are_asked_for() -> None:
    task = WriteTests(WriteTestsOptions(max_conditions=3, max_tests=6))
    counts = [task.describe(task.problem("train", i))["conditions"] for i in range(120)]
    assert {counts.count(n) > 25 for n in (1, 2, 3)} == {True}


def test_a_problem_can_be_typed() -> None:
    task = WriteTests()
    for problem in (task.problem("test", index) for index in range(20)):
        assert task.pose(f" {task.line(problem)} ") == problem
    with pytest.raises(UserError, match="4 tests of inputs from 0 to 20 cannot catch every mutant"):
        task.pose("1 if x<3 else 2 if x<6 else 3 if x<9 else 4")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_conditions": 3}, "min_conditions 3 is above max_conditions 2"),
        ({"max_tests": 1}, "task.max_tests is 1"),
        ({"max_tests": 2}, "max_tests 2 is too few for max_conditions 2, .* use at least 3"),
        ({"tests": 3}, "unknown key task.tests"),
    ],
)
def test_wrong_options_are_answered_in_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_task("write-tests", options)
    assert "\n" not in str(caught.value)


def test_running_out_of_draws_is_answered_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinyzero.tasks.write_tests.task.MAX_DRAWS", 0)
    with pytest.raises(UserError, match="no function of split 'dev' in 0 draws: raise") as caught:
        load_task("write-tests").problem("dev", 0)
    assert "\n" not in str(caught.value)


# Prompts, labels and behaviours


def test_every_template_names_the_function_and_fits_what_is_rewarded() -> None:
    task, bare = WriteTests(), WriteTests(WriteTestsOptions(answer_only=True))
    assert task.prompt(PROBLEM, "compact") == f"{CODE}\n<think>\n"
    for template in TEMPLATES:
        right, wrong = (bare, task) if template == "instruct-short" else (task, bare)
        prompt = json.dumps(right.prompt(PROBLEM, template))
        assert CODE in prompt
        if template not in ("compact", "chat"):
            assert "at most 4 tests" in prompt
            assert "from 0 to 20" in prompt
        with pytest.raises(UserError, match="answer_only"):
            wrong.prompt(PROBLEM, template)
    with pytest.raises(UserError, match="unknown prompt template"):
        task.prompt(PROBLEM, "other")


def test_the_worked_example_is_right() -> None:
    task = WriteTests(WriteTestsOptions(answer_only=True))
    assert task.reward(task.pose(EXAMPLE), EXAMPLE_TESTS).right is True


def test_labels() -> None:
    assert WriteTests().describe(PROBLEM) == {"conditions": 1, "tests": 2}


def test_behaviours_counted_by_hand() -> None:
    task = WriteTests()
    thinking = "6<7 yes\n6*2=12\n7<7 yes\n7+9=17\n"  # 7<7 is no, and 7+9 is 16
    wrong = f"{thinking}{answered('f(6)=12 f(6)=12 f(7)=17')}"
    unreadable = answered("no idea")
    metrics = task.summarise([task.measure(PROBLEM, text) for text in (wrong, unreadable)])
    assert metrics == {
        "behaviour/tests": 3,  # over the one completion that has tests
        "behaviour/tests_true": pytest.approx(2 / 3),
        "behaviour/tests_repeated": pytest.approx(1 / 3),
        "behaviour/boundary_caught": 1 / 4,  # x<6 of x<6 and x<8, in one of two completions
        "behaviour/value_caught": 1 / 4,  # x*3 of x*3 and x+10
        "behaviour/guessed": 1 / 2,
        "behaviour/steps_true": 2 / 4,
    }
    assert set(metrics) <= set(task.glossary)


def test_tests_are_marked_in_the_text() -> None:
    text = f"f(3)=6\n{answered('f(3)=6, f(6)=12 f(7)=17')}"
    marked = [
        (event.kind, text[event.start : event.end]) for event in WriteTests().mark(PROBLEM, text)
    ]
    assert marked == [("test", "f(3)=6"), ("boundary", "f(6)=12"), ("false", "f(7)=17")]


# The corpus of the bundled base


def documents(options: SuitesOptions, count: int = 1500) -> list[tuple[str, str]]:
    rng = random.Random("documents")
    drawn = [corpus.document(rng, options) for _ in range(count)]
    assert all(text.endswith(corpora.END) for _, text in drawn)
    return [(prompt, text.removesuffix(corpora.END)) for prompt, text in drawn]


def posed(prompt: str) -> Problem:
    return WriteTests().pose(prompt.removesuffix("\n<think>\n"))


def test_the_corpus_poses_functions_of_the_train_split_and_says_nothing_false() -> None:
    task = WriteTests()
    for prompt, text in documents(SuitesOptions()):
        problem = posed(prompt) if prompt else PROBLEM
        counts = task.measure(problem, text if prompt else f"{text}</think>")
        assert counts["steps_true"] == counts["steps"]
        if prompt:
            assert problem.split == "train"
            assert task.prompt(problem, "compact") == prompt
        else:
            assert counts["steps"] == 14


def test_the_corpus_traces_inputs_to_true_tests_and_guesses_others() -> None:
    task = WriteTests()
    true: dict[int, list[int]] = {0: [], 1: []}
    rewards = []
    for prompt, text in documents(SuitesOptions(drills=0)):
        problem = posed(prompt)
        counts = task.measure(problem, text)
        assert counts["readable"]
        true[counts["guessed"]].append(counts["tests_true"] == counts["tests"])
        rewards.append(task.reward(problem, text))

    assert all(true[0]), "what is traced is true"
    assert 0.1 < sum(true[1]) / len(true[1]) < 0.5, "what is guessed is mostly false"
    assert len(true[1]) / 1500 == pytest.approx(0.4, abs=0.05)
    assert sum(bool(reward.right) for reward in rewards) / 1500 < 0.06, "there is headroom"


def test_inputs_are_chosen_by_the_habit_that_is_asked_for() -> None:
    def inputs_of(**shares: float) -> list[list[int]]:
        texts = documents(SuitesOptions(drills=0, **shares), 200)
        suites = [read_suite(extract_answer(text) or "", 4, 20) for _, text in texts]
        return [[test.x for test in suite or []] for suite in suites]

    rows = inputs_of(in_a_row=1.0, named=0.0)
    assert all(xs == list(range(xs[0], xs[0] + len(xs))) for xs in rows)
    anything = inputs_of(in_a_row=0.0, named=0.0)
    assert {len(xs) for xs in anything} == {1, 2, 3, 4}
    assert all(len(set(xs)) == len(xs) for xs in anything)

    for prompt, text in documents(SuitesOptions(drills=0, in_a_row=0, named=1), 200):
        function = read(prompt.removesuffix("\n<think>\n"))
        named = {part.number for part in function.values}
        named |= {part.number for part in function.conditions}
        suite = read_suite(extract_answer(text) or "", 4, 20)
        assert suite is not None
        assert {test.x for test in suite} <= named


def test_shares_of_the_corpus_that_add_up_to_too_much() -> None:
    with pytest.raises(ValueError, match="add up to more than 1"):
        SuitesOptions(in_a_row=0.6, named=0.6)
