"""How a completion tests: how many tests it has, which are true, and which mutants they catch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from tinyzero.tasks.arithmetic.thinking import ratios, thinking_of
from tinyzero.tasks.base import Event
from tinyzero.tasks.write_tests.functions import Condition, Function, Value, mutants
from tinyzero.tasks.write_tests.suites import TEST, UnitTest, is_true

_JUDGED = re.compile(r"^([0-9]{1,3})(<=|>=|==|<|>)([0-9]{1,3}) (yes|no)$", re.MULTILINE)
_STEP = re.compile(r"^([0-9]{1,3})([-+*])([0-9]{1,3})=(-?[0-9]{1,6})$", re.MULTILINE)

RATIOS: dict[str, tuple[str, str]] = {
    "behaviour/tests": ("tests", "readable"),
    "behaviour/tests_true": ("tests_true", "tests"),
    "behaviour/tests_repeated": ("tests_repeated", "tests"),
    "behaviour/boundary_caught": ("boundary_caught", "boundary_mutants"),
    "behaviour/value_caught": ("value_caught", "value_mutants"),
    "behaviour/guessed": ("guessed", "answers"),
    "behaviour/steps_true": ("steps_true", "steps"),
}
"""Each metric is one count of `measure` divided by another, both summed over completions."""


def measure(
    function: Function, suite: Sequence[UnitTest] | None, text: str, max_input: int
) -> dict[str, int]:
    """Counts that describe one completion, whose tests are `suite`: None if none could be read."""
    tests = suite or []
    inputs = {test.x for test in tests if is_true(function, test)}
    of_kind = {
        kind: [m.caught_at for m in mutants(function, max_input) if m.in_condition == kind]
        for kind in (True, False)
    }

    truths = _steps(thinking_of(text)[0])
    return {
        "answers": 1,
        "readable": suite is not None,
        "tests": len(tests),
        "tests_true": sum(is_true(function, test) for test in tests),
        "tests_repeated": len(tests) - len({test.x for test in tests}),
        "boundary_mutants": len(of_kind[True]),
        "boundary_caught": sum(not inputs.isdisjoint(at) for at in of_kind[True]),
        "value_mutants": len(of_kind[False]),
        "value_caught": sum(not inputs.isdisjoint(at) for at in of_kind[False]),
        "guessed": not truths,
        "steps": len(truths),
        "steps_true": sum(truths),
    }


def summarise(counts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Metrics over many completions, from the counts of each of them.

    A metric without anything to measure is left out.
    """
    return ratios(RATIOS, counts)


def _steps(thinking: str) -> list[bool]:
    """Whether each comparison and each calculation in the thinking is true."""
    judged = [
        Condition(comparison, int(number)).holds(int(x)) == (verdict == "yes")
        for x, comparison, number, verdict in _JUDGED.findall(thinking)
    ]
    computed = [
        Value(operator, int(number)).at(int(x)) == int(result)
        for x, operator, number, result in _STEP.findall(thinking)
    ]
    return judged + computed


def events(function: Function, text: str, max_input: int) -> list[Event]:
    """The tests of a completion after its thinking, in the order of the text."""
    thinking, closed = thinking_of(text)
    start = len(thinking) if closed else 0
    boundary_mutants = [m for m in mutants(function, max_input) if m.in_condition]

    marked = []
    for match in TEST.finditer(text, start):
        test = UnitTest(int(match[1]), int(match[2]))
        if not is_true(function, test):
            kind = "false"
        elif any(test.x in mutant.caught_at for mutant in boundary_mutants):
            kind = "boundary"
        else:
            kind = "test"
        marked.append(Event(kind, match.start(), match.end()))
    return marked
