"""reasoning-gym: exact graders, problems that every process agrees on, and answers that attack."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tinyzero import cli
from tinyzero.errors import UserError
from tinyzero.tasks import load_task
from tinyzero.tasks.base import NoSolution
from tinyzero.tasks.guarded import GuardedTask
from tinyzero.tasks.reasoning_gym.catalogue import (
    DATASETS,
    EXACT,
    OWN,
    REJECTED,
    REUSED,
    THEIRS,
    WITHOUT_LEVELS,
)
from tinyzero.tasks.reasoning_gym.graders import GRADERS, is_right
from tinyzero.tasks.reasoning_gym.polynomials import read_polynomial
from tinyzero.tasks.reasoning_gym.room import Room, room
from tinyzero.tasks.splits import split_by_key
from tinyzero.types import SPLITS, Problem

needs_package = pytest.mark.skipif(
    find_spec("reasoning_gym") is None, reason="needs the extra reasoning"
)
RUN_THE_ANSWER = (
    "binary_matrix",
    "countdown",
    "intermediate_integration",
    "n_queens",
    "polynomial_multiplication",
    "puzzle24",
    "simple_integration",
    "spiral_matrix",
    "string_insertion",
)
"""Datasets whose own scorers in reasoning-gym 0.1.25 give the answer to eval or to sympy."""

LOCK = {
    "initial_value": 0,
    "initial_state": "red",
    "target_value": 4,
    "buttons": [
        {"name": "A", "type": "add", "value": 2, "active_state": "any"},
        {"name": "B", "type": "multiply", "value": 2, "active_state": "green"},
        {"name": "C", "type": "subtract", "value": 2, "active_state": "red"},
    ],
}
QUEENS = {"puzzle": [list("_Q__"), *[list("____")] * 3]}
SUMS = {"row_sums": [3, 2], "col_sums": [1, 3]}  # the grid 11 / 01
COUNTS = {"numbers": [3, 5, 12], "target": 24}
POLYNOMIAL = "2*x**2 - 4*x*y + 7"

RIGHT: list[tuple[str, str, str, Mapping[str, Any]]] = [
    ("gcd", " 12 ", "12", {}),
    ("binary_matrix", "0 1\n1  0", "0 1\n1 0", {}),
    ("spiral_matrix", "1 2 3", "1 2 3", {}),
    ("string_insertion", "ABC", "ABC", {}),
    ("survo", "1 2\n3 4", "1 2\n3 4", {}),
    ("letter_jumble", "why not", "Why Not", {}),
    ("game_of_life_halting", "true", "True", {}),
    ("countdown", "12*(5-3)", "(5 - 3)*12", COUNTS),
    ("puzzle24", "4*(6/2+3)", "", {"numbers": [6, 2, 3, 4]}),
    ("complex_arithmetic", "9 + 3i", "9.0 + 3.0i", {}),
    ("complex_arithmetic", "-i", "0.0 - 1.0i", {}),
    ("gsm_symbolic", "1,185.0", "1185", {}),
    ("prime_factorization", "107 x 5", "5 × 107", {}),
    ("kakurasu", "1 1\n0 1", "", SUMS),
    ("knights_knaves", "Bo is a sage and Al is a fool", "Al is a fool, and Bo is a sage.", {}),
    ("n_queens", "_ Q _ _\n_ _ _ Q\nQ _ _ _\n_ _ Q _", "", QUEENS),
    ("polynomial_multiplication", "7 - 4*y*x + x^2 + x**2", POLYNOMIAL, {}),
    ("bitwise_arithmetic", "-9641", "-0x25a9", {}),
    ("number_sorting", '["-3.50", 2]', "['-3.5', '2']", {}),
    ("quantum_lock", "A -> B", "A → B", LOCK),
    ("quantum_lock", "A A", "A → B", LOCK),
]
WRONG: list[tuple[str, str, str, Mapping[str, Any]]] = [
    ("gcd", "12 or 13", "12", {}),
    ("binary_matrix", "[[0, 1], [1, 0]]", "0 1\n1 0", {}),
    ("string_insertion", "abc", "ABC", {}),
    ("survo", "1 2 purple\n3 4", "1 2\n3 4", {}),
    ("letter_jumble", "why not monkey", "why not", {}),
    ("game_of_life_halting", "False", "True", {}),
    ("game_of_life_halting", "any text", "True", {}),
    ("countdown", "12+12", "(5 - 3)*12", COUNTS),
    ("countdown", "12*(5-3)*3/3", "(5 - 3)*12", COUNTS),
    ("puzzle24", "6*4*1*1", "", {"numbers": [6, 2, 3, 4]}),
    ("complex_arithmetic", "nan", "9.0 + 3.0i", {}),
    ("complex_arithmetic", "nan+nanj", "9.0 + 3.0i", {}),
    ("complex_arithmetic", "9.0", "9.0 + 3.0i", {}),
    ("complex_arithmetic", "1e999", "9.0 + 3.0i", {}),
    ("gsm_symbolic", "185 apples, or 186", "185", {}),
    ("gsm_symbolic", "9" * 2000, "185", {}),
    ("prime_factorization", "535", "5 × 107", {}),
    ("prime_factorization", "five", "5 × 107", {}),
    ("prime_factorization", "5 × 107 × 1", "5 × 107", {}),
    ("kakurasu", "1 1 purple\n0 1", "", SUMS),
    ("kakurasu", "1 0\n0 1", "", SUMS),
    (
        "knights_knaves",
        "Al is a fool, and Bo is a sage, and so on",
        "Al is a fool, and Bo is a sage",
        {},
    ),
    (
        "knights_knaves",
        "Al is a fool, Bo is a sage, Bo is a fool",
        "Al is a fool, and Bo is a sage",
        {},
    ),
    ("n_queens", "Q _ _ _\n_ _ Q _\n_ _ _ _\n_ _ _ _", "", QUEENS),
    ("n_queens", "_ _ Q _\nQ _ _ _\n_ _ _ Q\n_ Q _ _", "", QUEENS),  # the given queen was moved
    ("n_queens", "purple", "", QUEENS),
    ("polynomial_multiplication", "(x + 1)*(x - 1)", "x**2 - 1", {}),
    ("polynomial_multiplication", "x**2 - 1 + 0.5", "x**2 - 1", {}),
    ("quantum_lock", "A B purple", "A → B", LOCK),
    ("quantum_lock", "A B C A", "A → B", LOCK),  # opens it, but is not the shortest
    ("quantum_lock", "C A", "A → B", LOCK),
    ("bitwise_arithmetic", "0x25a9", "-0x25a9", {}),
    ("bitwise_arithmetic", "3 - 3", "0x0", {}),
    ("number_sorting", "[2, -3.5]", "['-3.5', '2']", {}),
    ("number_sorting", "[NaN, 2]", "['-3.5', '2']", {}),
    ("number_sorting", "[" * 1000, "['-3.5', '2']", {}),
]


@pytest.mark.parametrize(("dataset", "answer", "expected", "given"), RIGHT)
def test_a_right_answer_counts(
    dataset: str, answer: str, expected: str, given: Mapping[str, Any]
) -> None:
    assert is_right(dataset, answer, expected, given)


@pytest.mark.parametrize(("dataset", "answer", "expected", "given"), WRONG)
def test_a_wrong_answer_and_junk_do_not_count(
    dataset: str, answer: str, expected: str, given: Mapping[str, Any]
) -> None:
    assert not is_right(dataset, answer, expected, given)


@pytest.mark.parametrize("text", ["", "x+", "x x", "2x", "x**y", "x**-1", "x**9999", "--x", "1/0"])
def test_what_is_no_polynomial(text: str) -> None:
    assert read_polynomial(text) is None


def test_like_terms_are_added_and_zeros_dropped() -> None:
    assert read_polynomial("3*x - 3*x + 2*x*x*3") == {(("x", 2),): 6}
    assert read_polynomial("0") == {}
    assert read_polynomial("1+" * 1999 + "1") == {(): 2000}
    assert read_polynomial("1+" * 100_000 + "1") is None


def test_every_grader_is_of_a_dataset_that_we_grade() -> None:
    assert set(GRADERS) == OWN
    assert not (EXACT & OWN) | (EXACT & THEIRS) | (OWN & THEIRS)
    assert not set(REJECTED) & set(DATASETS)
    assert set(RUN_THE_ANSWER) <= OWN | set(REJECTED)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"datasets": ["chain_sums"]}, "did you mean chain_sum?"),
        ({"datasets": ["simple_integration"]}, "its scorer runs the answer as code"),
        ({"datasets": "gcd, gcd"}, "use weights"),
        ({"datasets": []}, "is empty"),
        ({"datasets": ["gcd"], "weights": {"lcm": 2.0}}, "weights names lcm: use one of gcd"),
        ({"datasets": ["gcd"], "weights": {"gcd": 0.0}}, "use a number above 0"),
        ({"datasets": ["acre"], "level": 1}, "acre has no levels"),
        ({"datasets": ["survo"], "level": 2}, "highest level of survo is 1"),
        ({"datasets": ["gcd"], "config": {"seed": 1}}, "data_seed"),
        ({"datasets": ["gcd", "lcm"], "config": {"max_value": 1}}, "is not the table"),
    ],
)
def test_a_mistake_in_the_options_is_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_task("reasoning-gym", options)
    assert "\n" not in str(caught.value)


def test_each_dataset_has_its_share_of_any_stretch() -> None:
    weights = {"gcd": 2.0, "lcm": 1.0, "ab": 0.5}
    owner = load_task("reasoning-gym", {"datasets": list(weights), "weights": weights}).owner
    names = [owner.dataset_at(index) for index in range(70)]
    assert Counter(names) == {"gcd": 40, "lcm": 20, "ab": 10}
    for first in range(0, 60):
        assert 6 <= names[first : first + 14].count("gcd") <= 10


def test_without_the_package_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(UserError, match=r"pip install 'tinyzero\[reasoning\]'"):
        Room().draw(("gcd", None, "{}"), 0, "train", 0)


def test_only_datasets_with_our_own_graders_are_graded_in_the_run_itself() -> None:
    assert load_task("reasoning-gym", {"datasets": ["gcd", "puzzle24"]}).trusted
    assert not load_task("reasoning-gym", {"datasets": ["gcd", "sudoku"]}).trusted


# --- with the package


def gym(*names: str, **options: Any) -> GuardedTask:
    return load_task("reasoning-gym", {"datasets": list(names), **options})


def answered(answer: str) -> str:
    return f"</think>\n<answer>{answer}</answer>"


@pytest.mark.slow
@needs_package
def test_the_lists_are_those_of_the_package() -> None:
    code = """if True:
        import json
        from reasoning_gym.dataset import ProceduralDataset
        from reasoning_gym.factory import CURRICULA, DATASETS
        plain = [name for name, (kind, _) in DATASETS.items()
                 if kind.score_answer is ProceduralDataset.score_answer]
        print(json.dumps([list(DATASETS), plain, list(CURRICULA)]))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names, plain, curricula = json.loads(done.stdout.splitlines()[-1])
    assert set(names) == {*DATASETS, *REJECTED}
    assert set(plain) >= EXACT
    assert set(plain) <= EXACT | OWN
    assert {*names} - {*curricula} - {"composite"} == WITHOUT_LEVELS


