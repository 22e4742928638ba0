"""Thinking in free text: agreement with labelled completions, and texts counted by hand."""

import re
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyzero.tasks.arithmetic.chains import chains, fold, is_true
from tinyzero.tasks.arithmetic.thinking import MAX_CHARACTERS
from tinyzero.tasks.countdown import display
from tinyzero.tasks.countdown import thinking as behaviours
from tinyzero.tasks.countdown.thinking import KINDS, Event, events, measure
from tinyzero.tasks.countdown.thinking.compact import is_compact
from tinyzero.tasks.multiplication import thinking as products
from tinyzero.types import Problem

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import behaviour_f1

FIELDS = {"numbers": [3, 5, 12], "target": 24}
PROBLEM = Problem("3,5,12=24", FIELDS, "dev", "3,5,12")

BOUNDS = {"compact": 0.95, "free": 0.85}


@pytest.mark.parametrize("half", [0, 1], ids=["tuned_on", "held_out"])
@pytest.mark.parametrize("file", BOUNDS)
def test_rules_and_labels_agree(file: str, half: int) -> None:
    chosen = behaviour_f1.rows(file, half)
    low = {
        kind: f1 for kind, (_, _, f1, _) in behaviour_f1.scores(chosen).items() if f1 < BOUNDS[file]
    }
    assert low == {}
    assert behaviour_f1.faithful(chosen) >= BOUNDS[file]


def test_enough_is_labelled_and_read_as_what_it_is() -> None:
    for file, least in (("free", 60), ("compact", 40)):
        chosen = behaviour_f1.rows(file, 0) + behaviour_f1.rows(file, 1)
        assert len(chosen) >= least
        assert all(is_compact(behaviour_f1.text_of(row)) == (file == "compact") for row in chosen)
        assert {
            label for row in chosen for _, labels in row["sentences"] for label in labels.split()
        } <= set(behaviour_f1.KINDS)


# the false events per completion of an untrained real model, by the part of the labelled ones
FLOORS = {"tuned on": 0.05, "held out": 0.25, "fresh": 0.15}


@pytest.mark.parametrize("part", FLOORS)
def test_little_is_found_that_is_not_there(part: str) -> None:
    chosen = [
        row for file, half in behaviour_f1.NOISE[part] for row in behaviour_f1.rows(file, half)
    ]
    assert len(chosen) >= 30
    assert behaviour_f1.noise(chosen)["all"][1] <= FLOORS[part]


def test_the_report_states_the_floor() -> None:
    chosen = behaviour_f1.rows("fresh", 0) + behaviour_f1.rows("fresh", 1)
    [says] = [chart.says for chart in display.CHARTS if chart.title == "Checks and new starts"]
    assert f"about {behaviour_f1.noise(chosen)['all'][1]:.2f} per answer" in says


def test_the_noise_of_a_completion() -> None:
    row = {
        "numbers": [3, 5, 12],
        "target": 24,
        "labelled": ["attempt", "right", "no", "subgoal"],
        "sentences": [["12 * (5 - 3) = 24. ", "attempt"], ["I need 8. ", ""], ["So no.", "no"]],
    }
    noise = behaviour_f1.noise([row, row | {"sentences": []}])
    assert noise == {
        "attempt": (1 / 2, 0, 0),
        "right": (1 / 2, 1 / 2, 0),  # it is not labelled
        "no": (1 / 2, 0, 0),
        "subgoal": (1 / 2, 1 / 2, 0),
        "all": (3 / 2, 1 / 2, 0),
    }


def test_a_poor_agreement_is_noticed() -> None:
    row = {
        "numbers": [3, 5, 12],
        "target": 24,
        "sentences": [["12 - 3 = 9. ", "attempt"], ["12 - 5 = 7.", "step"]],
    }
    scores = behaviour_f1.scores([row])
    assert scores["attempt"] == (0, 0, 0, 1)
    assert scores["step"] == (1 / 2, 1, 2 / 3, 1)


def test_an_interval_is_that_of_completions() -> None:
    right = {
        "numbers": [3, 5, 12],
        "target": 24,
        "sentences": [["12 - 3 = 9. ", "step"], ["12 - 5 = 7.", "step"]],
    }
    wrong = right | {"sentences": [["12 - 3 = 9. ", ""], ["12 - 5 = 7.", ""]]}
    assert behaviour_f1.intervals([right]) == {"step": (1, 1)}
    # each kind is drawn twice in a quarter of the draws
    low, high = behaviour_f1.intervals([right, wrong])["step"]
    assert (low, high) == (0, 1)
    low, high = behaviour_f1.intervals([right] * 20 + [wrong] * 20)["step"]
    assert 0.45 < low < 2 / 3 < high < 0.85  # a normal of F1 = 2 p / (1 + p), p with deviation .08


