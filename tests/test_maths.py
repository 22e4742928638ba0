"""Finding answers, comparing them exactly, and math-verify in a process that can be killed."""

from __future__ import annotations

import json
import sys
import time
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyzero.errors import UserError
from tinyzero.grading import equivalence, judge_group
from tinyzero.grading.answers import AnswerStyle, as_completion, final_answer
from tinyzero.grading.maths import quantity, same_value
from tinyzero.tasks import load_task
from tinyzero.tasks.check import examine

STYLES: tuple[AnswerStyle, ...] = ("tags", "boxed", "hashes", "last-number", "code")


@pytest.mark.parametrize(
    ("style", "text", "found"),
    [
        ("tags", "<think>1</think><answer> 7 </answer>", "7"),
        ("tags", "<answer>1</answer></think><answer>7</answer>", "7"),
        ("tags", "<answer>1</answer></think> 7", None),
        ("tags", "<answer>7", None),
        ("boxed", r"\boxed{1} no, \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        ("boxed", r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        ("boxed", r"\boxed{a\\}", r"a\\"),
        ("boxed", r"\boxed{\frac{1}{2}", None),
        ("boxed", r"\boxed{1}</think>", None),
        ("hashes", "#### 7\n#### 8", "8"),
        ("hashes", "#### 7\nand more", "7"),
        ("hashes", "### 7", None),
        ("last-number", "3 and $1,200.50.", "1,200.50"),
        ("last-number", "x = -3/4", "-3/4"),
        ("last-number", "25% of it", "25%"),
        ("last-number", "a1b2", None),
        ("code", "```python\nx = 1\n```", "x = 1"),
        ("code", "```1``` or ```2```", "2"),
        ("code", "```1", None),
    ],
)
def test_the_last_answer_is_found_in_each_style(
    style: AnswerStyle, text: str, found: str | None
) -> None:
    assert final_answer(text, style) == found


@pytest.mark.parametrize("style", STYLES)
def test_an_answer_comes_back_as_it_was_written(style: AnswerStyle) -> None:
    assert final_answer(as_completion("1,234", style), style) == "1,234"
    assert final_answer("", style) is None
    if style != "last-number":
        assert final_answer(as_completion("7" * 1001, style), style) is None


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(
    "part", ["1" * 10, "\\boxed{", "```", "####\n", "<answer>", "</think>", "{"]
)
def test_no_text_takes_long(style: AnswerStyle, part: str) -> None:
    start = time.process_time()
    final_answer(part * (2_000_000 // len(part)), style)
    assert time.process_time() - start < 1


@given(st.text(alphabet="<>answer/think{}\\boxed#`1,.$%- \n\ud800", max_size=80))
@settings(max_examples=150, deadline=None)
def test_any_text_can_be_searched_and_compared(text: str) -> None:
    for style in STYLES:
        answer = final_answer(text, style)
        assert answer is None or len(answer) <= 1000
    assert same_value(text, text) in (True, False, None)


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("72", 72, ""),
        ("-1,234.50", Fraction(-2469, 2), ""),
        ("\u22123", -3, ""),
        (".5", Fraction(1, 2), ""),
        ("5.", 5, ""),
        ("6/4", Fraction(3, 2), ""),
        (r"\frac{6}{4}", Fraction(3, 2), ""),
        (r"-\dfrac12", Fraction(-1, 2), ""),
        ("2 1/2", Fraction(5, 2), ""),
        (r"$2\frac{1}{2}$", Fraction(5, 2), ""),
        (r"-1\frac{1}{4}", Fraction(-5, 4), ""),
        ("1{,}234", 1234, ""),
        ("x = 5", 5, ""),
        ("**5**", 5, ""),
        ("$5", 5, "dollar"),
        (r"\$1,200", 1200, "dollar"),
        ("-€3", -3, "euro"),
        ("18 dollars", 18, "dollar"),
        (r"50\%", 50, "percent"),
        ("50 percent", 50, "percent"),
        (r"90^\circ", 90, "degree"),
        (r"5\text{ cm}", 5, "centimetre"),
        ("5 square metres", 5, "metre squared"),
        ("5 m^2", 5, "metre squared"),
        ("60 km/h.", 60, "km/h"),
    ],
)
def test_a_number_is_read_exactly(text: str, value: Fraction | int, unit: str) -> None:
    found = quantity(text)
    assert found is not None
    assert (found.value, found.unit) == (value, unit)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "seventy",
        "72 or 73",
        "72 73",
        "12,34",
        "1,2,3",
        "1/0",
        "1 2 3",
        "9**9",
        "0x10",
        "1e5",
        "٣",
    ],
)
def test_what_is_not_one_number_is_not_read(text: str) -> None:
    assert quantity(text) is None


