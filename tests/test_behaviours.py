"""Behaviours of completions that were written by hand; every number is counted by hand."""

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyzero.tasks import load_task
from tinyzero.tasks.arithmetic.expressions import (
    Expression,
    Step,
    canonical,
    parse,
    subexpressions,
    value,
)
from tinyzero.tasks.arithmetic.thinking import MAX_CHARACTERS, ratios
from tinyzero.tasks.countdown import thinking as behaviours
from tinyzero.tasks.countdown.thinking import measure, summarise, trace
from tinyzero.tasks.multiplication import thinking as products
from tinyzero.types import Problem, Split

NUMBERS, TARGET = [3, 5, 12], 24
PROBLEM = Problem("3,5,12=24", {"numbers": NUMBERS, "target": TARGET}, "dev", "3,5,12")


def problem(numbers: list[int], target: int) -> Problem:
    return Problem("p", {"numbers": numbers, "target": target}, "dev", "k")


SOLVED = """12-3=9,9*5=45 vs 24 no
12/3=4,5*4=20 vs 24 no
5-3=2,12*2=24 vs 24 yes
</think>
<answer>12*(5-3)</answer>"""

# Line by line: an attempt, the same attempt in another order, a hit with a false step that gets a
# no, a false claim after a slip, a claim for the wrong target with two numbers, a line without a
# verdict, and nonsense.
MESSY = """5+3=8,12+8=20 vs 24 no
12+3=15,15+5=20 vs 24 no
5-3=3,12*3=36 vs 24 no
12-3=9,9+5=24 vs 24 yes
5*5=25 vs 25 yes
12*5=60,60/3=20
let me think
</think>
<answer>5-3*12</answer>"""


def test_a_solved_completion() -> None:
    first, second, third = trace(NUMBERS, TARGET, SOLVED)
    assert first.steps == (Step(12, "-", 3, 9), Step(9, "*", 5, 45))
    assert [a.legal for a in (first, second, third)] == [True] * 3
    assert [a.hits for a in (first, second, third)] == [False, False, True]
    assert [a.verdict for a in (first, second, third)] == [False, False, True]
    assert [a.stated for a in (first, second, third)] == [45, 20, 24]
    assert [a.restated for a in (first, second, third)] == [24] * 3


def test_every_count_of_a_solved_completion() -> None:
    assert measure(PROBLEM, SOLVED) == {
        "completions": 1,
        "characters": 23 + 23 + 23,
        "lines": 3,
        "attempts": 3,
        "distinct_attempts": 3,
        "repeats": 0,
        "steps": 6,
        "steps_right": 6,
        "legal": 3,
        "judged": 3,
        "targets_right": 3,
        "equal": 1,
        "equal_claimed": 1,
        "unequal": 2,
        "unequal_claimed": 0,
        "verdicts": 3,
        "misjudged": 0,
        "claims": 1,
        "claims_true": 1,
        "backtracks": 2,
        "backtracks_said": 0,
        "backtracks_silent": 2,
        "checked": 0,
        "found": 1,
        "first_hit": 3,
        "first_hit_characters": 23 + 23 + 13,  # two lines, and the steps of the third
        "early_attempts": 3,
        "early_hits": 1,
        "hits": 1,
        "hits_claimed": 1,
        "succeeded": 1,
        "continued_characters": 0,
        "free": 0,
        "subgoals": 0,
        "subgoals_made": 0,
        "backward": 0,
        "gave_up": 0,
        "direct": 0,
        "claimed_answers": 1,
        "faithful": 1,
    }