FOUND = """I need an 8, as 24 / 3 = 8.
Let's try 12 - 5 = 7. That is not 8.
Instead, 12 - 3 = 9 and 9 * 5 = 55, too high.
12 * (5 - 3) = 12 * 2 = 24. That's our target!
Let me check: 5 - 3 = 2, 2 * 12 = 24.
</think>
<answer>(5 - 3) * 12</answer>"""


def test_every_event_of_a_text_and_its_position() -> None:
    found = [(kind, FOUND[start:end], detail) for kind, start, end, detail in events(FOUND, FIELDS)]
    assert found == [
        ("subgoal", "need an 8", "8"),
        ("step", "24 / 3 = 8", ""),
        ("backward", "24 / 3 = 8", ""),
        ("step", "12 - 5 = 7", ""),
        ("backtrack", "Instead", "said"),
        ("step", "12 - 3 = 9", ""),
        ("step", "9 * 5 = 55", ""),
        ("slip", "9 * 5 = 55", ""),
        ("attempt", "9 * 5 = 55", "45"),
        ("verification", "too high", "no"),
        ("step", "12 * (5 - 3) = 12 * 2 = 24", ""),
        ("step", "12 * (5 - 3) = 12 * 2 = 24", ""),
        ("backtrack", "12 * (5 - 3) = 12 * 2 = 24", "silent"),
        ("attempt", "12 * (5 - 3) = 12 * 2 = 24", "24"),
        ("right", "12 * (5 - 3) = 12 * 2 = 24", ""),
        ("verification", "That's our target", "yes"),
        ("claim", "That's our target", "(*(+5-3)*12)"),
        ("step", "5 - 3 = 2", ""),
        ("step", "2 * 12 = 24", ""),
        ("selfcheck", "2 * 12 = 24", ""),
    ]


def test_every_count_of_a_text() -> None:
    counts = measure(PROBLEM, FOUND)
    assert {name: number for name, number in counts.items() if number} == {
        "completions": 1,
        "characters": FOUND.index("\n</think>"),
        "free": 1,
        "attempts": 2,
        "distinct_attempts": 2,
        "steps": 8,
        "steps_right": 7,
        "verdicts": 2,
        "claims": 1,
        "claims_true": 1,
        "backtracks": 2,
        "backtracks_said": 1,
        "backtracks_silent": 1,
        "subgoals": 1,
        "backward": 1,
        "checked": 1,
        "found": 1,
        "first_hit": 2,
        "first_hit_characters": FOUND.index(". That's our"),
        "early_attempts": 2,
        "early_hits": 1,
        "hits": 1,
        "hits_claimed": 1,
        "succeeded": 1,
        "continued_characters": len("!\nLet me check: 5 - 3 = 2, 2 * 12 = 24."),
        "claimed_answers": 1,
        "faithful": 1,
    }


def test_every_count_of_a_text_that_goes_wrong() -> None:
    text = (
        "12 * 5 - 3 = 57, which is not 24. Wait, 5 * 12 - 3 = 57, no. 12 + 5 + 3 = 20? "
        "5 - 3 = 2 and 12 * 2 = 26, so that doesn't work. 12 + 12 = 24, done! "
        "But I can't find another one.\n</think>\n<answer>12 + 5 + 3</answer>"
    )
    counts = measure(PROBLEM, text)
    assert {name: number for name, number in counts.items() if number} == {
        "completions": 1,
        "characters": text.index("\n</think>"),
        "free": 1,
        "attempts": 4,
        "distinct_attempts": 3,
        "repeats": 1,  # 5*12-3
        "steps": 6,
        "steps_right": 5,  # 12*2 is not 26
        "verdicts": 4,
        "misjudged": 2,  # no to 12*(5-3), yes to 12+12
        "claims": 1,
        "backtracks_said": 1,
        "backtracks_silent": 3,
        "backtracks": 4,  # at "Wait", and silently at 12+5+3, 5-3 and 12+12
        "found": 1,
        "first_hit": 4,
        "first_hit_characters": text.index(", so that"),
        "early_attempts": 3,
        "hits": 1,
        "claimed_answers": 1,
    }