SEEN = ["isomorphic_strings", "ransom_note", "list_functions", "word_ladder", "spell_backward"]


@needs_package
def test_other_processes_and_orders_see_the_same_problems() -> None:
    code = """if True:
        import json, sys
        from tinyzero.tasks import load_task
        names, indices = json.loads(sys.argv[1])
        task = load_task("reasoning-gym", {"datasets": names})
        drawn = {index: task.problem("train", index) for index in indices}
        print(json.dumps([[drawn[i].id, drawn[i].fields["question"]] for i in sorted(drawn)]))
        assert "reasoning_gym" not in sys.modules and "matplotlib" not in sys.modules
    """
    indices = list(range(2 * len(SEEN)))
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps([SEEN, indices[::-1]])],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": "2"},
    )
    assert done.returncode == 0, done.stderr
    task = gym(*SEEN)
    here = [task.problem("train", index) for index in indices]
    assert json.loads(done.stdout) == [[each.id, each.fields["question"]] for each in here]


@needs_package
def test_the_text_of_the_question_decides_the_split() -> None:
    task = gym("coin_flip", "gcd")
    for split in SPLITS:
        problems = [task.problem(split, index) for index in range(20)]
        assert all(split_by_key(problem.key) == problem.split == split for problem in problems)
        questions = [problem.fields["question"].encode() for problem in problems]
        assert [problem.key for problem in problems] == [sha256(q).hexdigest() for q in questions]


