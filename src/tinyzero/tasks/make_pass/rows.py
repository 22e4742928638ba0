"""Rows of a file in the form of HumanEval or MBPP, as problems with inputs and expected values.

A test such as `assert candidate([1, 2]) == 3` becomes the input `[1, 2]` and the value 3, so that
only the input has to be sent into the sandbox. Tests that are not of this kind are left out.
"""

from __future__ import annotations

import ast
import hashlib
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from tinyzero.errors import UserError
from tinyzero.grading.sandbox import canonical, write_arguments
from tinyzero.tasks.files import read_json

HUMAN_EVAL = ("prompt", "entry_point", "test", "canonical_solution")
MBPP = ("test_list", "code")
SHOWN = 5  # row numbers in a message
CLOSE = 1e-9  # the relative tolerance of math.isclose


class Case(NamedTuple):
    """The arguments of a call as literals, the canonical text of its value, and a tolerance."""

    arguments: str
    expected: str
    tolerance: float | None = None


class Row(NamedTuple):
    """One problem of a file."""

    id: str
    key: str
    fields: Mapping[str, Any]


@cache
def read_rows(path: str) -> tuple[Row, ...]:
    """The problems of a JSONL file, in order. Rows without a usable test are named and left out.

    Raises UserError if the file cannot be read, is not JSONL, has another form, or no usable row.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UserError(f"task.data is {path!r}: {reason}: name a JSONL file") from None

    rows, unusable = [], []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        row = _row(_parsed(line, path, number), f"{path}, line {number}", number)
        if row is None:
            unusable.append(number)
        else:
            rows.append(row)

    if not rows:
        raise UserError(
            f"task.data is {path!r}, which has no row with a test such as "
            "`assert f(1) == 2`: use rows in the form of HumanEval or MBPP"
        )
    if unusable:
        shown = ", ".join(map(str, unusable[:SHOWN])) + (", ..." if unusable[SHOWN:] else "")
        print(
            f"{path}: {len(unusable)} of {len(rows) + len(unusable)} rows have no test that "
            f"compares a call with a value, so they are left out (line {shown})",
            file=sys.stderr,
        )
    return tuple(rows)


def cases_in(statements: Sequence[ast.stmt], function: str) -> Iterator[Case]:
    """The tests among some statements that compare a call of `function` with a literal.

    >>> [one.arguments for one in cases_in(ast.parse("assert f(1, 'a') == [2]").body, "f")]
    ["1, 'a'"]
    """
    for statement in statements:
        if isinstance(statement, ast.Assert):
            try:
                test = _test(statement.test, function)
            except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
                continue
            if test is not None:
                yield test


def _parsed(line: str, path: str, number: int) -> Mapping[str, Any]:
    """The object that a line holds. Raises UserError if it is not one."""
    try:
        row = read_json(line)
    except ValueError as error:
        raise UserError(f"{path}, line {number} is not JSON: {error}") from None
    if not isinstance(row, Mapping):
        raise UserError(f"{path}, line {number} is not a JSON object: write one per line")
    return row


def _row(row: Mapping[str, Any], source: str, number: int) -> Row | None:
    """The problem of a row, or None if none of its tests can be used."""
    try:
        if all(name in row for name in HUMAN_EVAL):
            fields = _human_eval(row)
        elif all(name in row for name in MBPP):
            fields = _mbpp(row)
        else:
            raise UserError(
                f"{source} has the columns {', '.join(map(str, row))}: use those of HumanEval "
                f"({', '.join(HUMAN_EVAL)}) or MBPP ({', '.join(MBPP)} and text or prompt)"
            )
    except (SyntaxError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{source} cannot be understood: {error}") from None
    if fields is None:
        return None

    text = fields["starter"] or fields["question"]
    key = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16]
    return Row(str(row.get("task_id", number)), key, fields)


def _human_eval(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """The fields of a row of HumanEval: a function to complete, and `check(candidate)`."""
    statements = [
        inner
        for outer in ast.parse(row["test"]).body
        if isinstance(outer, ast.FunctionDef) and outer.name == "check"
        for inner in outer.body
    ]
    tests = list(cases_in(statements, "candidate"))
    if not tests:
        return None
    return {
        "question": "",
        "function": row["entry_point"],
        "starter": row["prompt"].strip("\n"),
        "examples": [],
        "tests": [list(test) for test in tests],
        "solution": row["prompt"] + row["canonical_solution"],
    }


def _mbpp(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """The fields of a row of MBPP: a sentence, and a list of tests, of which the first is shown."""
    defined = {
        node.name for node in ast.parse(row["code"]).body if isinstance(node, ast.FunctionDef)
    }
    statements = [
        statement
        for test in (*row["test_list"], *row.get("challenge_test_list", ()))
        for statement in ast.parse(test).body
    ]
    called = [
        node.func.id
        for statement in statements
        for node in ast.walk(statement)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]
    function = next((name for name in called if name in defined), "")
    tests = list(cases_in(statements, function))
    if len(tests) < 2:  # one is shown, so at least one must stay hidden
        return None
    return {
        "question": (row.get("text") or row.get("prompt") or "").strip(),
        "function": function,
        "starter": "",
        "examples": [[tests[0].arguments, tests[0].expected]],
        "tests": [list(test) for test in tests],
        "solution": row["code"],
    }


def _test(node: ast.expr, function: str) -> Case | None:
    """The test that the condition of an `assert` is, or None if it is of another kind."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return _case(node.operand, ast.Constant(False), function)
    if isinstance(node, ast.Call) and ast.unparse(node.func) in ("math.isclose", "isclose"):
        return _close_test(node, function)
    if not isinstance(node, ast.Compare):
        return _case(node, ast.Constant(True), function)

    if len(node.ops) != 1:
        return None
    left, right = node.left, node.comparators[0]
    if isinstance(node.ops[0], ast.Eq | ast.Is):
        return _case(left, right, function) or _case(right, left, function)
    if isinstance(node.ops[0], ast.Lt | ast.LtE):
        return _near_test(left, float(ast.literal_eval(right)), function)
    return None