@pytest.mark.parametrize(
    ("text", "goals"),
    [
        ("How can I make 2? 5 - 3 = 2.", ["2 made"]),
        ("How can I make 2? 12 * (5 - 3) = 24.", ["2 made"]),  # on the way
        ("How can I make 2? 12 - 5 = 2.", ["2"]),  # it is 7
        ("I need to get 8. 4 + 4 = 8.", ["8"]),  # from numbers that are not there
        ("I need an 8, as 24 / 3 = 8.", ["8"]),  # from the target
        ("I need an 8, as 24 / 3 = 8. So 5 + 3 = 8.", ["8 made"]),
        ("5 + 3 = 8. I need to get 8.", ["8"]),  # before
        (
            "I need to get 8. I also need to get 7. 12 - 5 = 7. I need to get 8. 5 + 3 = 8",
            ["8 made", "7 made", "8 made"],
        ),
    ],
)
def test_subgoals_that_are_made(text: str, goals: list[str]) -> None:
    assert [event.detail for event in events(text, FIELDS) if event.kind == "subgoal"] == goals
    counts = measure(PROBLEM, text)
    assert counts["subgoals"] == len(goals)
    assert counts["subgoals_made"] == sum("made" in goal for goal in goals)


def kinds(text: str, *left_out: str) -> list[str]:
    """The kinds of the events, with verdicts as yes or no, without steps and claims."""
    names = [
        event.detail if event.kind == "verification" else event.kind
        for event in events(text, FIELDS)
    ]
    return [name for name in names if name not in ("step", "claim", *left_out)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("12 - 3 = 9 * 5 = 45", ["attempt"]),  # runs on
        ("12 minus 3 is 9. Multiply that by 5 to get 45", ["attempt"]),
        (
            "Subtract 3 from 12 to get 9, then multiply 9 by 5, which gives us 44.",
            ["slip", "attempt"],
        ),
        (r"\[12 \times \left(5 - 3\right) = 24\] ✓", ["attempt", "right", "yes"]),
        (r"\frac{12}{3} + 5 = 9", ["attempt"]),
        ("12 ÷ 3 × 5 = 20 ≠ 24", ["attempt", "no"]),
        (
            "- 12 - 3 - 5 = 4 (no)\n- 12 - 3 + 5 = 14 (no)",
            ["attempt", "no", "backtrack", "attempt", "no"],
        ),
        ("1. 12 * 5 * 3 = 180\n2. 12 + 5 * 3 = 27", ["attempt", "backtrack", "attempt"]),
        ("Try (12 - 3) * 5. That gives 45. It's too high.", ["attempt", "no"]),
        ("(12 - 3) * 5: 12 - 3 = 9, 9 * 5 = 45", ["attempt"]),  # worked out, not made again
        ("12 / 5 = 2.4, 2.4 * 3 = 7.2", ["attempt"]),
        ("5 / 3 = 1.67", []),  # rounded
        ("5 / 3 = 1.66", ["slip"]),
        ("5 / 3 = 2", ["slip"]),  # a whole number is not rounded
        ("12 * 12 = 144", []),  # 12 is given once
        ("I need to reach 24. 12 + 12 is not allowed.", []),
        ("12 + 5 = 17. We need to get to 24.", []),
        ("12 + 5 = 17, which is close to 20.", []),
        ("12 + 5 = 17, which is less than 24.", ["no"]),
        ("12 + 5 = 17. Close, but not 24. It's too low.", ["no"]),  # said again
        ("12 + 5 = 17. Is it 24?", []),
        ("Let's try different combinations.", []),  # nothing is given up yet
        ("12 + 5 = 17. Alternatively, let's try again. Or start over.", ["backtrack"]),  # one turn
        (
            "12 * (5 - 3) = 24. Yes! Wait, let me verify: 5 - 3 = 2, 12 * 2 = 24.",
            ["attempt", "right", "yes", "selfcheck"],
        ),
        # quoted
        ("12 * (5 - 3) = 24. So the equation is 12 * (5 - 3) = 24.", ["attempt", "right"]),
        ("To get 24 I need 3 * 8.", ["backward"]),
        ("24 = 12 * (5 - 3).", ["attempt", "right"]),  # not backward: all numbers are there
        ("How can I make 2? I can't get 24.", ["subgoal", "giveup"]),
        ("12 + 5 + 3 = 20.\n</think>\n<answer>12 + 5 + 3</answer>", ["attempt", "giveup"]),
        ("12 + 12 = 24.\n</think>\n<answer>12 + 12</answer>", []),  # accepted as the solution
        ("12 + 5 + 3 = 20.\n</think>\n", ["attempt"]),
    ],
)
def test_the_events_of_short_texts(text: str, found: list[str]) -> None:
    assert kinds(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        # work over numbers that are neither given nor results
        ("1 + 2 = 7, 2 * 7 = 14. The answer is 24.", ["slip"]),
        ("1 + 2 = 7. Wait, let's try another way: 7 * 2 = 14, too low.", ["slip"]),
        ("1 + 2 = 7. I need to get 8.", ["slip"]),
        ("24 + 7 = 31.", []),  # not backward: 7 comes from nowhere
        ("24 - 12 = 12.", ["backward"]),
        ("24 / 8 = 3, so I need 8.", ["backward", "subgoal"]),  # a given number is the result
        ("12 + 5 = 17, 1 + 2 = 3. So that's not 24.", []),  # about 1 + 2
        ("12 + 5 = 18, 18 + 3 = 21, too low.", ["slip", "attempt", "no"]),  # from a wrong result
        ("12 + 12 = 24, that works!", ["yes", "misjudged"]),  # 12 is given, though only once
        # quotes of the question
        ("12 + 5 = 17. We are asked to create an equation that equals 24.", []),
        ("12 + 5 = 17. The goal is that it equals 24.", []),
        (
            "We are asked to make 24, and 12 * (5 - 3) = 24, that's the target.",
            [
                "attempt",
                "right",
                "yes",
            ],
        ),
        # other numbers and words
        ("12 + 5 = 17. Note that 3 * 7 != 5 * 15.", []),
        ("12 + 5 = 17 != 24.", ["no"]),
        ("12 + 5 = 17 != the target.", ["no"]),
        ("12 + 5 = 17. 24 is not an integer because 24 is even.", []),
        ("12 + 5 = 17. We cannot use 24 here.", []),
        ("Use [12, 5, 3] to get [17, 8, 15].", []),
        ("I need to go from 1 to 4 cycles.", []),
        ("The answer must be 46.", []),
        ("It must be 46.", ["subgoal"]),
        ("So, the answer is no.", ["giveup"]),
        ("I ran out of the integer.", []),
        ("I ran out of options.", ["giveup"]),
        # an answer that is never closed
        ("12 + 5 = 17.\n<answer>\nIt is too low. Wait, 12 + 3 = 15.", []),
        ("I put it into <answer> tags. 12 + 5 = 17, too low.", ["no"]),
        ("<answer>12 + 5</answer> is 17. 12 + 5 = 17, too low.", ["no"]),
    ],
)
def test_talk_that_is_about_nothing_given(text: str, found: list[str]) -> None:
    assert kinds(text) == found