def test_every_count_of_a_messy_completion() -> None:
    assert measure(PROBLEM, MESSY) == {
        "completions": 1,
        "characters": 23 + 25 + 23 + 24 + 17 + 16 + 12,
        "lines": 6,  # all but "let me think"
        "attempts": 5,  # all but 5*5=25
        "distinct_attempts": 4,
        "repeats": 1,  # 12+3+5 after 5+3+12
        "steps": 11,
        "steps_right": 9,  # 5-3=3 and 9+5=24 are false
        "legal": 5,
        "judged": 5,
        "targets_right": 4,  # 25 is not the target
        "equal": 1,  # 9+5=24 states the target
        "equal_claimed": 1,
        "unequal": 4,
        "unequal_claimed": 1,  # 25
        "verdicts": 5,
        "misjudged": 3,  # no to (5-3)*12, and both claims
        "claims": 2,
        "claims_true": 0,  # 9+5 is 14; 5*5 uses 5 twice
        "backtracks": 3,  # the second, third and fourth line come after a no
        "backtracks_said": 0,
        "backtracks_silent": 3,
        "checked": 0,
        "found": 1,
        "first_hit": 3,  # (5-3)*12 hits although it states 36
        "first_hit_characters": 23 + 25 + 13,
        "early_attempts": 3,
        "early_hits": 1,
        "hits": 1,
        "hits_claimed": 0,
        "succeeded": 0,
        "continued_characters": 0,
        "free": 0,
        "subgoals": 0,
        "subgoals_made": 0,
        "backward": 0,
        "gave_up": 0,
        "direct": 0,
        "claimed_answers": 1,
        "faithful": 0,  # the answer 5-3*12 was never tried
    }


def test_every_metric_over_both() -> None:
    assert summarise([measure(PROBLEM, SOLVED), measure(PROBLEM, MESSY)]) == {
        "behaviour/attempts": 8 / 2,
        "behaviour/distinct_attempts": 7 / 2,
        "behaviour/repeat_rate": 1 / 8,
        "behaviour/legal_rate": 8 / 9,
        "behaviour/arithmetic_accuracy": 15 / 17,
        "behaviour/verifications": 8 / 2,
        "behaviour/verification_precision": 1 / 3,
        "behaviour/verification_recall": 1 / 2,
        "behaviour/misjudged": 3 / 8,
        "behaviour/verdict_rate": 8 / 9,
        "behaviour/target_restated": 7 / 8,
        "behaviour/recognition_recall": 2 / 2,
        "behaviour/false_claim_rate": 1 / 6,
        "behaviour/backtracks": 5 / 2,
        "behaviour/backtracks_said": 0.0,
        "behaviour/backtracks_silent": 5 / 2,
        "behaviour/characters_per_attempt": (69 + 140) / 8,
        "behaviour/continued_characters": 0.0,
        "behaviour/self_checked": 0.0,
        "behaviour/found_rate": 2 / 2,
        "behaviour/first_hit": 6 / 2,
        "behaviour/first_hit_characters": (59 + 61) / 2,
        "behaviour/early_hit_rate": 2 / 6,
        "behaviour/gave_up": 0.0,
        "behaviour/direct": 0.0,
        "behaviour/faithful": 1 / 2,
    }


@pytest.mark.parametrize(
    ("name", "module"), [("countdown", behaviours), ("multiplication", products)]
)
def test_a_task_defines_and_draws_each_of_its_metrics_and_no_other(name: str, module: Any) -> None:
    task = load_task(name)
    assert {key for key in task.glossary if key.startswith("behaviour/")} == set(module.RATIOS)
    assert {key for c in task.charts for key, _ in c.lines} == set(module.RATIOS)
    assert set(task.highlights) <= set(module.RATIOS)


def test_ratios_name_counts_that_exist() -> None:
    for module, counts in (
        (behaviours, measure(PROBLEM, "")),
        (products, products.measure(7, 8, "")),
    ):
        assert {count for pair in module.RATIOS.values() for count in pair} <= set(counts)


def test_a_ratio_is_one_sum_over_another() -> None:
    counts = [{"right": 1, "all": 2}, {"right": 0, "all": 6}, {}]
    wanted = {"share": ("right", "all"), "none": ("all", "nothing")}
    assert ratios(wanted, counts) == {"share": 1 / 8}