@pytest.mark.parametrize(
    ("expected", "answer", "same"),
    [
        ("1/3", "0.333333333333", False),
        ("0.1", "1/10", True),
        ("50", "50%", True),
        ("0.5", "50%", True),
        ("50%", "5000%", False),
        ("50%", "0.5", True),
        ("50%", "50 dollars", False),
        ("5", "5 cm", True),
        ("5 cm", "5", True),
        ("5 cm", "5 m", False),
        ("5 m^2", "5 m", False),
        ("blue", r"\text{Blue}.", True),
        ("blue", "lube", False),
        ("72", "72 monkeys", False),
        ("72", "72\n73", False),
        ("72", "72, 73", False),
        ("(1, 2)", "(2, 1)", None),
        ("x+1", "1+x", None),
        ("x+1", "x+1, 1+x", False),
        ("", "", False),
    ],
)
def test_what_reading_decides(expected: str, answer: str, same: bool | None) -> None:
    assert same_value(expected, answer) is same


@given(
    st.fractions(), st.sampled_from(["{0}/{1}", "\\frac{{{0}}}{{{1}}}", "$\\dfrac{{{0}}}{{{1}}}$"])
)
@settings(max_examples=50, deadline=None)
def test_fractions_of_any_size_are_exact(value: Fraction, form: str) -> None:
    text = form.format(value.numerator, value.denominator)
    found = quantity(text)
    assert found is not None
    assert found.value == value
    assert same_value(text, str(value + 1)) is False


# --- math-verify

HANGING = {
    "a tower of powers": "9**9**9**9",
    "a factorial": "10000000!",
    "brackets": "(" * 3000 + "1" + ")" * 3000,
    "a long sum": "1+" * 20_000 + "1",
    "a long product": "x^{2}" * 300,
}
MOST_SECONDS = equivalence.SECONDS * equivalence.PATIENCE + 5  # by the clock of a busy machine


@pytest.fixture(scope="module", autouse=True)
def math_verify() -> None:
    pytest.importorskip("math_verify", reason="needs math-verify")


@pytest.mark.parametrize(
    ("expected", "answer", "same"),
    [
        ("(x+1)^2", "x^2+2x+1", True),
        (r"\sqrt{4}", "2", True),
        (r"\{1,2\}", r"\{2,1\}", True),
        ("[1,2)", "[1,2]", False),
        (r"5\pi", r"\pi \cdot 5", True),
        ("x", "y", False),
        ("72", "((((", False),
    ],
)
def test_math_verify_decides_formulas(expected: str, answer: str, same: bool) -> None:
    assert equivalence.equivalent(expected, answer) is same


def test_a_text_that_hangs_costs_its_limit_and_is_a_timeout() -> None:
    equivalence.prepare()
    timeouts = 0
    for text in HANGING.values():
        start = time.monotonic()
        try:
            assert not equivalence.equivalent("72", text)
        except TimeoutError:
            timeouts += 1
        assert time.monotonic() - start < MOST_SECONDS
    assert timeouts >= 3, "the others run out of memory, which is decided at once"

    start = time.monotonic()
    with pytest.raises(TimeoutError, match="before"):
        equivalence.equivalent("72", HANGING["a factorial"])
    assert time.monotonic() - start < 1, "the same comparison is not tried again"
    assert equivalence.equivalent("x+2", "2+x"), "and others are compared as before"


@pytest.fixture
def task(tmp_path: Path) -> object:
    path = tmp_path / "rows.jsonl"
    rows = [
        {"question": f"What is {n} halves?", "answer": f"\\frac{{{n}}}{{2}}"} for n in range(40)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_task("rows", {"data": str(path), "check": "math", "style": "boxed"})


def test_the_task_reports_a_timeout_and_goes_on(task: object) -> None:
    problem = task.problem("train", 0)  # type: ignore[attr-defined]
    half = problem.fields["answers"][0]
    texts = [
        f"\\boxed{{{text}}}" for text in (HANGING["a factorial"], f"{half}+x-x", half, "words")
    ]
    rewards = [verdict.reward for verdict in judge_group(task, [problem] * 4, texts)]  # type: ignore[arg-type]
    assert [reward.value for reward in rewards if reward] == [0, 1, 1, 0]
    assert [reward.failure for reward in rewards if reward] == ["timeout", None, None, None]


@pytest.mark.slow
def test_check_task_passes_on_maths(task: object) -> None:
    assert examine(task, 20, seconds=20).failures == []  # type: ignore[arg-type]


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "math_verify", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'tinyzero\[maths\]', or compare numbers"):
        load_task("rows", {"data": "rows.jsonl", "check": "math"})