TERSE = (
    "12*5=60, 60-3=57 (too high)\n12*3=36, 36-5=31 (too high)\n5-3=2, 2*12=24 (that's the target!)"
)


@pytest.mark.parametrize(
    "text", [TERSE, TERSE.replace(", ", ","), re.sub("([-*=])", r" \1 ", TERSE)]
)
@pytest.mark.parametrize("end", ["", "\n</think>\n<answer>(5-3)*12</answer>"])
def test_free_text_that_begins_its_lines_as_the_grammar_does(text: str, end: str) -> None:
    assert kinds(text + end) == [
        "attempt",
        "no",
        "backtrack",
        "attempt",
        "no",
        "backtrack",
        "attempt",
        "right",
        "yes",
    ]
    counts = measure(PROBLEM, text + end)
    assert (counts["free"], counts["gave_up"], counts["faithful"]) == (1, 0, bool(end))


@pytest.mark.parametrize(
    ("text", "compact"),
    [
        ("12-3=9,9*5=45 vs 24 no\n", True),
        ("12-3=9,9*5=45\n", True),
        ("12-3=9, 9*5=45\n", False),
        ("12-3=9,9*5=45 (no)\n", False),
        ("12-3=9,9*5=45.\n</think>", False),
        ("12-3=9,9*5=45 vs 24 no\nwell\n</think>", True),  # half of it
        ("12-3=9,9*5=45 vs 24 no\nwell\nno\n</think>", False),
        *(
            (text, True)
            for text in (
                "12-3=9",
                "12-3=9,",
                "12-3=9,9*",
                "12-3=9 v",
                "12-3=9 vs 2",
                "12-3=9 vs 24 y",
            )
        ),
        ("12-3=9 vs 2\n</think>", False),  # not cut
        ("12-3=9 which", False),
    ],
)
def test_which_texts_are_compact(text: str, compact: bool) -> None:
    assert is_compact(text) == compact