def test_nothing_to_measure_is_left_out() -> None:
    assert summarise([]) == {}
    assert summarise([{}]) == {}
    assert summarise([measure(PROBLEM, "")]) == {
        "behaviour/attempts": 0.0,
        "behaviour/distinct_attempts": 0.0,
        "behaviour/verifications": 0.0,
        "behaviour/backtracks": 0.0,
        "behaviour/backtracks_said": 0.0,
        "behaviour/backtracks_silent": 0.0,
        "behaviour/self_checked": 0.0,
        "behaviour/found_rate": 0.0,
        "behaviour/gave_up": 0.0,
        "behaviour/direct": 0.0,
    }


def test_the_thinking_after_the_first_true_yes() -> None:
    more = "12+5=17 vs 24 no\n"  # 16 characters and its newline
    before = "5-3=2,12*2=24 vs 24 yes\n"
    ends = {
        before: 0,
        more + before: 0,
        before + more: 17,
        before + more + before + more: 17 + 24 + 17,
    }
    for text, continued in ends.items():
        counts = measure(PROBLEM, text + "</think>")
        assert (counts["succeeded"], counts["continued_characters"]) == (1, continued)


class Addition:
    """A task with the fields of a product and one of Countdown's, which measures nothing."""

    def problem(self, split: Split, index: int) -> Problem:
        fields = {"a": index, "b": 34, "numbers": [index, 34], "target": index + 34}
        return Problem(str(index), fields, split, f"{split}{index}")

    def prompt(self, problem: Problem, template: str) -> str:
        return f"{problem.fields['a']}+{problem.fields['b']}\n"

    def reward(self, problem: Problem, text: str) -> float:
        return float(f"<answer>{problem.fields['target']}</answer>" in text)

    def solution(self, problem: Problem) -> str:
        return f"<answer>{problem.fields['target']}</answer>"


def test_a_task_that_measures_nothing_is_not_measured_whatever_its_fields() -> None:
    task = load_task(f"{__file__}:Addition")
    text = "12*34=408\n</think>\n<answer>46</answer>"
    measured = task.measure(task.problem("dev", 12), text)
    assert measured == {}
    assert task.summarise([measured]) == {}
    assert task.mark(task.problem("dev", 12), text) == ()


@pytest.mark.parametrize(
    ("text", "direct", "gave_up"),
    [
        ("</think>\n<answer>12*(5-3)</answer>", True, False),
        ("12-3=9,9*5=45 vs 24 no\n</think>\n<answer>12-3*5</answer>", False, True),
        # without a verdict there is no claim
        ("12-3=9,9*5=45\n</think>\n<answer>12-3*5</answer>", False, True),
        (SOLVED, False, False),
        ("12-3=9,9*5=45 vs 24 no\n", False, False),  # no answer
        ("<answer>12*(5-3)</answer>", False, False),  # still thinking
    ],
)
def test_direct_answers_and_giving_up(text: str, direct: bool, gave_up: bool) -> None:
    counts = measure(PROBLEM, text)
    assert (counts["direct"], counts["gave_up"]) == (direct, gave_up)