def _near_test(node: ast.expr, tolerance: float, function: str) -> Case | None:
    """The test `abs(f(...) - value) < tolerance`."""
    is_abs = isinstance(node, ast.Call) and ast.unparse(node.func) in ("abs", "math.fabs")
    if not (isinstance(node, ast.Call) and is_abs and len(node.args) == 1):
        return None
    difference = node.args[0]
    if not (isinstance(difference, ast.BinOp) and isinstance(difference.op, ast.Sub)):
        return None
    left, right = difference.left, difference.right
    case = _case(left, right, function) or _case(right, left, function)
    return None if case is None else case._replace(tolerance=tolerance)


def _close_test(node: ast.Call, function: str) -> Case | None:
    """The test `math.isclose(f(...), value, rel_tol=...)`."""
    if len(node.args) != 2:
        return None
    case = _case(node.args[0], node.args[1], function)
    if case is None:
        return None
    given = {word.arg: float(ast.literal_eval(word.value)) for word in node.keywords}
    size = abs(float(ast.literal_eval(node.args[1])))
    tolerance = max(given.get("rel_tol", CLOSE) * size, given.get("abs_tol", 0.0))
    return case._replace(tolerance=math.nextafter(tolerance, math.inf))


def _case(call: ast.expr, value: ast.expr, function: str) -> Case | None:
    """The test that a call of the function has this value. Raises ValueError if not literals."""
    is_call = isinstance(call, ast.Call) and isinstance(call.func, ast.Name)
    if not (isinstance(call, ast.Call) and is_call and ast.unparse(call.func) == function):
        return None
    if call.keywords:
        return None
    arguments = tuple(ast.literal_eval(argument) for argument in call.args)
    return Case(write_arguments(arguments), canonical(ast.literal_eval(value)))