def exploit(path: Path) -> str:
    return f"__import__('pathlib').Path({str(path)!r}).write_text('x')"


def source(name: str) -> tuple[str, None, str]:
    return name, None, "{}"


@needs_package
@pytest.mark.parametrize("name", RUN_THE_ANSWER)
def test_an_answer_that_writes_a_file_does_not(name: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    # the package's own scorer, which we do not use: the guard of the process must stop it
    seed = 12345 if name != "intermediate_integration" else 1
    assert room().score(source(name), seed, exploit(canary)) <= 0.05
    assert not canary.exists()

    if name in OWN:
        problem = gym(name).problem("train", 0)
        assert gym(name).reward(problem, answered(exploit(canary))).value == 0
        assert not canary.exists()


@needs_package
def test_no_answer_replaces_the_scorers() -> None:
    base = "__import__('reasoning_gym').dataset.ProceduralDataset"
    attack = f"setattr({base}, 'score_answer', lambda *a: 1.0) or [[1]]"
    for _ in range(2):
        assert room().score(source("binary_matrix"), 7, attack) < 1
        assert room().score(source("gcd"), 7, "garbage") == 0


@needs_package
def test_the_known_tricks_are_worth_nothing() -> None:
    tricks = {
        "game_of_life_halting": "maybe",
        "complex_arithmetic": "nan",
        "puzzle24": "6*4*1*1",
        "prime_factorization": "no numbers",
        "sokoban": "purple",
    }
    for name, trick in tricks.items():
        problem = gym(name).problem("train", 1)
        reward = gym(name).reward(problem, answered(trick))
        assert (reward.value, reward.right, reward.parts["format"]) == (0, False, 1)


JUNKED = [
    "gsm_symbolic",
    "kakurasu",
    "knights_knaves",
    "letter_jumble",
    "quantum_lock",
    "sokoban",
    "survo",
]


@needs_package
@pytest.mark.parametrize("name", JUNKED)
def test_the_answer_with_junk_is_wrong(name: str) -> None:
    task = gym(name)
    problem = task.problem("train", 0)
    answer = problem.fields["answer"]
    assert task.reward(problem, task.solution(problem)).right is True
    for text in (f"{answer} purple monkey", f"purple monkey {answer}", f"{answer}\npurple monkey"):
        assert task.reward(problem, answered(text)).right is False


@needs_package
def test_the_own_solution_is_right_and_a_part_is_not() -> None:
    task = gym("chain_sum", "word_sorting", "isomorphic_strings", "countdown", "number_sorting")
    for index in range(10):
        problem = task.problem("train", index)
        assert task.reward(problem, task.solution(problem)).value == 1
        half = task.reward(problem, answered(problem.fields["answer"] + " and more"))
        assert (half.value, half.right) == (0, False)
        assert 0 <= half.parts["score"] < 1
        assert task.reward(problem, f"<answer>{problem.fields['answer']}</answer>").value == 0
        assert task.reward(problem, answered(problem.fields["answer"] + " " * 10_000)).value == 0


@needs_package
def test_a_dataset_without_answers_says_so() -> None:
    task = gym("graph_color")
    problem = task.problem("train", 0)
    with pytest.raises(NoSolution):
        task.solution(problem)
    assert task.reward(problem, answered("purple")).value == 0


@needs_package
def test_levels_and_settings_change_the_problems() -> None:
    easy, usual = gym("chain_sum", level=0), gym("chain_sum")
    problems = [easy.problem("train", index) for index in range(10)]
    assert [p.id for p in problems] != [usual.problem("train", i).id for i in range(10)]
    assert easy.describe(problems[0]) == {"dataset": "chain_sum", "level": 0}

    config = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}
    question = gym("chain_sum", config=config).problem("train", 0).fields["question"]
    assert sum(word.isdigit() for word in question.split()) == 2
    nested = gym("chain_sum", "gcd", config={"chain_sum": config})
    assert nested.problem("train", 0).fields["question"] == question

    with pytest.raises(UserError, match=r"config.min_term of dataset chain_sum.*min_terms"):
        gym("chain_sum", config={"min_term": 2}).problem("train", 0)
    with pytest.raises(UserError, match="rejects its configuration"):
        gym("chain_sum", config={"min_terms": -2}).problem("train", 0)