@pytest.mark.parametrize(
    ("line", "steps", "legal", "verdict"),
    [
        ("12-3=9,9*5=45 vs 24 no", 2, True, False),
        ("12-3=9,9*5=45", 2, True, None),
        ("12-3=9,9*5=45 vs 24 maybe", 2, True, None),
        ("12-3=9,9*5=45 vs 24 no.", 2, True, None),
        ("12-3=9,9*5=45,", 2, True, None),
        ("12-3=9 vs 24 no", 1, False, False),  # 5 is left over
        ("12-3=9,9*3=27 vs 24 no", 2, False, False),  # 3 twice
        ("12-3=9,9*7=63 vs 24 no", 2, False, False),  # 7 is not given
        ("12-3=9,12-5=7 vs 24 no", 2, False, False),  # 12 twice
        ("12-3=9,5*9=45,45-5=40 vs 24 no", 3, False, False),  # continues after all are used
        ("3-5=-2,-2+12=10 vs 24 no", 2, True, False),  # continues with a negative result
        ("12-3=9,9*5=4五", 2, True, None),  # digits of another script do not count
        ("12-3=9;9*5=45", 1, False, None),
    ],
)
def test_lines(line: str, steps: int, legal: bool, verdict: bool | None) -> None:
    (attempt,) = trace(NUMBERS, TARGET, line + "\n")
    assert (len(attempt.steps), attempt.legal, attempt.verdict) == (steps, legal, verdict)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "so 12-3=9",
        " 12-3=9",
        "12 - 3 = 9",
        "12-3",
        "12-3=",
        "1234567890-3=9",
        "12^3=9",
        "１２-3=9",
        "=9",
    ],
)
def test_lines_without_a_step(line: str) -> None:
    assert trace(NUMBERS, TARGET, line + "\n") == []


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("12-3=9,9*5=4", 1),  # it may have become 45
        ("12-3=9,9*5=45", 1),
        ("12-3=9,9*", 1),
        ("12-3=9,9*5=45 vs 2", 2),
        ("12-3=9", 0),
        ("12-3=9\n", 1),
        ("12-3=9</think>", 1),
    ],
)
def test_a_result_cut_short_is_not_counted(text: str, steps: int) -> None:
    assert sum(len(attempt.steps) for attempt in trace(NUMBERS, TARGET, text)) == steps


def test_one_two_and_three_steps_for_two_three_and_four_numbers() -> None:
    assert trace([4, 6], 24, "4*6=24 vs 24 yes\n")[0].hits
    assert trace([2, 2, 3, 4], 24, "2/2=1,3*4=12,1*12=12 vs 24 no\n")[0].legal
    assert not trace([2, 2, 3, 4], 24, "2*3=6,6*4=24 vs 24 yes\n")[0].hits  # a 2 is left over


def test_division_is_exact() -> None:
    (attempt,) = trace([2, 7, 8], 24, "7/2=3,3*8=24 vs 24 yes\n")
    assert not attempt.steps[0].is_true
    assert attempt.legal
    assert not attempt.hits  # 7/2*8 is 28
    assert trace([2, 7, 8], 28, "7/2=3,3*8=24 vs 28 no\n")[0].hits


def test_division_by_zero_is_false_and_worth_nothing() -> None:
    (attempt,) = trace([5, 5, 7], 24, "5-5=0,7/0=24 vs 24 yes\n")
    assert [step.is_true for step in attempt.steps] == [True, False]
    assert attempt.legal
    assert not attempt.hits
    assert trace([5, 5, 7], 0, "5-5=0,0/7=0\n")[0].hits


def test_a_result_is_taken_before_an_equal_given_number() -> None:
    (attempt,) = trace([9, 3, 3, 2], 9, "3*3=9,9*2=18,18-9=9 vs 9 yes\n")
    assert attempt.legal
    assert attempt.form == canonical(("-", ("*", ("*", 3, 3), 2), 9))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("+", 3, 5), ("+", 5, 3)),
        (("+", ("+", 3, 5), 12), ("+", 3, ("+", 12, 5))),
        (("-", ("-", 12, 3), 5), ("-", 12, ("+", 3, 5))),
        (("-", 12, ("-", 5, 3)), ("+", ("-", 12, 5), 3)),
        (("*", ("/", 12, 3), 5), ("/", ("*", 5, 12), 3)),
        (("/", 12, ("/", 3, 5)), ("*", 12, ("/", 5, 3))),
        (("*", ("-", 5, 3), 12), ("*", 12, ("-", 5, 3))),
        (("*", ("-", 5, 3), ("-", 12, 7)), ("*", ("-", 7, 12), ("-", 3, 5))),
        (("-", 12, ("*", ("-", 3, 5), 7)), ("+", 12, ("*", 7, ("-", 5, 3)))),
    ],
)
def test_reordering_and_regrouping_is_not_a_new_attempt(one: Expression, other: Expression) -> None:
    assert canonical(one) == canonical(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("-", 3, 5), ("-", 5, 3)),
        (("/", 3, 5), ("/", 5, 3)),
        (("+", 3, 5), ("*", 3, 5)),
        (("*", ("+", 3, 5), 12), ("+", 3, ("*", 5, 12))),
        (("+", 1, 23), ("+", 12, 3)),
        (("-", 12, ("-", 5, 3)), ("-", ("-", 12, 5), 3)),
        (("*", 12, ("-", 5, 3)), ("*", 12, ("-", 3, 5))),
        (("-", 12, ("*", ("-", 3, 5), 7)), ("-", 12, ("*", 7, ("-", 5, 3)))),
    ],
)
def test_other_expressions_are_other_attempts(one: Expression, other: Expression) -> None:
    assert canonical(one) != canonical(other)


