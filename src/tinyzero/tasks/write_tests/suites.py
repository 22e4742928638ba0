"""Reading the tests in an answer, and the reward for them."""

from __future__ import annotations

import re
from typing import NamedTuple

from tinyzero.grading.answers import SPACES
from tinyzero.tasks.write_tests.functions import Function, compute, mutants
from tinyzero.types import Reward

# Nothing in these patterns is tried twice (`*+` gives nothing back), and the length of a test is
# limited, so the time to read or to search a text is proportional to its length.
_NUMBER = r"(0|-?[1-9][0-9]{0,8})"
TEST = re.compile(rf"f ?\( ?{_NUMBER} ?\) ?={{1,2}} ?{_NUMBER}(?![0-9.])")
"""One test; its groups are the input and the expected value."""

_SEPARATOR = re.compile(r"[ \t\r\n]*+[,;]?+[ \t\r\n]*+")


class UnitTest(NamedTuple):
    """One test: `f(3)=11` is `UnitTest(3, 11)`."""

    x: int
    expected: int

    @property
    def code(self) -> str:
        """The test as an answer has it."""
        return f"f({self.x})={self.expected}"


def read_suite(answer: str, most: int, max_input: int) -> list[UnitTest] | None:
    """The tests in an answer, which has nothing else. They are only read, never run as code.

    Tests are separated by spaces, line breaks, commas or semicolons. None if there is no test, if
    there are more than `most`, if an input is not from 0 to `max_input`, or for any other text.

    >>> read_suite("f(6)=12 f(7)=16", most=4, max_input=20)
    [UnitTest(x=6, expected=12), UnitTest(x=7, expected=16)]
    >>> read_suite("f(6)=6*2", most=4, max_input=20) is None
    True
    """
    suite: list[UnitTest] = []
    answer = answer.strip(SPACES)
    position = 0
    while position < len(answer):
        test = TEST.match(answer, position)
        if not test or len(suite) == most or not 0 <= int(test[1]) <= max_input:
            return None
        suite.append(UnitTest(int(test[1]), int(test[2])))

        separator = _SEPARATOR.match(answer, test.end())
        position = separator.end() if separator else test.end()
        if position == test.end() < len(answer):
            return None
    return suite or None


def is_true(function: Function, test: UnitTest) -> bool:
    """Whether the function returns what the test expects."""
    return compute(function, test.x) == test.expected


def share_caught(function: Function, suite: list[UnitTest], max_input: int) -> float:
    """The share of the mutants that a suite of true tests catches."""
    inputs = {test.x for test in suite}
    caught = [not inputs.isdisjoint(m.caught_at) for m in mutants(function, max_input)]
    return sum(caught) / len(caught)


def suite_reward(function: Function, suite: list[UnitTest] | None, max_input: int) -> Reward:
    """The share of the mutants that the tests catch; 0 if a test is false or unreadable.

    The answer is right if the tests catch every mutant. Parts: `answer` (1 if it is right),
    `format` (1 if the tests could be read), and `true` (1 if all of them are true).
    """
    is_all_true = suite is not None and all(is_true(function, test) for test in suite)
    value = share_caught(function, suite, max_input) if suite and is_all_true else 0.0
    right = value == 1
    parts = {
        "answer": float(right),
        "format": float(suite is not None),
        "true": float(is_all_true),
    }
    return Reward(value, parts, right)