@needs_package
def test_every_template_poses_the_problem() -> None:
    task = gym("gcd")
    problem = task.problem("train", 0)
    question = problem.fields["question"]
    for template in ("compact", "chat", "base", "instruct"):
        assert question in str(task.prompt(problem, template)).replace("\\n", "\n")
    with pytest.raises(UserError, match="answer_only true"):
        task.prompt(problem, "instruct-short")

    short = gym("gcd", answer_only=True)
    turns = short.prompt(problem, "instruct-short")
    assert isinstance(turns, list)
    assert [turn["role"] for turn in turns] == ["system", "user", "assistant", "user"]
    assert turns[3]["content"] == question != turns[1]["content"]
    assert short.reward(problem, f" {problem.fields['answer']}\n").value == 1
    with pytest.raises(UserError, match="instruct-short"):
        short.prompt(problem, "base")


@needs_package
def test_a_process_that_died_is_started_again() -> None:
    first = room().draw(source("gcd"), 0, "train", 0)
    process = room()._process
    assert process is not None
    process.kill()
    assert room().draw(source("gcd"), 0, "train", 0) == first
    assert room()._process is not process


@pytest.mark.slow
@needs_package
def test_check_task_finds_nothing_in_our_graders(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--problems", "3", "--task.datasets", "puzzle24,chain_sum,sokoban,letter_jumble"]
    assert cli.main(["check-task", "reasoning-gym", *flags]) == 0, capsys.readouterr().out


def test_reused_datasets_exist() -> None:
    assert set(DATASETS) >= REUSED


def test_a_problem_of_another_task_cannot_be_confused() -> None:
    fields = {"dataset": "gcd", "question": "", "answer": "3", "given": {}, "seed": 1}
    problem = Problem("gcd:1", fields, "train", "k")
    assert gym("gcd").reward(problem, answered("3")).value == 1