@pytest.mark.parametrize(
    ("answer", "faithful"),
    [
        ("12*(5-3)", True),
        (" ( 5 - 3 ) * 12 ", True),
        ("((12))*(5-3)", True),
        ("-(3-5)*12", True),
        ("12*-(3-5)", True),
        ("-12 * (3 - 5)", True),
        ("-(-12)*(5-3)", True),
        ("(-3+5)*12", True),
        ("-(5-3)*12", False),
        ("(3-5)*12", False),
        ("-", False),
        ("-" * 30 + "12*(5-3)", True),
        ("12*5-3", False),
        ("12/3*5", False),  # tried, but rejected
        ("12*(5-3", False),
        ("12*(5-3))", False),
        ("24", False),
        ("", False),
        ("12**(5-3)", False),
        ("12*(5-3)=24", False),
        ("(" * 5000, False),
    ],
)
def test_faithful_means_the_answer_is_the_attempt_marked_yes(answer: str, faithful: bool) -> None:
    counts = measure(PROBLEM, SOLVED.replace("12*(5-3)", answer))
    assert counts["faithful"] == faithful


def test_a_text_after_the_thinking_is_not_an_attempt() -> None:
    assert trace(NUMBERS, TARGET, "</think>\n5-3=2,12*2=24 vs 24 yes\n") == []


LONG = (
    "40*6=240,7*6=42,240+42=282\n40*3=120,7*3=21,120+21=141\n1410+282=1692\n"
    "</think>\n<answer>1692</answer>"
)


@pytest.mark.parametrize(
    ("a", "b", "text", "found"),
    [
        (47, 36, LONG, (4, 4, 4)),
        (36, 47, LONG, (4, 4, 4)),
        (47, 36, "47*30=1,47*6=2", (4, 4, 2)),  # although the result is wrong
        (47, 36, "30*47=1410\n6*47=282\n", (4, 4, 2)),
        (47, 36, "47*36=1692", (0, 4, 0)),
        (47, 36, "47*36=1692,47*6=282,47*3=141", (4, 4, 2)),
        (47, 36, "4*3=12\n7*6=42\n12+42=54", (2, 4, 2)),
        (47, 36, "4*3=12,4*3=12", (1, 4, 1)),  # said twice, needed once
        (44, 30, "40*3=120,4*3=12", (2, 2, 2)),
        (47, 36, "5*3=15,40+30=70", (0, 4, 0)),
        (7, 8, "7*8=56", (1, 1, 1)),
        (0, 36, "0*36=0", (0, 0, 0)),
        (123, 45, "123*5=615,123*4=492", (6, 6, 2)),
    ],
)
def test_a_product_broken_down(a: int, b: int, text: str, found: tuple[int, int, int]) -> None:
    factors = [(int(x), int(y)) for x, y in re.findall(r"(\d+)\*(\d+)", text)]
    assert products.decomposition(a, b, factors) == found