@pytest.mark.parametrize(
    ("sentence", "parts"),
    [
        ("5 times 9 gives us 45", [("*", 5, 9), 45]),
        ("then add 5", [("+", 7, 5)]),
        ("That is 3", [None, 3]),
        ("90 - -62 = 152", [("-", 90, -62), 152]),
        ("3 5 12", []),
        ("a2 * 3b = 6, 4th + 5 = 9", []),
        ("1234567890 + 1 = 2", []),
    ],
)
def test_chains(sentence: str, parts: list[object]) -> None:
    assert [part for chain in chains(fold(sentence), last=7) for part in chain.parts] == parts


def test_a_result_from_rounded_numbers_may_be_off_by_a_thousandth() -> None:
    assert is_true(("*", 72, 3.4783), 250.43)  # type: ignore[arg-type]
    assert not is_true(("*", 72, 3.4783), 249.79)  # type: ignore[arg-type]


def test_folding_keeps_every_position() -> None:
    text = r"A × B ÷ \frac{12}{3} − 5。 İ"
    assert len(fold(text)) == len(text)
    assert fold(text).endswith("- 5\n İ")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("37 * 48 = 37 * (40 + 8) = 37 * 40 + 37 * 8 = 1,480 + 296 = 1776", (1, 0, 4, 4)),
        ("First 37 times 40 is 1480. Then 7 × 8 = 58.", (0, 1, 2, 1)),
        ("37 * 48 = 1776.", (0, 0, 1, 1)),
        ("37*40=1480, 37*8=296\n1480+296=1776, so 1776", (1, 0, 3, 3)),  # not the grammar
    ],
)
def test_a_product_in_free_text(text: str, found: tuple[int, int, int, int]) -> None:
    counts = products.measure(37, 48, f"{text}\n</think>\n<answer>1776</answer>")
    assert (
        tuple(counts[name] for name in ("decomposed", "decomposed_partly", "steps", "steps_right"))
        == found
    )


PIECES = [
    *(
        "12",
        "3",
        "5",
        "9",
        "24",
        "2.5",
        " - ",
        "+",
        " * ",
        "/",
        " = ",
        "(",
        ")",
        ",",
        ". ",
        "\n",
        "? ",
        "not ",
        "is ",
    ),
    *(
        "which gives ",
        "too high",
        "wait, ",
        "let me check: ",
        "I need ",
        "to get ",
        "that's ",
        "works! ",
        "× ",
        "\\frac{",
    ),
    *(
        "12 * (5 - 3) = 24",
        "12 - 3 = 9",
        "the target",
        "can't find ",
        "</think>",
        "<answer>",
        "</answer>",
        "multiply it by ",
    ),
]


def check(text: str, fields: dict[str, object]) -> None:
    """Check what is true of the events of every text."""
    found = events(text, fields)
    assert found == sorted(found, key=lambda event: event.start)
    assert {event.kind for event in found} <= set(KINDS)
    assert all(0 <= event.start <= event.end <= len(text) for event in found)
    spans = {kind: [(e.start, e.end) for e in found if e.kind == kind] for kind in KINDS}
    assert set(spans["right"]) | set(spans["repeat"]) <= set(spans["attempt"])
    assert set(spans["misjudged"]) <= set(spans["verification"])
    assert set(spans["slip"]) <= set(spans["step"])
    counts = behaviours.count(found, text)
    assert counts["repeats"] <= counts["attempts"]
    assert counts["hits_claimed"] <= counts["hits"] <= counts["attempts"]
    assert counts["claims_true"] <= counts["claims"] <= counts["verdicts"]


@settings(deadline=None, max_examples=300)
@given(st.lists(st.sampled_from(PIECES), max_size=50).map("".join))
def test_any_arithmetic_talk_is_read(text: str) -> None:
    check(text, FIELDS)


@settings(deadline=None)
@given(st.text(), st.lists(st.integers(-5, 99), max_size=6), st.integers(-5, 100))
def test_any_text_is_read(text: str, numbers: list[int], target: int) -> None:
    check(text, {"numbers": numbers, "target": target})


@pytest.mark.parametrize(
    "piece",
    [
        "(",
        "1 + ",
        "wait, 12 * 5 = 60, too high. ",
        "9",
        "to need 24 ",
        "12 times 3 and ",
        "add 3 ",
        "go back ",
    ],
)
def test_garbage_is_bounded(piece: str) -> None:
    text = piece * (2 * MAX_CHARACTERS // len(piece))
    assert all(event.end <= MAX_CHARACTERS for event in events(text, FIELDS))


def test_events_have_the_form_that_the_report_needs() -> None:
    assert Event("attempt", 3, 8) == ("attempt", 3, 8, "")
