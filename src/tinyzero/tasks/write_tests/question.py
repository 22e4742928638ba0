"""The wording of a problem: a function, the inputs that it takes, and how many tests to write."""

from __future__ import annotations

from tinyzero.tasks.prompts import posed, worked_examples
from tinyzero.types import Prompt

EXAMPLE = "x+8 if x>5 else x*3"
"""The function of the worked example."""

EXAMPLE_TESTS = "f(5)=15 f(6)=14"
"""Tests that catch every mutant of EXAMPLE."""


def prompt(code: str, max_input: int, max_tests: int, template: str) -> Prompt:
    """The question in `template`, one of `tinyzero.tasks.prompts.TEMPLATES`.

    Raises UserError if there is no such template.

    >>> prompt("x*2 if x<7 else x+9", 20, 4, "compact")
    'x*2 if x<7 else x+9\\n<think>\\n'
    """
    if template == "instruct-short":
        example = (_short_question(EXAMPLE, max_input, max_tests), EXAMPLE_TESTS)
        return worked_examples([example], _short_question(code, max_input, max_tests))

    question = (
        f"Here is a function of a whole number x from 0 to {max_input}: f(x) = {code}. "
        "Write unit tests for it that fail if any number in the function is changed by one. "
        f"Use at most {max_tests} tests. "
        "Show your work in <think> </think> tags. "
        "And return the tests in <answer> </answer> tags, "
        f"for example <answer> {EXAMPLE_TESTS} </answer>."
    )
    return posed(code, question, template)


def _short_question(code: str, max_input: int, max_tests: int) -> str:
    return (
        f"f(x) = {code}, for x from 0 to {max_input}. Write at most {max_tests} tests that fail "
        "if any number in the function is changed by one."
    )