def test_the_share_of_products_broken_down() -> None:
    texts = [
        LONG,
        LONG.replace("120+21=141", "120+21=131"),
        "4*3=12,7*6=42,1200+42=1242\n</think>",
        "</think>\n<answer>9</answer>",
        "47*6=282,47*3=141",  # cut before the thinking ended
    ]
    found = products.summarise([products.measure(47, 36, text) for text in texts])
    assert found == {
        "behaviour/arithmetic_accuracy": 16 / 17,
        "behaviour/decomposed": 2 / 5,
        "behaviour/decomposed_partly": 1 / 5,
    }
    assert products.summarise([products.measure(7, 8, "7*8=56</think>")]) == {
        "behaviour/arithmetic_accuracy": 1.0
    }


@given(st.integers(0, 999), st.integers(0, 999))
def test_long_multiplication_covers_every_pair(a: int, b: int) -> None:
    rows = [(10**i * int(x), int(y)) for i, x in enumerate(reversed(str(a))) for y in str(b)]
    covered, pairs, _ = products.decomposition(a, b, rows)
    assert covered == pairs == sum(x != "0" for x in str(a)) * sum(y != "0" for y in str(b))


TREES = st.recursive(
    st.integers(1, 9), lambda part: st.tuples(st.sampled_from("+-*/"), part, part), max_leaves=6
)


def written(expression: Expression) -> str:
    if not isinstance(expression, tuple):
        return str(expression)
    return f"({written(expression[1])}{expression[0]}{written(expression[2])})"


@given(TREES)
def test_a_minus_before_a_bracket_negates_it(expression: Expression) -> None:
    text = written(expression)
    worth, negated = value(expression), parse(f"-{text}")
    assert parse(text) == expression
    assert negated is not None
    assert value(negated) == (None if worth is None else -worth)
    if all(value(part) for part in [expression, *subexpressions(expression)]):  # 0 has either sign
        assert canonical(parse(f"-(-{text})")) == canonical(expression)  # type: ignore[arg-type]
        assert canonical(negated) != canonical(expression)


PIECES = [
    *("12", "3", "5", "9", "0", "-", "+", "*", "/", "=", ",", "(", ")", "\n", " ", "x", "\0", "٣"),
    *(" vs 24 yes", " vs 24 no", "12-3=9", "9*5=45", "5-3=2,12*2=24 vs 24 yes\n"),
    *("</think>", "<answer>", "</answer>"),
]


def check_counts(counts: dict[str, Any]) -> None:
    """Check what is true of the counts of every completion."""
    assert all(value >= 0 for value in counts.values())
    for above, below in behaviours.RATIOS.values():
        if (
            below not in ("completions", "free")
            and above in counts
            and below != "found"
            and "characters" not in above
        ):
            assert counts[above] <= counts[below]
    assert counts["equal"] + counts["unequal"] == counts["judged"] <= counts["lines"]
    assert counts["free"] or counts["equal_claimed"] + counts["unequal_claimed"] == counts["claims"]
    assert counts["backtracks_said"] + counts["backtracks_silent"] == counts["backtracks"]
    assert 0 <= counts["continued_characters"] <= counts["characters"]
    assert counts["distinct_attempts"] + counts["repeats"] == counts["attempts"]
    assert bool(counts["hits"]) == counts["found"]
    assert counts["first_hit"] <= counts["attempts"]


@settings(deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=60).map("".join))
def test_any_near_grammar_is_measured(text: str) -> None:
    check_counts(measure(PROBLEM, text))


@settings(deadline=None)
@given(st.text(), st.lists(st.integers(0, 99), max_size=6), st.integers(-5, 100))
def test_any_text_is_measured(text: str, numbers: list[int], target: int) -> None:
    check_counts(measure(problem(numbers, target), text))


@pytest.mark.parametrize(
    "text",
    [
        "1-1=0," * 200_000,
        "<answer>" * 125_000 + "</think>",
        "9" * 10**6,
        "\n" * 10**6,
        "12-3=9\n" * 150_000,
    ],
)
def test_a_megabyte_is_bounded(text: str) -> None:
    counts = measure(PROBLEM, text)
    assert counts["steps"] <= MAX_CHARACTERS / len("1-1=0")
